"""The shared noise: a counter-based pseudo-random function of (seed, position, token id), turned into Gumbel noise.

Device and edge compute the same noise from the same seed, so both can make the same random choice (see
`airdraft.core.schemes.coupled`). docs/protocol.md defines the function bit by bit, with test vectors. It depends on no
library's generator:

    mix(z)             the finaliser of SplitMix64 (Steele, Lea, Flood 2014), a bijection of 64-bit integers
    key(seed, t)       mix(mix(seed + GAMMA) + (t + 1) * GAMMA)
    word(seed, t, v)   mix(key(seed, t) ^ mix((v + 1) * GAMMA))
    u                  ((word >> 12) + 1/2) * 2^-52, strictly between 0 and 1
    G                  -log(-log(u))

The token is mixed before it meets the key, so two rows are never the same stream at two offsets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
WordArray = NDArray[np.uint64]

GAMMA = 0x9E3779B97F4A7C15
M1 = 0xBF58476D1CE4E5B9
M2 = 0x94D049BB133111EB
MASK = (1 << 64) - 1

# Rows are filled in pieces of this many words: few calls, and scratch arrays that fit the cache.
_PIECE = 32768


def mix(z: int) -> int:
    """Apply SplitMix64's finaliser to one 64-bit integer."""
    z &= MASK
    z = ((z ^ (z >> 30)) * M1) & MASK
    z = ((z ^ (z >> 27)) * M2) & MASK
    return z ^ (z >> 31)


def row_key(seed: int, position: int) -> int:
    """Return the 64-bit key of one row of noise. `position` is the chosen token's index in the whole sequence."""
    return mix(mix(seed + GAMMA) + (position + 1) * GAMMA)


# The mixer in two parts. The first shift is linear, fold(a ^ b) = fold(a) ^ fold(b), so it runs once for each token.


def _fold(z: WordArray, shift: int, scratch: WordArray) -> None:
    np.right_shift(z, np.uint64(shift), out=scratch)
    np.bitwise_xor(z, scratch, out=z)


def _mix_folded(z: WordArray, scratch: WordArray, last: bool = True) -> None:
    np.multiply(z, np.uint64(M1), out=z)
    _fold(z, 27, scratch)
    np.multiply(z, np.uint64(M2), out=z)
    if last:
        _fold(z, 31, scratch)


@lru_cache(maxsize=8)
def _token_words(vocab_size: int) -> WordArray:
    """Compute the fixed part of every row: mix((v + 1) * GAMMA), folded, for every token v. uint64 [vocab_size]."""
    words = np.arange(1, vocab_size + 1, dtype=np.uint64)
    words *= np.uint64(GAMMA)
    scratch = np.empty_like(words)
    _fold(words, 30, scratch)
    _mix_folded(words, scratch)
    _fold(words, 30, scratch)
    words.flags.writeable = False
    return words


def _pieces(
    seed: int, position: int, vocab_size: int, ids: IntArray | None, out: WordArray | None = None, last: bool = True
) -> Iterator[tuple[slice, WordArray]]:
    """Yield word(seed, position, v) for the tokens `ids` (all if None) piece by piece: where it lies, and the words.

    out: where all are put; None: each piece takes the place of the one before. last: whether to do the last shift.
    """
    words, size = _token_words(vocab_size), vocab_size if ids is None else ids.size
    key = row_key(seed, position)
    folded_key = np.uint64(key ^ (key >> 30))
    scratch, place = np.empty((2, min(_PIECE, size)), np.uint64)
    for at in range(0, size, _PIECE):
        piece = slice(at, min(at + _PIECE, size))
        z = place[: piece.stop - at] if out is None else out[piece]
        fixed = words[piece] if ids is None else words.take(ids[piece], out=z, mode="clip")  # the mode without a copy
        np.bitwise_xor(fixed, folded_key, out=z)
        _mix_folded(z, scratch[: z.size], last)
        yield piece, z


def gumbel(seed: int, position: int, vocab_size: int, ids: IntArray | None = None) -> FloatArray:
    """Compute standard Gumbel noise for the tokens `ids` (all if None) at `position`. float64 [len(ids)].

    The argmax of log-probabilities plus this noise is a draw from the distribution (Gumbel 1954; Maddison, Tarlow,
    Minka 2014).
    """
    out = np.empty(vocab_size if ids is None else ids.size)
    for piece, word in _pieces(seed, position, vocab_size, ids, out.view(np.uint64)):
        u = out[piece]
        # The 52 high bits become the fraction of a double in [1, 2); the half step keeps u away from both 0 and 1.
        np.right_shift(word, np.uint64(12), out=word)
        np.bitwise_or(word, np.uint64(0x3FF0000000000000), out=word)
        np.subtract(u, 1.0 - 2.0**-53, out=u)
        np.log(u, out=u)
        np.negative(u, out=u)
        np.log(u, out=u)
        np.negative(u, out=u)
    return out


def loud(seed: int, position: int, vocab_size: int, ids: IntArray | None, bound: float) -> IntArray:
    """Find the tokens of `ids` (all if None) whose noise at `position` may exceed a bound. int64 [m].

    No logarithm is taken: noise rises with its word.
    """
    # The mixer's last shift leaves the 31 high bits as they are, so it is spared.
    lowest = np.uint64(_word_below(bound) >> 33 << 33)
    pieces = _pieces(seed, position, vocab_size, ids, last=False)
    index = np.concatenate([piece.start + np.flatnonzero(words >= lowest) for piece, words in pieces])
    return index if ids is None else ids[index]


def _word_below(noise: float) -> int:
    """Return a word that is surely no higher than the lowest one whose noise exceeds `noise`."""
    share = math.exp(-math.exp(-max(noise, -6.0)))
    return min(max(0, int(share * 2.0**64) - (1 << 13)), MASK)
