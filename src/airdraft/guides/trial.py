"""The trial of grammars: they are read here first, in a process of their own with limits.

llguidance bounds most of its work, but not all: `multipleOf` takes time and memory by the number that a schema names.
It cannot be interrupted, and holds the interpreter, so that meanwhile nobody would be served. So the kernel sets the
limits, on a process that holds nothing else. It reads guides, a line of JSON each, and answers each with a line, and
ends with its input.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from functools import cache
from pathlib import Path

from airdraft.apart import Apart
from airdraft.guides.grammar import begun

CPU_S = 0.5
"""Seconds of CPU to read one grammar."""
MEMORY = 1 << 29
"""Bytes of memory that the process may take beyond what it began with."""


class TrialReader:
    """The process, as its parent sees it. It is begun for the first grammar, and again if it has ended."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._apart = Apart(__name__, {"OPENBLAS_NUM_THREADS": "1"})

    def read(self, kind: str, text: str) -> str | None:
        """Let a grammar be read. Returns why it cannot be read within the limits; None: it can."""
        with self._turn:
            self._apart.begin()
            answer = self._apart.ask(json.dumps([kind, text]).encode())
        if not answer:
            return f"it takes more than {CPU_S:g} s or {MEMORY >> 20} MB, or breaks its reader; give a simpler one"
        found: str | None = json.loads(answer)
        return found


@cache
def trial() -> TrialReader:
    """Return the one of this process."""
    return TrialReader()


def main() -> None:
    """Answer every line of standard input."""
    from llguidance import LLTokenizer  # noqa: PLC0415  as in `Guides`

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is the end of the input
    tokenizer = LLTokenizer("byte")
    with contextlib.suppress(ImportError, ValueError, OSError):  # macOS has no such limit, only that of time
        import resource  # noqa: PLC0415  Unix only

        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin:
        _bound(CPU_S)
        answer: str | None = None
        try:
            begun(tokenizer, *json.loads(line))
        except MemoryError:
            break
        except ValueError as error:
            answer = str(error)
        _bound(0)
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer


def _bound(cpu_s: float) -> None:
    """End this process after so much CPU time, in the midst of whatever it does, as is the signal's default. 0: never.

    Windows has no such signal; there nothing is bounded but by llguidance itself.
    """
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
