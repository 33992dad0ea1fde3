"""A module of airdraft in a process of its own, which answers every line that it reads, and ends with its input.

What can neither be interrupted nor bounded where it is called runs there, under limits of the kernel that the module
sets itself.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping


class Apart:
    """Such a process, as its parent sees it. One thread at a time may use it."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        """`module` has a `main`, which reads and answers. `environment`: variables besides this process's own."""
        self._module, self._environment = module, {} if environment is None else environment
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> bool:
        """Begin the process unless it runs. Returns whether it was begun, and so knows nothing of earlier lines."""
        if self.process is not None and self.process.poll() is None:
            return False
        # Not with -m, which warns of a module that its own package imports: an error where warnings are errors.
        program = f"from {self._module} import main; main()"
        self.process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, **self._environment},
        )  # fmt: skip
        weakref.finalize(self, _end, self.process)
        return True

    def ask(self, line: bytes) -> bytes:
        """Return the answer to a line, from a process that has begun; empty if that has ended instead."""
        process, answer = self.process, b""
        if process is None or process.stdin is None or process.stdout is None:
            return answer
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(line + b"\n")
                process.stdin.flush()
                answer = process.stdout.readline()
        finally:
            if not answer:  # also when interrupted: the next line would get the answer to this one
                _end(process)
        return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
