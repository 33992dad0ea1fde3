"""The dearest of everything that is known to be dear: messages at their limits, floods, and peers that never read.

Unlike the hunt it draws nothing but the order, and it measures: the CPU that nobody else gets meanwhile, and memory.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from airdraft.lab.fuzz import stage
from airdraft.lab.fuzz.hunt import MOST_CPU_MS, Dearest, above, attempt, keep, memory_bytes
from airdraft.lab.fuzz.limits import limits

LIMITS, FLOODS, UNREAD = "at a limit", "floods", "never read"

Try = Callable[[], str]
"""Try one input. Returns what is wrong with it."""


class Survey(msgspec.Struct):
    """The findings of a survey."""

    dearest: dict[str, Dearest]
    """By kind."""
    known: dict[str, int]
    """The number of inputs that there are, by kind. In a short time not all are tried."""
    faults: list[str] = []
    """Inputs above the budget, or that broke something."""

    @property
    def clean(self) -> bool:
        """Whether some of every kind were tried, and nothing was found."""
        return not self.faults and all(each.inputs for each in self.dearest.values())


def survey(seconds: float, seed: int, folder: Path) -> Survey:
    """Try all inputs, or one of each kind in turn for `seconds`. Inputs at a limit that have a fault go to `folder`."""
    rng = random.Random(seed)  # noqa: S311
    dearest = {kind: Dearest() for kind in (LIMITS, FLOODS, UNREAD)}
    todo: dict[str, list[Try]] = {
        LIMITS: [partial(_at_a_limit, name, make, folder, dearest[LIMITS]) for name, make in limits()],
        FLOODS: [partial(_act, act, dearest[FLOODS]) for act in stage.acts() if act.reads],
        UNREAD: [partial(_act, act, dearest[UNREAD]) for act in stage.acts() if not act.reads],
    }
    found = Survey(dearest, {kind: len(tries) for kind, tries in todo.items()})
    for tries in todo.values():
        rng.shuffle(tries)
    over_s = time.monotonic() + seconds
    with _quiet():
        while any(todo.values()) and time.monotonic() < over_s:
            for tries in todo.values():
                if tries and (fault := tries.pop()()):
                    found.faults.append(fault)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Log nothing in the body: an edge under attack has much to say."""
    loggers = [logging.getLogger(name) for name in ("airdraft", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _at_a_limit(name: str, make: Callable[[], bytes], folder: Path, dearest: Dearest) -> str:
    data = make()
    tried = attempt(data)
    peak = 0 if tried.fault else memory_bytes(data)
    dearest.note(name, tried.cpu_ms, peak)
    fault = tried.fault or above(tried.cpu_ms, peak)
    return f"{keep(data, folder)}: {name}: {fault}" if fault else ""


def _act(act: stage.Act, dearest: Dearest) -> str:
    cpu_ms = stage.cost(act, memory=False).cpu_ms
    if MOST_CPU_MS < cpu_ms < 2 * MOST_CPU_MS:  # see `attempt`
        cpu_ms = min(cpu_ms, stage.cost(act, memory=False).cpu_ms)
    fault = above(cpu_ms, 0)
    peak = 0 if fault else stage.cost(act, memory=True).peak_bytes  # it is traced several times slower
    dearest.note(act.name, cpu_ms, peak)
    fault = fault or above(0.0, peak)
    return f"{act.name}: {fault}" if fault else ""
