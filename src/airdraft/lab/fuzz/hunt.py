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

from airdraft.errors import BadParameterError
from airdraft.lab.fuzz import part_of, run
from airdraft.lab.fuzz.mutate import mutate, seeds

HANG_S = 2.0
"""Seconds of the process's own time after which an input is a hang; a busy machine does not count."""
TRACED = 50
"""One input out of so many is tried again with its memory traced."""
MOST_CPU_MS, MOST_BYTES = 50.0, 20_000_000
"""Budget of one input: CPU during which nobody else is served, and memory."""
MOST_GROWTH_MIB = 64.0
"""Most memory that all of them may leave behind."""
_KINDS = {"Memory": "greedy", "CPU": "dear", "HungError": "hangs"}
"""The list for each kind of fault, by its first word; all others are crashes."""
KEPT = 4096
"""Most inputs to make further ones from: those that ended in a new way."""


class HungError(Exception):
    """An input took too long."""


class Dearest(msgspec.Struct):
    """The dearest inputs of a kind; they need not be one."""

    inputs: int = 0
    cpu_ms: float = 0.0
    """CPU during which nobody else is served."""
    cpu_input: str = ""
    peak_bytes: int = 0
    peak_input: str = ""

    def note(self, name: str, cpu_ms: float, peak_bytes: int) -> None:
        """Count an input. 0 is a cost that was not measured."""
        self.inputs += 1
        if cpu_ms > self.cpu_ms:
            self.cpu_ms, self.cpu_input = cpu_ms, name
        if peak_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_input = peak_bytes, name


def above(cpu_ms: float, peak_bytes: int) -> str:
    """What of a cost is above the budget; empty if nothing is."""
    if cpu_ms > MOST_CPU_MS:
        return f"CPU: {cpu_ms:.0f} ms for one turn, where {MOST_CPU_MS:g} are allowed"
    if peak_bytes > MOST_BYTES:
        return f"Memory: {peak_bytes / 1e6:.0f} MB, where {MOST_BYTES / 1e6:g} are allowed"
    return ""


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
    dear: list[str] = []
    """Inputs that took too much CPU."""
    slowest_ms: float = 0.0
    dearest: Dearest = msgspec.field(default_factory=Dearest)
    growth_mib: float = 0.0
    """Memory left behind by all of them, beyond what the first ones left."""

    @property
    def clean(self) -> bool:
        """Whether something was tried, and nothing found."""
        return self.executions > 0 and not (self.crashes or self.hangs or self.greedy or self.dear)


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


class Attempt(msgspec.Struct, frozen=True):
    """What came of an input."""

    ending: str
    fault: str = ""
    """Where and how it broke something, if it did."""
    cpu_ms: float = 0.0


def attempt(data: bytes) -> Attempt:
    """Try one input. CPU above the budget is counted a second time: the first may have been a collection of garbage."""
    try:
        with _no_longer_than(HANG_S):
            ran = run(data)
            if 1e3 * ran.dearest_s > MOST_CPU_MS:
                ran = min(ran, run(data), key=lambda each: each.dearest_s)
            return Attempt(ran.ending, "", 1e3 * ran.dearest_s)
    except Exception as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "airdraft" in frame.filename]
        inner = [frame for frame in ours if "/lab/fuzz/" not in Path(frame.filename).as_posix()] or ours
        place = f"{Path(inner[-1].filename).name}:{inner[-1].lineno}" if inner else "outside airdraft"
        return Attempt("", f"{type(error).__name__} at {place}: {' '.join(str(error).split())}")


def memory_bytes(data: bytes) -> int:
    """The most memory that an input takes."""
    tracemalloc.start()
    try:
        attempt(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def keep(data: bytes, folder: Path) -> Path:
    """Write an input to a file, to be tried again. Raises: `BadParameterError` if that cannot be done."""
    path = folder / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise BadParameterError(f"{path} cannot be written ({error.strerror}); give another --folder") from error
    return path


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
        tried = attempt(data)
        took_s = time.perf_counter() - before_s
        fault = tried.fault
        found.executions += 1
        parts[part_of(data)] += 1
        found.slowest_ms = max(found.slowest_ms, 1e3 * took_s)
        if not fault:
            traced = found.executions % TRACED == 0
            peak = memory_bytes(data) if traced else 0
            found.dearest.note(f"{len(data)} bytes to the {part_of(data)}", tried.cpu_ms, peak)
            fault = above(tried.cpu_ms, peak)
        if found.executions == 2000:
            first_mib = _resident_mib()
        if fault:
            kind = next((kind for start, kind in _KINDS.items() if fault.startswith(start)), "crashes")
            place = kind if kind in ("greedy", "dear") else ":".join(fault.split(":")[:2])
            if place not in places:
                places.add(place)
                getattr(found, kind).append(f"{keep(data, folder)}: {fault}")
        elif (data[0], tried.ending) not in endings and len(endings) < KEPT:
            endings.add((data[0], tried.ending))
            inputs.append(data)
    found.seconds = time.monotonic() - began_s
    found.by_part, found.endings = dict(parts), len(endings)
    found.growth_mib = max(0.0, _resident_mib() - first_mib) if first_mib else 0.0
    if found.growth_mib > MOST_GROWTH_MIB:
        found.greedy.append(f"all inputs: {found.growth_mib:.0f} MiB were left behind")
    return found
