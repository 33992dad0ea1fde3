"""Sets, and weights that sum to a total, as whole numbers: a bijection, in bounded time."""

from __future__ import annotations

import math
import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.bits import BitReader, BitWriter
from airdraft.core.counting import log2_comb, members, rank, rank_weights, weights_of, width

from ..suites import examples


@pytest.mark.parametrize("n", range(9))
def test_the_sets_of_a_size_are_numbered_from_0_without_a_gap(n: int) -> None:
    for m in range(n + 1):
        sets = [list(each) for each in combinations(range(n), m)]
        numbers = [rank(np.array(each, int)) for each in sets]
        assert sorted(numbers) == list(range(math.comb(n, m)))
        assert [members(number, n, m).tolist() for number in numbers] == sets


@given(st.data(), st.integers(1, 20000), st.integers(1, 300))
@examples(150)
def test_a_number_of_any_size_comes_back(data: st.DataObject, n: int, m: int) -> None:
    m = min(m, n)
    last = math.comb(n, m) - 1
    number = data.draw(st.one_of(st.integers(0, last), st.integers(0, min(9, last)).map(lambda less: last - less)))
    found = members(number, n, m)
    assert found.tolist() == sorted(set(found.tolist()))
    assert found.size == m
    assert found[0] >= 0
    assert found[-1] < n
    assert rank(found) == number


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40))
@examples(150)
def test_weights_come_back_and_none_is_beyond_the_last(weights: list[int]) -> None:
    number, total = rank_weights(np.array(weights)), sum(weights)
    assert 0 <= number < math.comb(total + len(weights) - 1, total)
    assert weights_of(number, len(weights), total).tolist() == weights


@pytest.mark.parametrize(("n", "m"), [(0, 0), (5, 0), (40, 17), (4335, 240), (152000, 64)])
def test_the_estimate_of_the_bits_is_close(n: int, m: int) -> None:
    assert log2_comb(n, m) == pytest.approx(math.log2(math.comb(n, m)), abs=1e-3)


@given(st.lists(st.tuples(st.integers(0, 1 << 300), st.integers(0, 40)), max_size=6))
def test_long_numbers_come_back_from_between_short_ones(values: list[tuple[int, int]]) -> None:
    out = BitWriter()
    for long, more in values:
        out.write_long(long, width(long + 1) + more)
        out.write([5], 3)
    data = BitReader(out.bytes())
    for long, more in values:
        assert data.read(1, width(long + 1) + more, object)[0] == long
        assert data.read(1, 3).tolist() == [5]
    data.finish()


@pytest.mark.parametrize(("n", "m"), [(4335, 240), (152_000, 64), (152_240, 240), (4815, 720), (1088, 1024)])
def test_no_number_takes_long_to_read(n: int, m: int) -> None:
    """The worst are those whose members lie far apart, or just too far to walk from one to the next."""
    rng = np.random.default_rng(3)
    last = math.comb(n, m) - 1
    spread = [np.sort(rng.choice(n, m, replace=False)) for _ in range(4)]
    apart = [step * np.arange(m) for step in (1, 2, 25, 26, 27) if m * step < n]
    began = time.thread_time()
    numbers = [0, last, last // 2, *(rank(each) for each in (*spread, *apart))]
    for number in numbers:
        members(number, n, m)
    assert (time.thread_time() - began) / len(numbers) < 0.2  # some 10 ms
