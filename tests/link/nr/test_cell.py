"""Whole cells: grants, segments, retransmissions and outages, seen from outside."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from airdraft.errors import BadParameterError
from airdraft.link.nr import NrLink, NrPipe
from airdraft.link.presets import OAI

# So good a channel that nothing fails and the highest MCS is always right: what is left is the schedule.
CLEAN = NrLink(
    scenario="indoor-los", target_snr_db=40.0, branches=1024, outage_interval_s=math.inf, bler_target=0.001,
    prepare_s=0.0, decode_s=0.0, core_s=0.0, header_bytes=0,
)  # fmt: skip


def delays_ms(pipe: NrPipe, packets: int = 2000, nbytes: int = 128, gap_s: float = 0.05) -> list[float]:
    """Of packets at random moments."""
    rng = np.random.default_rng(5)
    found, now = [], 0.0
    for _ in range(packets):
        now += gap_s * (1 + rng.random())
        found.append(1e3 * (pipe.send(now, nbytes) - now))
    return found


def test_a_configured_grant_costs_the_wait_for_a_slot() -> None:
    pipe = replace(CLEAN, grant="configured").uplink()
    found = delays_ms(pipe)
    assert pipe.mac.failed_first_transmissions == 0
    assert min(found) == pytest.approx(0.5, abs=0.05)
    assert max(found) == pytest.approx(0.5 + 2.5, abs=0.05)
    assert np.mean(found) == pytest.approx(0.5 + 1.25, abs=0.1)


def test_a_request_costs_the_wait_for_its_turn_and_the_grant() -> None:
    """DDDSU, 10 ms between turns, 3 ms to the grant: the slot two periods after the request's."""
    found = delays_ms(CLEAN.uplink())
    assert min(found) == pytest.approx(0.5 + 5.0, abs=0.1)
    assert max(found) == pytest.approx(0.5 + 5.0 + 10.0, abs=0.1)


def test_fdd_needs_no_alignment() -> None:
    found = delays_ms(replace(CLEAN, grant="configured", configured_period_s=0.0005, tdd="FDD").uplink())
    assert max(found) == pytest.approx(1.0, abs=0.01)


def test_what_does_not_fit_the_first_block_waits_for_another_grant() -> None:
    """5 PRB at MCS 27 hold 512 bytes: more is reported, and granted 3 ms later at the earliest."""
    link = replace(CLEAN, grant="configured")
    whole, cut = link.uplink(), link.uplink()
    one, two = delays_ms(whole, nbytes=480), delays_ms(cut, nbytes=700)
    assert whole.mac.first_transmissions == len(one)
    assert cut.mac.first_transmissions == 2 * len(two)
    assert np.array(two) - np.array(one) == pytest.approx(5.0)


def test_much_data_gets_every_slot() -> None:
    """51 PRB at MCS 27 hold 42016 bits a slot, and DDDSU has an uplink slot every 2.5 ms."""
    nbytes = 2_000_000
    rate_bps = 8 * nbytes / CLEAN.uplink().send(0.0, nbytes)
    assert rate_bps == pytest.approx(42016 / 2.5e-3, rel=0.02)


def test_a_later_packet_rides_in_the_room_that_is_left() -> None:
    pipe = CLEAN.uplink()
    first = pipe.send(0.0, 100)
    assert pipe.send(0.0, 100) == first
    assert pipe.mac.first_transmissions == 1


def test_the_downlink_asks_nobody() -> None:
    found = delays_ms(CLEAN.downlink())
    assert max(found) <= 0.5 + 1.5 + 1e-6  # the special and the uplink slot, and the rest of one slot


@pytest.mark.parametrize("target", [0.05, 0.1, 0.2])
def test_link_adaptation_lets_fail_what_it_should(target: float) -> None:
    pipe = NrLink("indoor-los", bler_target=target, target_snr_db=10.0, seed=2, outage_interval_s=math.inf).uplink()
    delays_ms(pipe, packets=6000)
    assert pipe.mac.failed_first_transmissions / pipe.mac.first_transmissions == pytest.approx(target, rel=0.15)


def test_each_harq_retransmission_costs_its_delay() -> None:
    link = replace(CLEAN, grant="configured", target_snr_db=10.0, branches=2, bler_target=0.2, harq_delay_s=0.005)
    found = np.array(delays_ms(link.uplink(), nbytes=16))
    in_time, late = np.mean(found <= 3.0 + 0.01), np.mean(found >= 5.5)
    assert 0.05 < late < 0.3
    assert in_time + late > 0.99  # nothing between, but what had to wait behind a late one


def test_when_harq_is_exhausted_rlc_waits_for_its_timer() -> None:
    link = replace(CLEAN, grant="configured", target_snr_db=10.0, branches=1, harq_transmissions=1, rlc_stall_s=0.2)
    pipe = replace(link, bler_target=0.2).uplink()
    found = np.array(delays_ms(pipe, nbytes=16, gap_s=1.0))
    assert pipe.mac.rlc_stalls > 100
    assert np.mean(found > 200.0) == pytest.approx(pipe.mac.failed_first_transmissions / len(found), abs=0.02)


def test_an_outage_holds_the_bytes_and_lets_them_go() -> None:
    link = replace(CLEAN, grant="configured", outage_interval_s=5.0, outage_s=1.0)
    found = np.array(delays_ms(link.uplink(), packets=5000, gap_s=0.1))
    assert 0.05 < np.mean(found > 100.0) < 0.3  # a sixth of the time is out
    assert np.median(found) < 5.0


def test_the_cell_that_imitates_a_measured_one() -> None:
    """Wide bounds around docs/links.md: a change of the model that moves the table must not pass unseen."""
    pipe = OAI.uplink()
    p5, p50, p95 = np.percentile(delays_ms(pipe, packets=8000), [5, 50, 95])
    assert (p5, p50, p95) == (pytest.approx(10.0, abs=1.0), pytest.approx(13.4, abs=1.5), pytest.approx(25.5, abs=3.0))
    assert pipe.mac.failed_first_transmissions / pipe.mac.first_transmissions == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grant": "none"}, "grant is 'none': give one of request, configured"),
        ({"speed_mps": 0.0}, "speed_mps is 0.0"),
        ({"prbs": 274}, "prbs is 274"),
        ({"core_s": math.nan}, "core_s is nan"),
        ({"distance_m": 5000.0}, "the uplink has a mean SNR of .* out of the cell"),
        ({"distance_m": 300.0, "downlink_power_dbm": -40.0}, "the downlink has a mean SNR of"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_no_cell_can_be(changes: dict[str, float], words: str) -> None:
    with pytest.raises(BadParameterError, match=words):
        NrLink(**changes)  # type: ignore[arg-type]
