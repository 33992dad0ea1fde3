"""The number of threads that run a model's forwards, by a trial of at most a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from airdraft.errors import AirdraftError
from airdraft.models.base import EngineInfo, FloatArray, Part, Threads
from airdraft.models.fit import cores

TRIAL_S = 1.0
_EACH_S = 0.08
"""Time for forwards of one width on one number of threads; one that takes longer is not repeated."""
SHORT_S = 0.002
"""A forward that takes less is over before other threads have woken."""
_MOST_SWITCH_S = 2.0
"""A change that takes longer is not made for a trial."""
_WORTH = 0.9
"""More threads must take less of the time of fewer than this: others want the cores, too."""
_HELD = 8
"""Positions that a trial's forwards follow."""


@runtime_checkable
class Threaded(Protocol):
    """An engine whose number of threads can be changed, between forwards."""

    info: EngineInfo
    switch_s: float
    """Seconds that a change takes, about."""

    def new_cache(self) -> Any:
        """See `TargetEngine.new_cache`."""
        ...

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`."""
        ...

    def use_threads(self, threads: Threads) -> None:
        """Run on so many threads from now on, and say so in `info`. Raises: `ModelError`."""
        ...


def tried(engine: Threaded, widths: Sequence[int], most: int | None = None) -> None:
    """Let `engine` run on the number of threads on which forwards of `widths` tokens are fastest.

    Tried are 1, 2, 4 and so on up to `most` (None: all cores), from the side of the engine's own guess, until it gets
    slower or time is up.
    """
    ends_s, most = time.perf_counter() + TRIAL_S, most or cores()
    first = engine.info.threads.count if engine.info.threads else 1
    took = {first: _forward_s(engine, widths)}
    for count in _others(first, most):
        best_s, left_s = min(took.values()), ends_s - time.perf_counter()
        if best_s == 0:
            return  # it cannot run, and says why when it is used
        short, slower = first == 1 and best_s < SHORT_S, [*took.values()][-1] > best_s / _WORTH
        if short or slower or left_s < len(widths) * best_s or engine.switch_s > _MOST_SWITCH_S:
            break
        began_s = time.perf_counter()
        engine.use_threads(Threads(count))
        ends_s += time.perf_counter() - began_s  # which is no trial
        took[count] = _forward_s(engine, widths)
    best_s = min(took.values())
    count = min(count for count, each_s in took.items() if each_s <= best_s / _WORTH)
    engine.use_threads(Threads(count, _why(took, count, most)))


def _others(first: int, most: int) -> list[int]:
    """The numbers to try after `first`: upwards from 1, and downwards from any other."""
    counts = sorted({min(1 << i, most) for i in range(most.bit_length() + 1)})
    return [n for n in counts if n > 1] if first == 1 else [n for n in reversed(counts) if n < first]


def _why(took: dict[int, float], count: int, most: int) -> str:
    said = f"a forward takes {1e3 * took[count]:.1f} ms"
    others = ", ".join(f"{1e3 * each:.1f} on {other}" for other, each in sorted(took.items()) if other != count)
    if others:
        return f"{said}; {others}"
    return said if most == 1 else f"{said}; more were not tried"


def _forward_s(engine: Threaded, widths: Sequence[int]) -> float:
    """Seconds of a forward, the mean over `widths` of the fastest of each; 0 if the engine fails."""
    cache, most = engine.new_cache(), engine.info.max_context - _HELD
    if not _run(engine, Part(cache, 0, [0] * _HELD, 0)):
        return 0.0
    found = []
    for width in widths:
        part = Part(cache, _HELD, [0] * min(width, max(1, most)), min(width, max(1, most)))
        times: list[float] = []
        ends_s = time.perf_counter() + _EACH_S
        while not times or time.perf_counter() < ends_s:
            began_s = time.perf_counter()
            if not _run(engine, part):
                return 0.0
            times.append(time.perf_counter() - began_s)
            if len(times) > 3 and min(times) < SHORT_S:
                break
        found.append(min(times))
    return sum(found) / len(found)


def _run(engine: Threaded, part: Part) -> bool:
    [found] = engine.verify([part])
    return not isinstance(found, AirdraftError)
