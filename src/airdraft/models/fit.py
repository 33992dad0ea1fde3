"""The fit of a model to its machine: what a user asks for, and what the machine has."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airdraft.errors import ModelError

_CPUS = Path("/sys/devices/system/cpu")
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory a container may take."""

_KEPT_PART, _LEAST_KEPT = 128, 1 << 26
"""Of the memory, for keys and values of ended texts, and bytes for them at least."""


@dataclass(frozen=True)
class Fit:
    """What a user asks of the engine that runs a model. None: as the engine finds best."""

    threads: int | None = None
    context: int | None = None
    """Most positions of a text, fewer than the model's own."""
    kv_type: str | None = None
    """Type in which keys and values are kept."""
    gpu_layers: int | None = None
    """Layers that run on a GPU."""
    splice: bool | None = None
    """Whether texts that begin alike keep that once, see `Sharing`."""

    @property
    def given(self) -> dict[str, Any]:
        """What is not None, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def words(self) -> list[str]:
        """The options of a command that ask for it."""
        return [
            word
            for name, value in self.given.items()
            for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
        ]


def context_of(
    what: object, asked: int | None, own: int, position_bytes: int, weight_bytes: int, memory: int | None = None
) -> int:
    """The most positions of a text: `asked`, or where that is None the model's `own`.

    what: the model, in messages. position_bytes: of one position's keys and values. memory: of the place where they
    lie; None: of this machine.
    Raises: `ModelError` if more are asked for than the model has, or than the memory holds beside the weights.
    """
    if asked is None:
        return own
    if not 1 <= asked <= own:
        raise ModelError(f"a context of {asked} positions is not to be had: {what} has up to {own}; give 1 to {own}")
    has = memory_bytes() if memory is None else memory
    needs = weight_bytes + asked * position_bytes
    if has is None or needs <= has:
        return asked
    fitting = max(0, has - weight_bytes) // max(1, position_bytes)
    remedy = f"give at most {fitting}" if fitting else "choose a smaller model"
    raise ModelError(
        f"a context of {asked} positions takes {_gb(needs)} with the weights of {what}, and this machine has "
        f"{_gb(has)}; {remedy}"
    )


def kept_bytes(asked_mb: int | None = None) -> int:
    """Bytes of keys and values to keep of ended texts: as many MB as asked for, or what this machine has to spare."""
    if asked_mb is not None:
        return asked_mb * 1_000_000
    return max(_LEAST_KEPT, (memory_bytes() or 0) // _KEPT_PART)


def memory_bytes() -> int | None:
    """Memory of this machine, or of the container if that has less; None: nobody says."""
    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: Windows
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for place in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            found.append(int(Path(place).read_text("ascii")))
    return min((each for each in found if each > 0), default=None)


def free_bytes() -> int | None:
    """Memory that may still be taken: what Linux has available, or a container's limit; None: nobody says."""
    if sys.platform != "linux":
        return None
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min((each for each in (*available, memory_bytes()) if each is not None), default=None)


def cores() -> int:
    """Physical cores that this process may use, at least 1."""
    try:
        mine = os.sched_getaffinity(0)
    except AttributeError:  # macOS, Windows
        mine = set(range(os.cpu_count() or 1))
    siblings = {_siblings(cpu) for cpu in mine}
    return max(1, min(len(siblings), _share()))


def _siblings(cpu: int) -> str:
    """What names the core of a logical processor."""
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text("ascii")
    except OSError:
        return str(cpu)


def _share() -> int:
    """Cores' worth of time that a container may take."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # ValueError: "max"
        return 1 << 30


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
