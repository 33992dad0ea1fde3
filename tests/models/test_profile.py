"""Compute profiles: never early, and otherwise the model itself."""

from __future__ import annotations

import time

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.base import LanguageModel
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.profile import PROFILES, Paced, profile


def test_profiles_by_name() -> None:
    assert (profile("phone-8b").draft_s, profile("phone-8b").target_s) == (0.015, 0.030)
    assert (profile("none").draft_s, profile("none").target_s) == (0.0, 0.0)
    assert all(each.description for each in PROFILES.values())


def test_an_unknown_profile() -> None:
    with pytest.raises(ModelError, match="no profile 'phone-9b'; there are none, phone-8b"):
        profile("phone-9b")


def test_a_paced_model_is_never_early(draft: OnnxModel) -> None:
    model = Paced(draft, 0.004)
    cache = model.new_cache()
    for i in range(50):
        start = time.perf_counter()
        model.forward(cache, i, [i], 1)
        assert time.perf_counter() - start >= 0.004


class Sleeping:
    """A clock that only sleep advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Sleeping:
    found = Sleeping()
    monkeypatch.setattr("airdraft.models.profile.time", found)
    return found


def test_the_pace_holds_the_models_own_time_too(draft: OnnxModel, clock: Sleeping) -> None:
    model = Paced(Paced(draft, 0.2), 0.25)
    model.forward(model.new_cache(), 0, [1], 1)
    assert clock.now_s == pytest.approx(0.25)  # 0.45 if the sleep came on top


def test_a_paced_model_is_the_model(draft: OnnxModel) -> None:
    model: LanguageModel = Paced(draft, 0.0)
    assert (model.name, model.vocab_size, model.max_context) == (draft.name, draft.vocab_size, draft.max_context)
    assert model.eos_ids == draft.eos_ids
    rows = model.forward(model.new_cache(), 0, [1, 2, 3], 2)
    np.testing.assert_array_equal(rows, draft.forward(draft.new_cache(), 0, [1, 2, 3], 2))


def test_an_error_comes_at_once(draft: OnnxModel, clock: Sleeping) -> None:
    model = Paced(draft, 30.0)
    with pytest.raises(ModelError, match="at least one token"):
        model.forward(model.new_cache(), 0, [], 0)
    assert clock.now_s == 0


@pytest.mark.parametrize("seconds", [-0.001, float("nan"), float("inf")])
def test_a_pace_that_is_none(draft: OnnxModel, seconds: float) -> None:
    with pytest.raises(ModelError, match="give 0 or more seconds"):
        Paced(draft, seconds)
