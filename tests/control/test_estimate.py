"""Estimates from noisy exchanges: near the truth, and near the new truth soon after a change."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from airdraft.control.estimate import PRIOR, Estimator
from airdraft.core.policy import Judged
from airdraft.errors import BadParameterError

RTT_S, UP_BPS, DOWN_BPS = 0.05, 2e6, 20e6


def exchange(
    to: Estimator,
    rng: np.random.Generator,
    up: int,
    down: int,
    rtt_s: float = RTT_S,
    up_bps: float = UP_BPS,
    jitter_s: float = 0.002,
) -> None:
    """One exchange: exponential jitter, and one in eight is late by much."""
    held_s = rng.uniform(0, 0.05)
    late_s = rng.exponential(jitter_s) + (rng.uniform(0.05, 0.3) if rng.random() < 0.125 else 0)
    to.exchanged(rtt_s + 8 * up / up_bps + 8 * down / DOWN_BPS + late_s + held_s, up, down, held_s)


def round_of(accepted: int, rejected: int) -> Judged:
    """The verdict on a round."""
    return Judged(accepted, rejected, 0, 0, 0, raced=False, rounds=True)


def test_nothing_seen_is_the_prior() -> None:
    assert Estimator().facts() == PRIOR


def test_durations_are_medians() -> None:
    seen = Estimator()
    for _ in range(3):
        for draft_s, verify_s in [(0.01, 0.02), (0.011, 0.021), (0.5, 0.9)]:
            seen.drafted(draft_s)
            seen.verified(verify_s)
    assert (seen.facts().draft_s, seen.facts().verify_s) == (0.011, 0.021)
    for _ in range(5):
        seen.drafted(0.004)
    assert seen.facts().draft_s == 0.004


@pytest.mark.parametrize("seed", range(10))
def test_small_packets_tell_the_round_trip_and_no_rate(seed: int) -> None:
    rng, seen = np.random.default_rng(seed), Estimator()
    for _ in range(40):
        exchange(seen, rng, int(rng.integers(20, 40)), 20)
    found = seen.facts()
    assert found.rtt_s == pytest.approx(RTT_S, rel=0.08)
    assert math.isinf(found.uplink_bps)
    assert math.isinf(found.downlink_bps)


@pytest.mark.parametrize("seed", range(10))
def test_packets_of_many_sizes_tell_the_rates(seed: int) -> None:
    rng, seen = np.random.default_rng(seed), Estimator()
    for _ in range(40):
        exchange(seen, rng, int(rng.choice([20, 1000, 4000, 12000])), int(rng.choice([20, 60_000])))
    found = seen.facts()
    assert found.rtt_s == pytest.approx(RTT_S, rel=0.1)
    assert found.uplink_bps == pytest.approx(UP_BPS, rel=0.25)
    assert found.downlink_bps == pytest.approx(DOWN_BPS, rel=0.35)


@pytest.mark.parametrize("seed", range(10))
def test_sizes_that_make_no_difference_give_no_rate(seed: int) -> None:
    rng, seen = np.random.default_rng(seed), Estimator()
    for _ in range(40):
        exchange(seen, rng, int(rng.choice([20, 200])), 20, up_bps=math.inf)
    assert seen.facts().uplink_bps > 1e6


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rtt_s", [0.01, 0.2])
def test_a_new_round_trip_shows_after_eight_exchanges(seed: int, rtt_s: float) -> None:
    rng, seen = np.random.default_rng(seed), Estimator()
    for _ in range(40):
        exchange(seen, rng, 30, 20)
    for _ in range(8):
        exchange(seen, rng, 30, 20, rtt_s=rtt_s)
    assert seen.facts().rtt_s == pytest.approx(rtt_s, rel=0.35)


def test_acceptance_follows() -> None:
    seen = Estimator()
    for _ in range(30):
        seen.judged(round_of(4, 1))
    assert seen.facts().acceptance == pytest.approx(0.8, abs=0.01)
    for _ in range(40):
        seen.judged(round_of(1, 1))
    assert seen.facts().acceptance == pytest.approx(0.5, abs=0.06)


def test_one_exchange_is_enough_to_start_with() -> None:
    seen = Estimator()
    seen.exchanged(0.08, 30, 20, 0.03)
    assert seen.facts().rtt_s == pytest.approx(0.05)
    seen.exchanged(0.01, 30, 20, 0.03)  # an edge whose clock is off
    assert seen.facts().rtt_s == 0


def test_mistakes() -> None:
    seen = Estimator()
    with pytest.raises(BadParameterError, match="a forward of the draft took -1 s"):
        seen.drafted(-1.0)
    with pytest.raises(BadParameterError, match="an exchange took nan s"):
        seen.exchanged(math.nan, 1, 1, 0.0)
    with pytest.raises(BadParameterError, match="bytes"):
        seen.exchanged(1.0, -1, 1, 0.0)
    with pytest.raises(BadParameterError, match="rejected"):
        seen.judged(round_of(1, -1))


def faded(counts: list[tuple[int, int]]) -> float:
    """Acceptance after these counts of accepted and rejected tokens, each of which fades the ones before it."""
    accepted, judged = 4.0 * PRIOR.acceptance, 4.0
    for a, r in counts:
        keep = math.exp(-(a + r) / 40.0)
        accepted, judged = keep * accepted + a, keep * judged + a + r
    return accepted / judged


class Once(Estimator):
    """Broken: counts what a forward of a stream said all at once."""

    def judged(self, verdict: Judged) -> None:
        self._count(verdict.agreeing, int(verdict.agreeing < verdict.drafts))


class OnlyVerified(Estimator):
    """Broken: learns nothing from tokens that the edge wrote by itself."""

    def judged(self, verdict: Judged) -> None:
        super().judged(replace(verdict, agreeing=verdict.accepted, drafts=verdict.accepted + verdict.rejected))


@pytest.mark.parametrize(("learner", "right"), [(Estimator, True), (Once, False), (OnlyVerified, False)])
def test_a_stream_is_judged_by_all_that_was_drafted(learner: type[Estimator], right: bool) -> None:
    seen = learner()
    verdicts = [(2, 1, 2, 3, 3), (0, 0, 1, 1, 1), (0, 0, 0, 1, 0), (0, 0, 0, 1, 1)]
    for accepted, rejected, agreeing, tokens, drafts in verdicts:
        seen.judged(Judged(accepted, rejected, agreeing, tokens, drafts, raced=False, rounds=False))
    known = faded([(2, 0), (0, 1), (1, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 1)])
    assert math.isclose(seen.facts().acceptance, known, rel_tol=1e-12) == right
    assert seen.facts().streamed is None


def test_a_tree_is_judged_by_its_likeliest_drafts_and_by_those_beside_them() -> None:
    tree, chain = Estimator(), Estimator()
    for _ in range(200):  # of four first drafts two are right, and beside one of the wrong two stands the right one
        tree.judged(Judged(0, 0, 3, 4, 4, raced=True, rounds=False, beside=1))
        chain.judged(Judged(0, 0, 2, 4, 3, raced=True, rounds=False))
        chain.judged(Judged(0, 0, 0, 1, 1, raced=True, rounds=False))
    assert tree.facts().acceptance == pytest.approx(0.5, abs=0.03)
    assert chain.facts().acceptance == pytest.approx(0.5, abs=0.03)
    assert tree.facts().beside == pytest.approx(0.5, abs=0.03)
    assert chain.facts().beside < 0.05  # what is left of the assumption


def test_only_a_raced_stream_tells_what_streaming_gives() -> None:
    raced, alone = Estimator(), Estimator()
    for _ in range(40):
        raced.judged(Judged(1, 1, 1, 2, 2, raced=True, rounds=False))
        alone.judged(Judged(1, 1, 1, 2, 2, raced=False, rounds=False))
    assert raced.facts().streamed == pytest.approx(2.0)
    assert alone.facts().streamed is None


def test_chances_are_learned_from_the_drafts_of_a_round_that_were_judged() -> None:
    seen = Estimator()
    before = seen.chance(0.1)
    for _ in range(200):
        seen.judged(Judged(1, 1, 0, 0, 0, raced=False, rounds=True, probs=(0.9, 0.5, 0.1)))
    assert seen.chance(0.9) > 0.95
    assert seen.chance(0.5) < 0.1
    assert seen.chance(0.1) == before  # stood behind a refused one
