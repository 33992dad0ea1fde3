"""The shared noise has the same bits as a slow reimplementation, and is as random as it claims."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.noise import IntArray, WordArray, _pieces, gumbel

from ..suites import examples

BITS = (1 << 64) - 1


def noise_words(seed: int, position: int, vocab: int, ids: IntArray | None = None) -> WordArray:
    """The words behind the noise of some tokens, or all."""
    out = np.empty(vocab if ids is None else ids.size, np.uint64)
    assert sum(words.size for _, words in _pieces(seed, position, vocab, ids, out)) == out.size
    return out


def slow_word(seed: int, position: int, token: int) -> int:
    """Compute the definition of docs/protocol.md in plain integers, without any code of the implementation."""

    def finalise(value: int) -> int:
        value ^= value >> 30
        value = value * 13787848793156543929 & BITS
        value ^= value >> 27
        value = value * 10723151780598845931 & BITS
        return value ^ (value >> 31)

    golden = 11400714819323198485
    key = finalise((finalise((seed + golden) & BITS) + (position + 1) * golden) & BITS)
    return finalise(key ^ finalise((token + 1) * golden & BITS))


def slow_gumbel(word: int) -> float:
    return -math.log(-math.log((2 * (word >> 12) + 1) / 2**53))


@given(st.integers(0, (1 << 63) - 1), st.integers(0, 1 << 20), st.integers(1, 300), st.data())
@examples(150)
def test_the_noise_is_its_definition(seed: int, position: int, vocab: int, data: st.DataObject) -> None:
    ids = np.array(data.draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=6)))
    words = noise_words(seed, position, vocab, ids)
    assert words.tolist() == [slow_word(seed, position, token) for token in ids.tolist()]
    expected = [slow_gumbel(word) for word in words.tolist()]
    assert np.allclose(gumbel(seed, position, vocab, ids), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("vocab", [1, 2, 32767, 32768, 32769, 70000])
def test_some_tokens_have_the_noise_of_all(vocab: int) -> None:
    """Rows are made in pieces, whose borders must not matter."""
    ids = np.unique(np.array([0, vocab // 2, min(32767, vocab - 1), min(32768, vocab - 1), vocab - 1]))
    assert np.array_equal(noise_words(5, 9, vocab)[ids], noise_words(5, 9, vocab, ids))
    assert np.array_equal(gumbel(5, 9, vocab)[ids], gumbel(5, 9, vocab, ids))
    assert noise_words(5, 9, vocab)[ids].tolist() == [slow_word(5, 9, token) for token in ids.tolist()]
    assert np.array_equal(gumbel(5, 9, vocab), gumbel(5, 9, vocab + 1000)[:vocab])


def test_the_noise_is_finite_at_both_ends() -> None:
    assert math.isfinite(slow_gumbel(0))
    assert math.isfinite(slow_gumbel(BITS))
    assert slow_gumbel(BITS) > 36 > -3.6 > slow_gumbel(0)


def uniforms(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint64(12)).astype(np.float64) / 2**52


def field(seeds: range, positions: range, vocab: int) -> np.ndarray:
    """Compute words, [seeds, positions, vocab]."""
    return np.array([[noise_words(s, t, vocab) for t in positions] for s in seeds])


def test_words_are_uniform() -> None:
    from scipy import stats

    words = field(range(6), range(20), 1000).reshape(-1)
    assert stats.kstest(uniforms(words), "uniform").pvalue > 1e-3
    assert np.unique(words).size == words.size
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert (np.abs(bits - 0.5) < 5 * 0.5 / math.sqrt(words.size)).all()
    low = uniforms(words << np.uint64(40))
    assert stats.kstest(low, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["seeds", "positions", "tokens"])
@pytest.mark.parametrize("lag", [1, 2, 3, 16])
def test_neighbours_have_nothing_in_common(axis: int, lag: int) -> None:
    words = field(range(40), range(40), 60)
    a, b = np.moveaxis(words, axis, 0)[:-lag].reshape(-1), np.moveaxis(words, axis, 0)[lag:].reshape(-1)
    bound = 4.5 / math.sqrt(a.size)
    assert abs(np.corrcoef(uniforms(a), uniforms(b))[0, 1]) < bound
    flips = np.unpackbits((a ^ b).view(np.uint8)).mean()
    assert abs(flips - 0.5) < 4.5 * 0.5 / math.sqrt(64 * a.size)


def test_two_rows_are_not_one_stream_read_at_two_offsets() -> None:
    """A single counter over positions and tokens would give rows that are shifts of each other."""
    rows = [noise_words(seed, position, 500) for seed in range(8) for position in range(40)]
    assert len({word for row in rows for word in row.tolist()}) == len(rows) * 500
    differences = {int(a[0] ^ b[0]) for a in rows[:30] for b in rows[:30] if a is not b}
    assert all(int(a[1] ^ b[1]) not in differences for a in rows[:30] for b in rows[:30] if a is not b)


def test_the_noise_is_gumbel() -> None:
    from scipy import stats

    values = np.concatenate([gumbel(seed, position, 2000) for seed in range(5) for position in range(10)])
    assert abs(values.mean() - np.euler_gamma) < 0.02
    assert abs(values.var() - math.pi**2 / 6) < 0.05
    assert stats.kstest(values, "gumbel_r").pvalue > 1e-3


def test_large_seeds_and_positions_are_taken_whole() -> None:
    seeds = [0, 1, (1 << 32) - 1, 1 << 32, (1 << 63) - 1]
    positions = [0, 1, 1 << 20, 1 << 33]
    words = {int(noise_words(seed, position, 1)[0]) for seed in seeds for position in positions}
    assert len(words) == len(seeds) * len(positions)
