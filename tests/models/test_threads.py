"""The number of threads is chosen by a trial, and says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import EngineInfo, FloatArray, Part, Threads
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.fit import Fit
from airdraft.models.registry import load, load_target
from airdraft.models.threads import SHORT_S, TRIAL_S, tried

from .test_profile import Sleeping

VOCAB = 8


class Sleeper:
    """An engine whose forwards take so many milliseconds on so many threads; it notes what it ran on."""

    switch_s = 0.0

    def __init__(self, clock: Sleeping, first: int, ms: Mapping[int, float], fails: bool = False) -> None:
        self.info = EngineInfo("sleeper", VOCAB, 64, threads=Threads(first))
        self._clock, self._ms, self._fails = clock, ms, fails
        self.ran: list[int] = [first]

    def use_threads(self, threads: Threads) -> None:
        self.info = replace(self.info, threads=threads)
        self.ran.append(threads.count)

    def new_cache(self) -> Any:
        return None

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        if self._fails:
            return [ModelError("no") for _ in batch]
        assert self.info.threads is not None
        self._clock.sleep(self._ms[self.info.threads.count] / 1e3)
        return [np.zeros((part.rows, VOCAB), np.float32) for part in batch]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Sleeping:
    """The trial's clock: what else this machine does takes no time."""
    found = Sleeping()
    monkeypatch.setattr("airdraft.models.threads.time", found)
    return found


@pytest.mark.parametrize(
    ("first", "ms", "chosen", "tries"),
    [
        (1, {1: 16, 2: 8, 4: 4}, 4, [1, 2, 4]),
        (1, {1: 16, 2: 8, 4: 24}, 2, [1, 2, 4]),
        (1, {1: 8, 2: 16, 4: 1}, 1, [1, 2]),  # slower on 2: others are not tried
        (1, {1: 8, 2: 7.9, 4: 7.8}, 1, [1, 2, 4]),  # hardly faster: the cores are for others
        (1, {1: 1e3 * SHORT_S / 4, 2: 0.01, 4: 0.01}, 1, [1]),  # over before others have woken
        (4, {4: 8, 2: 16, 1: 32}, 4, [4, 2]),
        (4, {4: 16, 2: 8, 1: 16}, 2, [4, 2, 1]),
    ],
)
def test_the_fastest_number_and_of_those_alike_the_least(
    first: int, ms: dict[int, float], chosen: int, tries: list[int], clock: Sleeping
) -> None:
    engine = Sleeper(clock, first, ms)
    tried(engine, (2, 6), most=4)
    assert clock.now_s < TRIAL_S
    assert engine.ran == [*tries, chosen]
    found = engine.info.threads
    assert found is not None
    assert (found.count, " ms" in found.why) == (chosen, True)


def test_a_slow_engine_is_not_tried_again(clock: Sleeping) -> None:
    engine = Sleeper(clock, 4, {4: 500, 2: 1, 1: 1})
    tried(engine, (2, 6), most=4)
    assert engine.ran == [4, 4]
    assert engine.info.threads is not None
    assert engine.info.threads.why.endswith("more were not tried")


def test_an_engine_that_fails_says_so_when_it_is_used(clock: Sleeping) -> None:
    engine = Sleeper(clock, 1, {1: 1}, fails=True)
    tried(engine, (1,), most=4)
    assert engine.ran == [1]


def test_a_loaded_model_says_on_how_many_it_runs_and_why() -> None:
    model, _ = load_target("target")
    assert model.info.threads is not None
    assert " ms" in model.info.threads.why
    draft, _ = load("draft", fit=Fit(threads=2))
    assert draft.info.threads == Threads(2)  # type: ignore[attr-defined]


def test_rows_do_not_depend_on_the_number() -> None:
    model = OnnxModel(shipped("draft"))
    rows = model.forward(model.new_cache(), 0, [1, 2, 3], 3)
    model.use_threads(Threads(2))
    assert model.info.threads == Threads(2)
    np.testing.assert_allclose(model.forward(model.new_cache(), 0, [1, 2, 3], 3), rows, rtol=0, atol=1e-4)
