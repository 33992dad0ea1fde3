"""Fetch or compute, in virtual time: never much worse than computing, whatever the store does and was thought to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.prompts.blocks import BLOCK
from airdraft.prompts.pace import MOST, Meeting, Speeds
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


def shared_s(blocks: int, size: int, link: StoreLink, speed: float, pace: Speeds) -> float:
    """As `ttft_s`, but blocks that are on their way together share the link, as answers of a web server do."""
    meeting = Meeting(pace, blocks, size, 0, 0.0)
    now, at, left = 0.0, 0, dict[int, float]()
    begins = dict[int, float]()

    def ask() -> None:
        while (block := meeting.ask(at, now)) is not None:
            left[block], begins[block] = float(size), now + link.rtt_s

    def until(end: float, woken: bool = False) -> None:
        nonlocal now
        while now < end:
            active = [block for block in left if begins[block] <= now + 1e-12]
            each = link.bytes_per_s / max(1, len(active))
            step = min([end - now, *(left[block] / each for block in active),
                        *(begins[block] - now for block in left if block not in active)])  # fmt: skip
            now += step
            for block in active:
                left[block] -= step * each
            came = [block for block in active if left[block] <= 1e-6]
            for block in came:
                del left[block]
                meeting.settle(block, now, came=True)
            ask()
            if came and woken:
                return

    ask()
    while at < BLOCK * blocks:
        ask()
        advice = meeting.advise(at, now)
        if advice.blocks:
            at = BLOCK * advice.blocks.stop
        elif advice.wait_s:
            began = now
            until(now + advice.wait_s, woken=True)
            meeting.waited(now - began)
        else:
            piece = min(advice.piece or MOST, MOST, BLOCK * blocks - at)
            until(now + piece / speed)
            at += piece
    return now


@pytest.mark.parametrize("rtt_s", [0.005, 0.05])
@pytest.mark.parametrize("rate", [2.5e5, 7.5e5, 4e6, 4e7])
def test_blocks_that_share_a_link_come_as_soon(rate: float, rtt_s: float) -> None:
    """Sixteen at once would all come when the last one does, and a slow store would be worth nothing."""
    blocks, size, link, speed, pace = 12, 524_288, StoreLink(rate, rtt_s), 83.0, Speeds()
    found = [shared_s(blocks, size, link, speed, pace) for _ in range(4)]
    best = ttft_s(BLOCK * blocks, size, link, speed, Speeds(rate, link.first_s(size), speed))
    alone = BLOCK * blocks / speed
    assert max(found) <= alone / 0.95
    assert found[-1] <= max(best / 0.85, alone - 0.85 * (alone - best))  # nearly as soon, or nearly all that it gains
