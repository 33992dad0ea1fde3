"""Draft lengths: the published figures, and each rule against what it claims to be best at."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.control import predict
from airdraft.control.facts import wire
from airdraft.control.lengths import (
    RULES,
    Fixed,
    Greedy,
    Length,
    Optimum,
    SpecDecPlus,
    TkSlt,
    lambert_lower,
    tk_slt,
    tk_slt_length,
    tk_slt_speedup,
)
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel
from airdraft.sim.pair import Pair

from ..core.tables import alike, table

COUPLED, TOPK = wire("coupled", 32000), wire("topk", 32000)
FACTS = Facts(0.005, 0.03, 0.05, 5e6, 100e6, 0.8)


def drafted(rule: Length, chances: list[float], facts: Facts) -> int:
    """How many of them the rule drafts, at least one."""
    count = 1
    while count < len(chances) and rule.more(chances[:count], facts):
        count += 1
    return count


@pytest.mark.parametrize(
    ("alpha", "costs", "lengths", "speedups"),
    [
        (0.8, [0.01, 0.1, 0.2, 0.4, 0.6], [14, 6, 4, 2, 1], [4.23, 2.47, 1.87, 1.36, 1.12]),
        (0.6, [0.01, 0.1, 0.2, 0.4, 0.6], [7, 3, 2, 1, 1], None),
        (0.4, [0.01, 0.1, 0.2, 0.4, 0.6], [4, 2, 1, 1, 1], None),
    ],
)
def test_published_figures(alpha: float, costs: list[float], lengths: list[int], speedups: list[float] | None) -> None:
    assert [tk_slt_length(alpha, cost) for cost in costs] == lengths
    if speedups:
        found = [tk_slt_speedup(alpha, cost, length) for cost, length in zip(costs, lengths, strict=True)]
        assert found == pytest.approx(speedups, abs=0.006)


@given(st.floats(0, 0.97), st.floats(0.005, 3))
def test_the_closed_form_is_the_optimum(alpha: float, cost: float) -> None:
    best = max(tk_slt_speedup(alpha, cost, length) for length in range(1, 400))
    assert tk_slt_speedup(alpha, cost, tk_slt_length(alpha, cost)) == pytest.approx(best, rel=1e-12)


@given(st.floats(1, 700))
def test_lambert_inverts(depth: float) -> None:
    w = lambert_lower(depth)
    assert w <= -1
    assert -w - math.log(-w) == pytest.approx(depth, rel=1e-12)


def test_lambert_at_known_points() -> None:
    assert lambert_lower(1) == -1
    assert lambert_lower(-math.log(0.1)) == pytest.approx(-3.577152063957297)
    assert lambert_lower(-math.log(0.3)) == pytest.approx(-1.781337023421628)
    assert lambert_lower(1e6) == pytest.approx(-1e6 - math.log(1e6), rel=1e-6)  # where w·e^w underflows
    with pytest.raises(BadParameterError, match="not real"):
        lambert_lower(0.99)


def test_tk_slt_knows_no_round_trip() -> None:
    near, far = (Facts(0.005, 0.03, rtt_s, 5e6, 100e6, 0.8) for rtt_s in (0.0, 10.0))
    rule = TkSlt(TOPK)
    assert drafted(rule, [0.5] * 40, near) == drafted(rule, [0.5] * 40, far) == tk_slt_length(0.8, rule.cost(near))
    assert rule.cost(near) == pytest.approx((0.005 + TOPK.draft_bits / 5e6) / 0.03)
    assert rule.speculate(near)
    assert rule.speculate(far)  # though each round waits ten seconds
    assert not rule.speculate(Facts(0.005, 0.03, 0.0, 50e3, 100e6, 0.8))
    assert tk_slt(far, TOPK).tokens_per_s > 1 / 0.03


def test_fixed() -> None:
    assert drafted(Fixed(5), [0.0] * 40, FACTS) == 5
    with pytest.raises(BadParameterError, match="draft length is 0"):
        Fixed(0)


@pytest.mark.parametrize("rtt_s", [0.0, 0.05, 0.5])
def test_the_optimum_is_that_of_the_prediction(rtt_s: float) -> None:
    facts = Facts(0.005, 0.03, rtt_s, 5e6, 100e6, 0.8)
    speeds = [predict.rounds(facts, COUPLED, length).tokens_per_s for length in range(1, 33)]
    assert drafted(Optimum(COUPLED), [0.5] * 40, facts) == 1 + int(np.argmax(speeds))


def test_greedy_with_even_chances_is_the_optimum() -> None:
    # The marginal gain falls below the mean exactly where the mean is greatest.
    for rtt_s in (0.0, 0.02, 0.1, 0.4):
        facts = Facts(0.005, 0.03, rtt_s, 5e6, 100e6, 0.8)
        best = predict.best_rounds(facts, COUPLED).mode.length
        assert abs(drafted(Greedy(COUPLED), [0.8] * 32, facts) - best) <= 1


def test_greedy_with_known_chances_beats_every_fixed_length() -> None:
    rng = np.random.default_rng(5)
    chances = np.where(rng.random((1000, 24)) < 0.5, 0.98, 0.62)  # sure or unsure, .8 on average
    rule, speeds = Greedy(COUPLED), {}
    lengths = {f"fixed {n}": [n] * len(chances) for n in range(1, 17)}
    lengths["greedy"] = [drafted(rule, row.tolist(), FACTS) for row in chances]
    for name, counts in lengths.items():
        tokens = sum(1 + np.cumprod(row[:count]).sum() for row, count in zip(chances, counts, strict=True))
        idle_s = FACTS.rtt_s + FACTS.verify_s + COUPLED.answer_bits / FACTS.downlink_bps
        seconds = sum(
            idle_s + count * FACTS.draft_s + COUPLED.packet_bits(count) / FACTS.uplink_bps for count in counts
        )
        speeds[name] = tokens / seconds
    assert max(speeds, key=lambda name: speeds[name]) == "greedy"


def test_specdec_stops_once_a_rejection_is_likely() -> None:
    rule = SpecDecPlus(0.7)
    assert drafted(rule, [0.8] * 20, FACTS) == 6  # .8^5 = .328 > .3 > .8^6
    assert drafted(rule, [0.99, 0.2, 0.99, 0.99], FACTS) == 2
    with pytest.raises(BadParameterError, match="threshold is 1"):
        SpecDecPlus(1.0)


@pytest.mark.parametrize("name", ["fixed", *RULES])
def test_a_rule_ends_rounds_and_leaves_the_text_alone(name: str) -> None:
    rule = RULES[name](wire("coupled", 50)) if name in RULES else Fixed(3)
    target = table(3, vocab=50, scale=2.0, eos_ids=(49,))
    pair, drafted = Pair(alike(target, 4), target), set()
    for seed in range(12):
        params = SamplingParams(0.9)
        asked = Request((0, 1), SchemeSpec("coupled"), params, seed, 20, rule=rule)
        assert pair.write(asked).tokens == list(alone.write(target, (0, 1), params, seed, 20))
        drafted.add(round(asked.counts.drafted / asked.counts.rounds, 2))
    assert min(drafted) >= 0.5
    assert max(drafted) <= 32


def test_rounds_end_where_the_draft_is_unsure() -> None:
    """A draft model that is sure and right, and at every fourth position unsure and wrong."""

    def row(prefix: tuple[int, ...], scale: float) -> np.ndarray:
        logits = np.zeros(6, np.float32)
        wild = len(prefix) % 4 == 3
        logits[(len(prefix) * 7 + (2 if wild and scale < 5 else 0)) % 6] = 1.0 if wild and scale < 5 else scale
        return logits

    target, draft = (TableModel(lambda prefix, scale=scale: row(prefix, scale), 6) for scale in (9.0, 4.0))
    rejected = {}
    for name, rule in (("fixed", Fixed(8)), ("specdec++", SpecDecPlus(0.3))):
        pair, counts = Pair(draft, target), Counts()
        for seed in range(6):
            params = SamplingParams(0.5)
            pair.write(Request((0,), SchemeSpec("coupled"), params, seed, 60, counts=counts, rule=rule))
        rejected[name] = (counts.drafted - counts.accepted) / counts.committed
    assert rejected["specdec++"] < 0.7 * rejected["fixed"]
