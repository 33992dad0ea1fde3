"""Compute profiles: never early, and otherwise the model itself."""

from __future__ import annotations

import time

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.base import LanguageModel
from airdraft.models.onnx import OnnxModel
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


def test_the_pace_holds_the_models_own_time_too(draft: OnnxModel) -> None:
    model = Paced(Paced(draft, 0.2), 0.25)
    start = time.perf_counter()
    model.forward(model.new_cache(), 0, [1], 1)
    assert 0.25 <= time.perf_counter() - start < 0.4  # 0.45 if the sleep came on top; between: a busy machine


def test_a_paced_model_is_the_model(draft: OnnxModel) -> None:
    model: LanguageModel = Paced(draft, 0.0)
    assert (model.name, model.vocab_size, model.max_context) == (draft.name, draft.vocab_size, draft.max_context)
    assert model.eos_ids == draft.eos_ids
    rows = model.forward(model.new_cache(), 0, [1, 2, 3], 2)
    np.testing.assert_array_equal(rows, draft.forward(draft.new_cache(), 0, [1, 2, 3], 2))


def test_an_error_comes_at_once(draft: OnnxModel) -> None:
    model = Paced(draft, 30.0)
    start = time.perf_counter()
    with pytest.raises(ModelError, match="at least one token"):
        model.forward(model.new_cache(), 0, [], 0)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("seconds", [-0.001, float("nan"), float("inf")])
def test_a_pace_that_is_none(draft: OnnxModel, seconds: float) -> None:
    with pytest.raises(ModelError, match="give 0 or more seconds"):
        Paced(draft, seconds)
