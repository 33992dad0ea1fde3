"""An engine: short forwards run where they are asked for, all others in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from airdraft.core.events import Forward
from airdraft.engine import SHORT_S, SHORT_TOKENS, Engine
from airdraft.models.base import FloatArray


class Noting:
    """A model that notes the thread of each forward."""

    name, vocab_size, max_context, eos_ids = "noting", 2, 100, ()

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def new_cache(self) -> Any:
        return None

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        self.threads.append(threading.current_thread())
        return np.zeros((rows, 2), np.float32)


def clock(took_s: Sequence[float]) -> Callable[[], float]:
    """Read before and after each forward: these take what they are said to, whatever the machine does."""
    times = iter([time for seconds in took_s for time in (0.0, seconds)])
    return lambda: next(times)


@pytest.mark.parametrize(
    ("took_s", "tokens", "here"),
    [
        ((0, 0, 0), (1, 1, SHORT_TOKENS), [False, True, True]),
        ((0, 0, 0), (1, SHORT_TOKENS + 1, 1), [False, False, True]),
        ((0, 2 * SHORT_S, 0, 0), (1, 1, 1, 1), [False, True, False, True]),
    ],
)
def test_only_short_forwards_hold_the_loop_up(
    took_s: Sequence[float], tokens: Sequence[int], here: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airdraft.engine.perf_counter", clock(took_s))
    model = Noting()
    engine = Engine(model, "noting")

    async def run() -> None:
        for at, count in enumerate(tokens):
            await engine.run(None, lambda at=at, count=count: Forward(at, 0, (1,) * count, 1))  # type: ignore[misc]

    asyncio.run(run())
    engine.close()
    assert [thread is threading.main_thread() for thread in model.threads] == here
