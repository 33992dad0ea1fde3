"""Learned acceptance: it converges, it forgets, and it knows a draft that is too sure."""

from __future__ import annotations

import numpy as np
import pytest

from airdraft.control.acceptance import Calibrated
from airdraft.errors import BadParameterError


def test_nothing_seen_is_the_prior() -> None:
    assert Calibrated(buckets=4).chance(0.9) == 0.875


def test_what_changes_is_followed() -> None:
    learned = Calibrated(forgetting=0.02)
    for accepted in [True] * 500 + [False] * 150:
        learned.judged(0.9, accepted)
    assert learned.chance(0.9) < 0.15


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
    with pytest.raises(BadParameterError, match="weight 0"):
        Calibrated(weight=0)
