"""Processes that share the work of a run, and end with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children


@contextmanager
def processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes. Where the body fails, or is interrupted, they end at once: nobody takes what they work on."""
    before = {*active_children()}
    with ProcessPoolExecutor(jobs, initializer=_end_on_ctrl_c) as pool:
        try:
            yield pool
        except BaseException:
            for process in {*active_children()} - before:
                process.terminate()
            raise


def _end_on_ctrl_c() -> None:
    """A terminal sends Ctrl-C to all processes; the one that has the others says what is to be said."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
