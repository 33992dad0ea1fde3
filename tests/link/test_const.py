"""Laws of the serialisation rule, whatever is sent and whenever, at a constant rate."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import AirdraftError
from airdraft.link.base import PACKET_BYTES, Pipe
from airdraft.link.const import ConstLink

rates = st.floats(1e3, 1e10) | st.just(math.inf)
delays = st.floats(0, 1)
# (seconds since the message before, bytes)
traffic = st.lists(st.tuples(st.floats(0, 1) | st.just(0.0), st.integers(0, 1 << 20)), min_size=1, max_size=30)

SLACK_S = 1e-6  # rounding of sums of floats; a byte on the fastest of these links takes 8e-10 s


def bare(rate_bps: float, delay_s: float) -> Pipe:
    """A pipe whose packets have no headers."""
    return ConstLink(rate_bps, math.inf, 2 * delay_s, header_bytes=0).uplink()


def run(pipe: Pipe, gaps: list[tuple[float, int]]) -> tuple[list[float], list[float], list[int]]:
    sent_at = list(accumulate(gap for gap, _ in gaps))
    sizes = [nbytes for _, nbytes in gaps]
    arrived_at = [pipe.send(now, nbytes) for now, nbytes in zip(sent_at, sizes, strict=True)]
    return sent_at, arrived_at, sizes


@given(rates, delays, traffic)
def test_never_faster_than_the_rate(rate_bps: float, delay_s: float, gaps: list[tuple[float, int]]) -> None:
    sent_at, arrived_at, sizes = run(bare(rate_bps, delay_s), gaps)
    for first in range(len(sizes)):
        for last in range(first, len(sizes)):
            busy_s = 8 * sum(sizes[first : last + 1]) / rate_bps
            assert arrived_at[last] - delay_s - sent_at[first] >= busy_s - SLACK_S


@given(rates, delays, traffic)
def test_first_in_first_out(rate_bps: float, delay_s: float, gaps: list[tuple[float, int]]) -> None:
    _, arrived_at, _ = run(bare(rate_bps, delay_s), gaps)
    assert all(before <= after for before, after in pairwise(arrived_at))


@given(rates, delays, traffic)
def test_nothing_arrives_before_the_delay(rate_bps: float, delay_s: float, gaps: list[tuple[float, int]]) -> None:
    sent_at, arrived_at, _ = run(bare(rate_bps, delay_s), gaps)
    assert all(arrival >= sent + delay_s for sent, arrival in zip(sent_at, arrived_at, strict=True))


@given(rates, delays, traffic)
def test_work_conserving(rate_bps: float, delay_s: float, gaps: list[tuple[float, int]]) -> None:
    """Each arrival is explained by one busy period: the link is never idle while something waits."""
    sent_at, arrived_at, sizes = run(bare(rate_bps, delay_s), gaps)
    for last, arrival in enumerate(arrived_at):
        soonest = max(sent_at[first] + 8 * sum(sizes[first : last + 1]) / rate_bps for first in range(last + 1))
        assert arrival == pytest.approx(soonest + delay_s, abs=SLACK_S)


@given(rates, delays, st.lists(st.integers(0, 1 << 20), min_size=1))
def test_cutting_a_message_changes_nothing(rate_bps: float, delay_s: float, pieces: list[int]) -> None:
    whole, cut = bare(rate_bps, delay_s), bare(rate_bps, delay_s)
    arrival = whole.send(0.0, sum(pieces))
    assert [cut.send(0.0, nbytes) for nbytes in pieces][-1] == pytest.approx(arrival)
    assert cut.sent_bytes == whole.sent_bytes == sum(pieces)


def test_by_hand() -> None:
    pipe = bare(rate_bps=8000, delay_s=0.5)
    assert pipe.send(1.0, 1000) == 2.5  # on the link 1..2
    assert pipe.send(1.0, 500) == 3.0  # waits, 2..2.5
    assert pipe.send(4.0, 1000) == 5.5  # the link was idle
    assert pipe.send(4.5, 0) == 5.5  # an end of stream stays behind the data


@pytest.mark.parametrize(
    ("nbytes", "packets"), [(0, 0), (1, 1), (PACKET_BYTES, 1), (PACKET_BYTES + 1, 2), (10 * PACKET_BYTES, 10)]
)
@pytest.mark.parametrize("header_bytes", [0, 40, 60])
def test_every_packet_has_a_header(nbytes: int, packets: int, header_bytes: int) -> None:
    pipe = ConstLink(8e6, 8e6, 0.0, header_bytes).uplink()
    assert pipe.send(0.0, nbytes) == pytest.approx(1e-6 * (nbytes + packets * header_bytes))
    assert pipe.payload_bytes == nbytes
    assert pipe.sent_bytes == nbytes + packets * header_bytes


def test_the_directions_of_a_link() -> None:
    spec = ConstLink(uplink_bps=1e6, downlink_bps=math.inf, rtt_s=0.04, header_bytes=0)
    assert spec.uplink().send(0.0, 125) == pytest.approx(0.021)
    assert spec.downlink().send(0.0, 1 << 30) == 0.02


@pytest.mark.parametrize(
    ("uplink_bps", "downlink_bps", "rtt_s", "field"),
    [
        (0.0, 1e6, 0.0, "uplink_bps"),
        (math.nan, 1e6, 0.0, "uplink_bps"),
        (1e6, -1.0, 0.0, "downlink_bps"),
        (1e6, 1e6, -0.001, "rtt_s"),
        (1e6, 1e6, math.inf, "rtt_s"),
        (1e6, 1e6, math.nan, "rtt_s"),
    ],
)
def test_an_impossible_link_is_refused(uplink_bps: float, downlink_bps: float, rtt_s: float, field: str) -> None:
    with pytest.raises(AirdraftError, match=rf"^{field} is .*: give "):
        ConstLink(uplink_bps, downlink_bps, rtt_s)
