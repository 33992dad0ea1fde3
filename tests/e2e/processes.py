"""airdraft's commands as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "src"
PATIENCE_S = 90
# Another model of the hub is never asked for; what is wide is not wrapped by the width of a terminal.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(SOURCE),
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "error",
    "COLUMNS": "80",
}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "airdraft", *words]


def airdraft(*words: str, stdin: bytes = b"", patience_s: float = PATIENCE_S) -> tuple[int, str, str]:
    """Run a command to its end: exit code, standard output, standard error."""
    done = subprocess.run(
        command(*words), input=stdin, capture_output=True, env=ENVIRONMENT, timeout=patience_s, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@contextlib.contextmanager
def started(*words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs; killed at the end if it still does."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command(*words), stdout=pipe, stderr=pipe, env=ENVIRONMENT, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def announced(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The line in which `--json` says that a server listens."""
    assert process.stdout is not None
    record = json.loads(process.stdout.readline())
    assert record["event"] == "listening"
    return dict(record)


def read_until(process: subprocess.Popen[bytes], length: int) -> bytes:
    """Standard output up to `length` bytes or more."""
    assert process.stdout is not None
    data = b""
    while len(data) < length and (piece := os.read(process.stdout.fileno(), 4096)):
        data += piece
    return data


def children(pid: int) -> list[int]:
    """The processes that `pid` has started and that still run."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    return [child for child, parent in pairs if parent == pid]


def alive(pid: int) -> bool:
    """Whether `pid` runs; one that has ended and waits to be reaped does not."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(listed.stdout.strip()) and not listed.stdout.strip().startswith("Z")


def all_end(pids: list[int], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
