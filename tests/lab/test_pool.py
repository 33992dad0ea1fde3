"""Processes that share the work of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children

import pytest

from airdraft.lab.pool import processes

WORK = """
import os, sys, time
from airdraft.lab.pool import processes

def work(number):
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    try:
        with processes(2) as pool:
            list(pool.map(work, range(9)))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_their_work_is_the_result() -> None:
    with processes(2) as pool:
        assert [*pool.map(abs, (-1, 2))] == [1, 2]
    assert not active_children()


def test_they_end_where_the_body_fails() -> None:
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), processes(2) as pool:  # noqa: PT012
        pool.submit(time.sleep, 600)
        raise ZeroDivisionError
    assert not active_children()
    assert time.monotonic() - began < 300


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
@pytest.mark.parametrize("to", ["all", "one"])
def test_ctrl_c_ends_them_without_a_word(to: str) -> None:
    """As a terminal sends it, to all, and as another program does, to the one that it has started."""
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", WORK]
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline()
        (os.killpg if to == "all" else os.kill)(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=100)
        assert (process.returncode, said) == (130, b"")
