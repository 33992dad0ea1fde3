"""Bit-packed integers of any width, and distributions rounded to integers.

A device rounds a distribution to integers, samples from those and sends them. So decode(encode(x)) == x to the bit,
and rounding cannot bias the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from airdraft.core.noise import FloatArray, IntArray
from airdraft.errors import Code, RemoteProtocolError

SMALL = 64
"""Most integers that are read one by one, which is faster for a few."""
PIECE = 1 << 14
"""Integers read at once, whose scratch arrays fit the cache."""


def id_width(vocab_size: int) -> int:
    """Number of bits that hold any token id."""
    return max(1, (vocab_size - 1).bit_length())


class BitWriter:
    """Packs runs of integers, most significant bit first; the last byte is padded with zeros."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint8]] = []

    def write(self, values: np.ndarray | Sequence[int], width: int) -> None:
        """Append `values`, whole numbers with 0 <= value < 2**width and width <= 32."""
        octets = np.asarray(values, dtype=">u4").reshape(-1, 1).view(np.uint8)
        self._runs.append(np.unpackbits(octets, axis=1)[:, 32 - width :].reshape(-1))

    def write_long(self, value: int, width: int) -> None:
        """Append one whole number, 0 <= value < 2**width, of any width."""
        octets = np.frombuffer(value.to_bytes(-(-width // 8), "big"), np.uint8)
        self._runs.append(np.unpackbits(octets)[-width % 8 :])

    def bytes(self) -> bytes:
        """Return everything written so far."""
        return np.packbits(np.concatenate(self._runs)).tobytes() if self._runs else b""


class BitReader:
    """Reads what a `BitWriter` packed. A body that is too short or too long is the peer's fault."""

    def __init__(self, data: bytes) -> None:
        self._octets = np.frombuffer(data, np.uint8)
        self._at = 0  # in bits

    def read(self, count: int, width: int, dtype: DTypeLike = np.int64) -> NDArray[Any]:
        """Read the next `count` integers of `width` bits, at most 32, or of any width as `object`. [count] of `dtype`.

        A count is compared with the bytes before anything is made for it, and takes no memory but for the result and an
        eighth of it or so.
        """
        start, end = self._at, self._at + count * width
        if end > 8 * self._octets.size:
            raise RemoteProtocolError(
                Code.GARBAGE, f"a body ends after {8 * self._octets.size} bits where {end} were announced"
            )
        self._at = end
        if count <= SMALL:
            word = int.from_bytes(self._octets[start // 8 : -(-end // 8)].tobytes(), "big") >> -end % 8
            return np.array([word >> at * width & (1 << width) - 1 for at in reversed(range(count))], dtype)
        found, lanes = np.empty(count, dtype), 8 // math.gcd(width, 8)
        for lane in range(lanes):  # every integer of a lane begins at the same bit of its byte
            at, skipped = divmod(start + lane * width, 8)
            size, stride = -(-(skipped + width) // 8), width * lanes // 8
            spare = 8 * size - skipped - width
            into = found[lane::lanes]
            for piece in range(0, into.size, PIECE):
                part = into[piece : piece + PIECE]
                first = at + piece * stride
                words: NDArray[Any] = np.zeros(part.size, np.uint64 if size > 4 else np.uint32)
                for octet in range(size):
                    np.left_shift(words, 8, out=words)
                    np.bitwise_or(words, self._octets[first + octet :: stride][: part.size], out=words)
                np.right_shift(words, spare, out=words)
                np.bitwise_and(words, (1 << width) - 1, out=part, casting="unsafe")
        return found

    def finish(self) -> None:
        """Check that only padding is left."""
        left = 8 * self._octets.size - self._at
        if left >= 8 or (left and self._octets[-1] & (1 << left) - 1):
            raise RemoteProtocolError(Code.GARBAGE, f"a body has {left} bits more than were announced")


def pack(ids: Sequence[int], vocab_size: int) -> bytes:
    """Pack token ids, `id_width` bits each."""
    out = BitWriter()
    out.write(ids, id_width(vocab_size))
    return out.bytes()


def unpack(data: bytes, count: int, vocab_size: int) -> list[int]:
    """Invert `pack`. Raises: `RemoteProtocolError` unless these are `count` ids of the vocabulary."""
    packed = BitReader(data)
    ids: list[int] = packed.read(count, id_width(vocab_size)).tolist()
    packed.finish()
    if max(ids, default=0) >= vocab_size:
        raise RemoteProtocolError(Code.GARBAGE, "an id is no token of the vocabulary")
    return ids


def lattice(probs: FloatArray, total: int) -> IntArray:
    """Round a distribution to integers that sum to `total`, by largest remainder, ties to the lower index.

    Args: probs: float64 [m], summing to 1.
    Returns: int64 [m], non-negative. The nearest lattice point in L1 (QS: quantise-and-sample).
    """
    exact = probs * total
    counts = np.floor(exact).astype(np.int64)
    short = total - int(counts.sum())
    if short > 0:
        counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    elif short < 0:  # rounding of probs * total alone pushed the floors past the total
        counts[int(np.argmax(counts))] += short
    return counts
