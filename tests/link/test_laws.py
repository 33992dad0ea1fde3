"""Laws that hold for every link, whatever is sent and whenever."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.link.base import PACKET_BYTES, LinkModel, wire_bytes
from airdraft.link.const import ConstLink
from airdraft.link.markov2 import Markov2Link
from airdraft.link.nr import NrLink
from airdraft.link.presets import OAI
from airdraft.link.rayleigh import RayleighLink
from airdraft.link.trace import Series, TraceLink, TraceRun

from ..suites import examples

WAVES = Series((0.1, 0.15, 0.4, 0.5), (2e6, 0.0, 8e6, 1e6))
TRIPS = Series((0.07, 0.2), (0.03, 0.3))
LINKS: dict[str, LinkModel] = {
    "const": ConstLink(5e6, 2e7, 0.03),
    "unlimited": ConstLink(math.inf, math.inf, 0.03),
    "markov2": Markov2Link(block_s=0.02, rtt_s=0.03, seed=3),
    "rayleigh": RayleighLink(seed=3),
    "trace": TraceLink(TraceRun("waves", WAVES, WAVES, TRIPS)),
    "trace held": TraceLink(TraceRun("waves", WAVES, None, TRIPS), repeat=False),
    "nr": NrLink(seed=3, outage_interval_s=1.0),
    "nr configured": NrLink(grant="configured", tdd="FDD", seed=3),
    "nr-oai": OAI,
}
links = pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
# (seconds since the message before, bytes)
traffic = st.lists(st.tuples(st.floats(0, 0.3) | st.just(0.0), st.integers(0, 20_000)), min_size=1, max_size=20)


def arrivals(link: LinkModel, gaps: list[tuple[float, int]], start_s: float = 0.0, up: bool = True) -> list[float]:
    pipe = link.uplink() if up else link.downlink()
    times = accumulate((gap for gap, _ in gaps), initial=start_s)
    next(times)
    return [pipe.send(now, nbytes) for now, (_, nbytes) in zip(times, gaps, strict=True)]


@links
@given(gaps=traffic, up=st.booleans())
@examples(25)
def test_in_order_later_than_sent_and_counted(link: LinkModel, gaps: list[tuple[float, int]], up: bool) -> None:
    pipe = link.uplink() if up else link.downlink()
    assert (pipe.sent_bytes, pipe.payload_bytes, pipe.free_at_s) == (0, 0, -math.inf)
    now, last, free_at_s = 0.0, -math.inf, -math.inf
    for gap, nbytes in gaps:
        now += gap
        arrival = pipe.send(now, nbytes)
        assert math.isfinite(arrival)
        assert arrival >= max(now, last)
        assert max(now, free_at_s) <= pipe.free_at_s <= arrival
        last, free_at_s = arrival, pipe.free_at_s
    assert pipe.payload_bytes == sum(nbytes for _, nbytes in gaps)
    assert pipe.sent_bytes == sum(wire_bytes(nbytes, 40) for _, nbytes in gaps)


@links
@given(gaps=traffic)
@examples(10)
def test_every_pipe_of_a_link_does_the_same(link: LinkModel, gaps: list[tuple[float, int]]) -> None:
    assert arrivals(link, gaps) == arrivals(link, gaps)
    assert arrivals(link, gaps, up=False) == arrivals(link, gaps, up=False)


@links
@given(gaps=traffic, start_s=st.floats(0, 1e5))
@examples(10)
def test_a_pipes_time_begins_with_the_first_call(
    link: LinkModel, gaps: list[tuple[float, int]], start_s: float
) -> None:
    later = [arrival - start_s for arrival in arrivals(link, gaps, start_s)]
    assert later == pytest.approx(arrivals(link, gaps), abs=1e-6)


@links
@given(packets=st.lists(st.integers(1, 6), min_size=1, max_size=4), rest=st.integers(0, PACKET_BYTES))
@examples(10)
def test_cutting_between_packets_changes_nothing(link: LinkModel, packets: list[int], rest: int) -> None:
    pieces = [PACKET_BYTES * count for count in packets] + [rest]
    whole, cut = link.uplink(), link.uplink()
    for now in (0.0, 0.01):
        arrival = whole.send(now, sum(pieces))
        assert [cut.send(now, nbytes) for nbytes in pieces][-1] == pytest.approx(arrival, abs=1e-6)


@links
def test_nothing_costs_nothing(link: LinkModel) -> None:
    with_nothing, without = link.uplink(), link.uplink()
    for now in (0.0, 0.01, 0.5):
        assert with_nothing.send(now, 1000) == without.send(now, 1000)
        assert with_nothing.send(now, 0) >= without.send(now, 0)
    assert with_nothing.sent_bytes == without.sent_bytes == 3 * 1040


@pytest.mark.parametrize("make", [Markov2Link, RayleighLink, NrLink])
def test_another_seed_another_link(make: type[Markov2Link | RayleighLink | NrLink]) -> None:
    gaps = [(0.05, 3000)] * 40
    assert arrivals(make(seed=1), gaps) != arrivals(make(seed=2), gaps)


# What changes in steps

steps = st.lists(st.tuples(st.floats(0.01, 0.5), st.just(0.0) | st.floats(1e4, 1e7)), min_size=1, max_size=8).filter(
    lambda found: any(rate_bps for _, rate_bps in found)
)


def series(found: list[tuple[float, float]]) -> Series:
    return Series(tuple(accumulate(length_s for length_s, _ in found)), tuple(rate_bps for _, rate_bps in found))


def bits_by(rates: Series, time_s: float) -> float:
    """∫ of the repeated rates over [0, time_s], step by step, independently of `Steps`."""
    whole, rest_s = divmod(time_s, rates.ends_s[-1])
    begins_s = (0.0, *rates.ends_s[:-1])
    in_turn = [
        rate_bps * (end_s - begin_s)
        for begin_s, end_s, rate_bps in zip(begins_s, rates.ends_s, rates.values, strict=True)
    ]
    part = [
        rate_bps * max(0.0, min(end_s, rest_s) - begin_s)
        for begin_s, end_s, rate_bps in zip(begins_s, rates.ends_s, rates.values, strict=True)
    ]
    return whole * sum(in_turn) + sum(part)


@given(found=steps, nbytes=st.integers(1, 200_000))
def test_the_integral_of_the_rate_is_what_was_sent(found: list[tuple[float, float]], nbytes: int) -> None:
    rates = series(found)
    pipe = TraceLink(TraceRun("steps", rates), rtt_s=0.0, header_bytes=0).uplink()
    arrival = pipe.send(0.0, nbytes)
    assert bits_by(rates, arrival) == pytest.approx(8 * nbytes, rel=1e-6, abs=1e-3)
    assert bits_by(rates, arrival - 1e-6) <= 8 * nbytes  # and no later than needed
    assert pipe.free_at_s == arrival


@given(found=steps, pieces=st.lists(st.integers(0, 50_000), min_size=1, max_size=8))
def test_cutting_a_message_changes_nothing(found: list[tuple[float, float]], pieces: list[int]) -> None:
    link = TraceLink(TraceRun("steps", series(found)), rtt_s=0.0, header_bytes=0)
    whole, cut = link.uplink(), link.uplink()
    arrival = whole.send(0.0, sum(pieces))
    assert [cut.send(0.0, nbytes) for nbytes in pieces][-1] == pytest.approx(arrival, rel=1e-6, abs=1e-6)


def test_an_outage_by_hand() -> None:
    """8 kbit/s for 1 s, nothing for 2 s, 16 kbit/s for 1 s; round trips of 0.2 s, and of 1 s from 3 s on."""
    run = TraceRun("by hand", Series((1.0, 3.0, 4.0), (8e3, 0.0, 16e3)), None, Series((3.0, 4.0), (0.2, 1.0)))
    pipe = TraceLink(run, header_bytes=0).uplink()
    assert pipe.send(0.0, 500) == pytest.approx(0.6)
    assert pipe.send(0.0, 1000) == pytest.approx(3.75)  # 500 before the outage, 500 in 0.25 s after it
    assert pipe.send(3.25, 3000) == pytest.approx(7.75)  # 1500 until 4 s, 1000 until 5 s, and 500 after the next outage


def test_an_idle_pipe_skips_what_passes_meanwhile() -> None:
    rates = Series((1.0, 2.0), (8e3, 16e3))
    pipe = TraceLink(TraceRun("two", rates), rtt_s=0.0, header_bytes=0).uplink()
    pipe.send(0.0, 1)
    assert pipe.send(10_001.25, 1000) == pytest.approx(10_001.75)
    held = TraceLink(TraceRun("two", rates), rtt_s=0.0, header_bytes=0, repeat=False).uplink()
    held.send(0.0, 1)
    assert held.send(10_000.25, 1000) == pytest.approx(10_000.75)


# What the models draw


def rates_bps(link: LinkModel, blocks: int, block_s: float) -> list[float]:
    """The rate in each block, from how long a byte takes in its middle."""
    pipe = link.uplink()
    pipe.send(0.0, 0)
    middles = [block_s * (block + 0.5) for block in range(blocks)]
    return [8 / (pipe.send(at, 1) - at) for at in middles]


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_markov2_switches_as_often_as_it_says(probability: float) -> None:
    link = Markov2Link(switch_probability=probability, block_s=0.1, rtt_s=0.0, seed=1, header_bytes=0)
    found = [round(rate / 1e6) for rate in rates_bps(link, 4000, 0.1)]
    assert set(found) == {2, 6}
    switches = sum(before != after for before, after in pairwise(found)) / (len(found) - 1)
    assert switches == pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / 4000))


def test_rayleigh_has_the_capacity_of_exponential_gains() -> None:
    link = RayleighLink(snr_db=10.0, bandwidth_hz=1e6, coherence_s=0.01, rtt_s=0.0, seed=1, header_bytes=0)
    gains = sorted((2 ** (rate / 1e6) - 1) / 10 for rate in rates_bps(link, 4000, 0.01))
    distance = max(abs((at + 0.5) / len(gains) - (1 - math.exp(-gain))) for at, gain in enumerate(gains))
    assert distance < 1.95 / math.sqrt(len(gains))  # Kolmogorov-Smirnov at 0.1 %
