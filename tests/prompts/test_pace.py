"""Fetch or compute, in virtual time: never much worse than computing, whatever the store does and was thought to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.prompts.blocks import BLOCK
from airdraft.prompts.pace import Speeds
from airdraft.prompts.virtual import StoreLink, ttft_s

from ..suites import examples

MB = 1e6
RATES = st.sampled_from([1e5, 1e6, 1e7, 1e8])
SPEEDS = st.sampled_from([50.0, 500.0, 5000.0])


@given(
    st.integers(4, 120), RATES, st.sampled_from([0.001, 0.05, 0.5]), SPEEDS, st.sampled_from([0.01, 1.0, 100.0]),
    st.sampled_from([1e4, 1e6]), st.sampled_from([None, 3, 10**9]), st.data(),
)  # fmt: skip
@examples(150)
def test_it_is_never_much_worse_than_computing(
    blocks: int, rate: float, rtt_s: float, speed: float, wrong: float, size: float, stops: int | None,
    data: st.DataObject,
) -> None:  # fmt: skip
    lost = data.draw(st.sets(st.integers(0, blocks - 1)))
    believed = Speeds(rate * wrong, rtt_s / wrong, speed)
    link = StoreLink(rate, rtt_s, lost=frozenset(lost), stops=stops)
    found = ttft_s(BLOCK * blocks, int(size), link, speed, believed)
    alone = BLOCK * blocks / speed
    assert found <= 1.05 * alone + 1e-9


@pytest.mark.parametrize("speed", [50.0, 500.0, 5000.0])
@pytest.mark.parametrize("rate", [1e5, 1e6, 1e7, 1e8])
def test_it_finds_the_best(rate: float, speed: float) -> None:
    blocks, size, link = 60, 300_000, StoreLink(rate, 0.02)
    found = ttft_s(BLOCK * blocks, size, link, speed, Speeds(rate, link.first_s(size), speed))
    compute, fetch = BLOCK * blocks / speed, link.first_s(size) + (blocks - 1) * size / rate
    both = 1 / (1 / compute + 1 / fetch)
    assert found >= both * 0.95
    assert found <= min(compute, fetch) / 0.95
    assert found <= 1.1 * (both + link.rtt_s) + 2 * size / rate + BLOCK / speed


def test_what_is_not_known_yet_is_found_out() -> None:
    pace, link = Speeds(), StoreLink(10 * MB, 0.01)
    first, second = (ttft_s(BLOCK * 40, 100_000, link, 200.0, pace) for _ in range(2))
    assert second <= first
    assert pace.bytes_per_s == pytest.approx(link.bytes_per_s, rel=0.2)
    assert pace.tokens_per_s == pytest.approx(200.0, rel=0.05)
