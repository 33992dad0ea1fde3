"""Learned acceptance: it converges, it forgets, and it knows a draft that is too sure."""

from __future__ import annotations

import numpy as np
import pytest

from airdraft.core.control.acceptance import Calibrated, Positions
from airdraft.errors import BadParameterError


def test_nothing_seen_is_the_prior() -> None:
    assert Positions(prior=0.6).chance(3) == 0.6
    assert Calibrated(buckets=4).chance(0.9) == 0.875


def test_positions_are_told_apart() -> None:
    rng, learned = np.random.default_rng(1), Positions()
    truth = [0.9, 0.7, 0.5]
    for _ in range(2000):
        for position, chance in enumerate(truth):
            accepted = bool(rng.random() < chance)
            learned.judged(position, accepted)
            if not accepted:
                break
    assert [learned.chance(at) for at in range(3)] == pytest.approx(truth, abs=0.1)
    assert learned.chance(9) == learned.chance(2)  # the last one known stands for those beyond


def test_what_changes_is_followed() -> None:
    learned = Positions(forgetting=0.02)
    for accepted in [True] * 500 + [False] * 150:
        learned.judged(0, accepted)
    assert learned.chance(0) < 0.15


def test_a_draft_that_is_too_sure_is_found_out() -> None:
    rng, learned = np.random.default_rng(2), Calibrated()
    for _ in range(4000):
        confidence = rng.random()
        learned.judged(confidence, bool(rng.random() < confidence**2))
    for confidence in (0.19, 0.44, 0.69, 0.94):  # centres of buckets
        assert learned.chance(confidence) == pytest.approx(confidence**2, abs=0.12)
    assert learned.chance(1.0) == learned.chance(0.99)


def test_mistakes() -> None:
    with pytest.raises(BadParameterError, match="confidence is 2"):
        Calibrated().chance(2.0)
    with pytest.raises(BadParameterError, match="buckets is 0"):
        Calibrated(buckets=0)
    with pytest.raises(BadParameterError, match="position is -1"):
        Positions().judged(-1, True)
    with pytest.raises(BadParameterError, match="prior is 2"):
        Positions(prior=2)
