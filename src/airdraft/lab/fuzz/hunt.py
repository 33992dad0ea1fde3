"""A search with changed inputs, for a while, that keeps those that break something."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import msgspec

from airdraft.lab.fuzz import PARTS, run
from airdraft.lab.fuzz.mutate import mutate, seeds

HANG_S = 2.0
"""Seconds of the process's own time after which an input is a hang; a busy machine does not count."""
TRACED = 50
"""One input out of so many is tried again with its memory traced."""
MOST_MIB = 16.0
"""Most memory that one input may take."""
MOST_GROWTH_MIB = 64.0
"""Most memory that all of them may leave behind."""
KEPT = 4096
"""Most inputs to make further ones from: those that ended in a new way."""


class HungError(Exception):
    """An input took too long."""


class Hunt(msgspec.Struct):
    """The findings of a hunt."""

    seed: int
    seconds: float = 0.0
    executions: int = 0
    by_part: dict[str, int] = {}
    endings: int = 0
    """The number of different ways in which inputs ended."""
    crashes: list[str] = []
    """One line for each place in the code."""
    hangs: list[str] = []
    greedy: list[str] = []
    """Inputs that took too much memory."""
    slowest_ms: float = 0.0
    peak_mib: float = 0.0
    """Most memory that a traced input took."""
    growth_mib: float = 0.0
    """Memory left behind by all of them, beyond what the first ones left."""

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.crashes or self.hangs or self.greedy)


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    """Raise `HungError` in the body when its time is over, where the system has interval timers (not on Windows)."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise HungError(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt(data: bytes) -> tuple[str, str]:
    """Try one input. Returns how it ended, and where and how it broke something, if it did."""
    try:
        with _no_longer_than(HANG_S):
            return run(data), ""
    except Exception as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "airdraft" in frame.filename]
        inner = [frame for frame in ours if "/lab/fuzz/" not in Path(frame.filename).as_posix()] or ours
        place = f"{Path(inner[-1].filename).name}:{inner[-1].lineno}" if inner else "outside airdraft"
        return "", f"{type(error).__name__} at {place}: {' '.join(str(error).split())}"


def memory_mib(data: bytes) -> float:
    """The most memory that an input takes, in MiB."""
    tracemalloc.start()
    try:
        attempt(data)
        return tracemalloc.get_traced_memory()[1] / (1 << 20)
    finally:
        tracemalloc.stop()


def _resident_mib() -> float:
    try:
        import resource  # noqa: PLC0415  Unix only
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def hunt(seconds: float, seed: int, folder: Path) -> Hunt:
    """Try inputs for `seconds`. Those that break something are written to `folder`, one for each place in the code."""
    rng = random.Random(seed)  # noqa: S311
    found, parts, endings, places = Hunt(seed), Counter[str](), set[tuple[int, str]](), set[str]()
    inputs = seeds()
    todo = iter(list(inputs))  # the unchanged ones first
    began_s = time.monotonic()
    first_mib = 0.0
    while time.monotonic() < began_s + seconds:
        data = next(todo, None) or mutate(rng.choice(inputs), rng)
        before_s = time.perf_counter()
        ending, fault = attempt(data)
        took_s = time.perf_counter() - before_s
        found.executions += 1
        parts[PARTS[data[0] % len(PARTS)]] += 1
        found.slowest_ms = max(found.slowest_ms, 1e3 * took_s)
        if not fault and found.executions % TRACED == 0:
            peak_mib = memory_mib(data)
            found.peak_mib = max(found.peak_mib, peak_mib)
            if peak_mib > MOST_MIB:
                fault = f"Memory: {peak_mib:.0f} MiB for {len(data)} bytes"
        if found.executions == 2000:
            first_mib = _resident_mib()
        if fault:
            place = fault.partition(":")[0] if fault.startswith("Memory") else ":".join(fault.split(":")[:2])
            if place not in places:
                places.add(place)
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
                path.write_bytes(data)
                kind = "greedy" if place == "Memory" else "hangs" if place.startswith("HungError") else "crashes"
                getattr(found, kind).append(f"{path}: {fault}")
        elif (data[0], ending) not in endings and len(endings) < KEPT:
            endings.add((data[0], ending))
            inputs.append(data)
    found.seconds = time.monotonic() - began_s
    found.by_part, found.endings = dict(parts), len(endings)
    found.growth_mib = max(0.0, _resident_mib() - first_mib) if first_mib else 0.0
    if found.growth_mib > MOST_GROWTH_MIB:
        found.greedy.append(f"all inputs: {found.growth_mib:.0f} MiB were left behind")
    return found
