"""`python -m airdraft.guides.trial`: grammars are read here first, in a process of their own with limits.

llguidance bounds most of its work, but not all: `multipleOf` takes time and memory by the number that a schema names.
It cannot be interrupted, and holds the interpreter, so that meanwhile nobody would be served. So the kernel sets the
limits, on a process that holds nothing else. It reads guides, a line of JSON each, and answers each with a line, and
ends with its input.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from functools import cache
from pathlib import Path

from airdraft.guides.grammar import begun

CPU_S = 0.5
"""Seconds of CPU to read one grammar."""
MEMORY = 1 << 29
"""Bytes of memory that the process may take beyond what it began with."""


class TrialReader:
    """The process, as its parent sees it. It is begun for the first grammar, and again if it has ended."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, kind: str, text: str) -> str | None:
        """Let a grammar be read. Returns why it cannot be read within the limits; None: it can."""
        line = json.dumps([kind, text]).encode()
        with self._turn:
            process = self._started()
            answer = b""
            try:
                if process.stdin is not None and process.stdout is not None:
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.write(line + b"\n")
                        process.stdin.flush()
                        answer = process.stdout.readline()
            except KeyboardInterrupt:  # the next grammar would get the answer to this one
                _end(process)
                raise
            if answer:
                found: str | None = json.loads(answer)
                return found
            _end(process)
            return f"it takes more than {CPU_S:g} s or {MEMORY >> 20} MB, or breaks its reader; give a simpler one"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            process = subprocess.Popen(  # noqa: S603 - this very program
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
            weakref.finalize(self, _end, process)
            self._process = process
        return self._process


@cache
def trial() -> TrialReader:
    """Return the one of this process."""
    return TrialReader()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


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


if __name__ == "__main__":
    main()
