"""A clock that only looks at it advance, for trainings whose budget is a time: as many steps on every machine."""

from __future__ import annotations

import itertools

import pytest

from training import runtime


def ticking(monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    """From now on so many looks at the clock of a training take a second of its budget."""

    class Ticking(runtime.Clock):
        def __init__(self, minutes: float, spent: float = 0.0, now: object = None) -> None:
            ticks = itertools.count()
            super().__init__(minutes, spent, lambda: next(ticks) / looks)

    monkeypatch.setattr(runtime, "Clock", Ticking)
