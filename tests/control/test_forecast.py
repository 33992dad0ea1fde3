"""Forecasts of a link: what they say of links that are known, and when drafts are in vain."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from airdraft.control.forecast import FORECASTERS, HORIZONS_S, STEP_S, LinkSample, Sighted, forecaster
from airdraft.control.foresight import FIRST_LATE_S, LATE, Foreseeing
from airdraft.errors import BadParameterError


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_link_that_never_changes_is_forecast_as_it_is(name: str) -> None:
    chosen = forecaster(name)
    assert all((each.goodput_bps, each.rtt_s, each.outage) == ((), (), 0.0) for each in chosen.forecast())
    for _ in range(100):
        chosen.see(LinkSample(False, 0.03, 5e6))
    for outlook, horizon_s in zip(chosen.forecast(), HORIZONS_S, strict=True):
        assert outlook.horizon_s == horizon_s
        assert outlook.goodput_bps == pytest.approx([5e6] * 3, rel=0.01)
        assert outlook.rtt_s == pytest.approx([0.03] * 3, rel=0.01)
        assert outlook.outage < 0.15


@pytest.mark.parametrize("name", FORECASTERS)
def test_quantiles_hold_the_share_that_they_say(name: str) -> None:
    rng, chosen = np.random.default_rng(1), forecaster(name)
    inside, below = list[bool](), list[bool]()
    for _ in range(1500):
        rate = 10 ** (6 + 0.2 * rng.standard_normal())
        if quantiles := chosen.forecast()[0].goodput_bps:
            low, middle, high = quantiles
            inside.append(low <= rate <= high)
            below.append(rate <= middle)
        chosen.see(LinkSample(False, None, rate))
    assert 0.75 < np.mean(inside[300:]) < 0.85
    assert 0.45 < np.mean(below[300:]) < 0.55


@pytest.mark.parametrize("name", FORECASTERS)
def test_an_outage_is_likelier_while_the_link_is_down(name: str) -> None:
    """Up for 20 steps and down for 20: after a step up, the next is down once in 20."""
    chosen, said = forecaster(name), {True: list[float](), False: list[float]()}
    for at in range(2000):
        down = at % 40 >= 20
        chosen.see(LinkSample(down))
        if at > 1000:
            said[down].append(chosen.forecast()[0].outage)
    assert np.mean(said[True]) > 0.85
    assert np.mean(said[False]) < 0.15


def test_an_unknown_forecaster_is_refused() -> None:
    with pytest.raises(BadParameterError, match="'oracle'; give one of ewma, ridge"):
        forecaster("oracle")


def confirmed(learner: Foreseeing, rtt_s: float, until_s: float) -> int:
    """A packet every 20 ms, each confirmed after `rtt_s`. Returns the number of the last."""
    sent = 0
    for sent, now in enumerate(np.arange(0.02, until_s, 0.02), 1):
        assert not learner.late(1, float(now), sent, max(0, sent - 1 - round(rtt_s / 0.02)))
    return sent


@pytest.mark.parametrize("name", FORECASTERS)
def test_drafts_are_late_while_a_confirmation_is_overdue(name: str) -> None:
    learner = Foreseeing(forecaster(name))
    sent = confirmed(learner, 0.04, 4.0)
    late = [learner.late(1, 4.0 + after_s, sent, sent - 3) for after_s in (0.0, 0.01, 0.05, 0.3)]
    assert late == [False, False, True, True]
    assert all(not later or earlier <= later for earlier, later in pairwise(late))
    assert not [learner.late(1, 4.4 + STEP_S * step, sent, sent) for step in range(60)][-1]


def test_nothing_is_late_before_a_round_trip_is_known() -> None:
    learner = Foreseeing(forecaster("ewma"))
    assert not learner.late(1, 0.0, 1, 0)
    assert not learner.late(1, FIRST_LATE_S - 0.01, 1, 0)
    assert learner.late(1, FIRST_LATE_S + 0.01, 1, 0)
    assert LATE > 1


@pytest.mark.parametrize("name", FORECASTERS)
def test_confirmations_that_take_seconds_do_not_make_seconds_seem_in_time(name: str) -> None:
    """A link that lets a packet through now and then: the forecast round trip grows, and drafts are in vain all the
    same, because the edge writes a token every 30 ms meanwhile."""
    learner = Foreseeing(forecaster(name))
    sent = confirmed(learner, 0.04, 2.0)
    now, late = 2.0, list[bool]()
    for _ in range(10):
        sent += 1
        late += [learner.late(1, now + 0.05 * step, sent, sent - 1) for step in range(40)]
        now += 2.0
        learner.late(1, now, sent, sent)
    assert np.mean(late[-200:]) > 0.8


def test_texts_have_packets_of_their_own() -> None:
    learner = Foreseeing(forecaster("ewma"))
    learner.late(1, 0.0, 7, 0)
    for session in range(2, 80):  # the oldest are forgotten
        learner.late(session, 0.01, 1, 0)
    learner.late(80, 0.02, 1, 1)
    assert len(learner._flying) <= 64


def test_a_modem_without_signal_is_down_before_a_confirmation_is_overdue() -> None:
    silent = False
    learner = Foreseeing(Sighted(forecaster("ridge"), lambda now: (silent, (2.0,))))
    sent = confirmed(learner, 0.04, 2.0)
    for cycle in range(6):  # outages that the confirmations do not show
        silent = True
        found = [learner.late(1, 2.0 + cycle + STEP_S * step, sent, sent) for step in range(1, 11)]
        silent = False
        after = [learner.late(1, 2.5 + cycle + STEP_S * step, sent, sent) for step in range(1, 10)]
    assert all(found[1:])
    assert not any(after[1:])
