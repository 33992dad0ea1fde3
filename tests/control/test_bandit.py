"""The unimodal bandit: it finds the peak within its budget, as often as the budget allows, and draws nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.control.bandit import UnimodalBandit
from airdraft.control.lengths import Fixed, HoloBeam, Length
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts
from airdraft.errors import BadParameterError
from airdraft.lab.record import synthetic
from airdraft.lab.virtual.cell import constant, run


def pulls(bandit: UnimodalBandit, rewards: Callable[[int], float]) -> list[int]:
    """Pull until one arm is left. Returns: the arms, the last of them the one that is left."""
    pulled = []
    while not bandit.settled:
        pulled.append(bandit.arm)
        bandit.learn(rewards(bandit.arm), 1.0)
    return [*pulled, bandit.arm]


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=60), st.data())
def test_the_peak_is_found_where_nothing_is_noise(steps: list[float], data: st.DataObject) -> None:
    peak = data.draw(st.integers(0, len(steps)))
    values = [1000 - sum(steps[min(at, peak) : max(at, peak)]) for at in range(len(steps) + 1)]
    budget = 4 * (len(values) + 1)
    found = pulls(UnimodalBandit(range(len(values)), budget), values.__getitem__)
    assert found[-1] == peak
    assert len(found) - 1 <= budget


def missed(budget: int, seeds: int = 300) -> float:
    """How often the peak of ten arms is missed, each reward off by as much as two arms differ."""
    wrong = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        peak = seed % 10
        found = pulls(UnimodalBandit(range(10), budget), lambda arm: 20 - abs(arm - peak) + rng.normal())  # noqa: B023
        wrong += found[-1] != peak
    return wrong / seeds


def test_a_larger_budget_misses_the_peak_less_often() -> None:
    few, more, many = missed(24), missed(96), missed(384)
    assert few > 2 * more > 4 * many
    assert many < 0.02


def test_a_peak_of_many_arms_takes_few_probes() -> None:
    found = pulls(UnimodalBandit(range(200), 200), lambda arm: -abs(arm - 77))
    assert found[-1] == 77
    assert len(set(found)) < 40


def test_a_budget_too_small_is_refused() -> None:
    with pytest.raises(BadParameterError, match="a budget of 8 and 20 arms; give at least"):
        UnimodalBandit(range(20), 8)


@pytest.mark.parametrize("lengths", [[], [0, 1]])
def test_lengths_below_one_are_refused(lengths: list[int]) -> None:
    with pytest.raises(BadParameterError, match="no draft length"):
        HoloBeam(lengths)


class Noting(Fixed):
    """A fixed length that notes what it is told."""

    def learn(self, tokens: int, seconds: float) -> None:
        """See `Length.learn`."""
        noted.append((tokens, seconds))


noted: list[tuple[int, float]] = []


@pytest.mark.parametrize("scheme", ["coupled", "dense", "split"])
def test_a_rule_is_told_of_every_round_but_the_first(scheme: str) -> None:
    """Over a link of 40 ms: 4 drafts of 5 ms, the way, and a forward of 30 ms."""
    noted.clear()
    setting, texts = constant(40.0, 1e3, 5.0, 30.0, 1e3), synthetic(0.7, 1, 120, 3, 64)
    result = run(texts, setting, SchemeSpec(scheme), rule=Noting(4))
    assert result.identical
    assert len(noted) == result.counts.rounds - 1
    assert 115 <= sum(tokens for tokens, _ in noted) <= 120
    whole = [seconds for _, seconds in noted[:-2]]
    assert min(whole) == pytest.approx(0.09, abs=0.001)
    assert sum(seconds for _, seconds in noted) == pytest.approx(result.seconds, abs=0.2)


def test_it_finds_a_length_that_is_nearly_the_best_and_chooses_the_same_again() -> None:
    setting, texts = constant(100.0, 5.0, 5.0, 30.0), synthetic(0.8, 1, 2000, 1, 64)

    def speed(rule: Length) -> float:
        result = run(texts, setting, SchemeSpec("coupled"), rule=rule)
        assert result.identical
        return result.tokens_per_s

    fixed = {length: speed(Fixed(length)) for length in (1, 6, 8, 12)}
    rules = [HoloBeam(), HoloBeam()]
    found = [speed(rule) for rule in rules]
    assert found[0] == found[1]
    assert speed(Fixed(rules[0].length)) > 0.95 * max(fixed.values())
    assert found[0] > 0.9 * max(fixed.values())
    assert fixed[1] < 0.6 * max(fixed.values())  # there is something to find
    assert not rules[0].more([1.0] * rules[0].length, Facts(0.005, 0.03, 0.1, 5e6, 1e8, 0.8))
