"""Work on rows beside the engine: in the event loop as long as it is brief, else in threads of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, thread_time
from typing import TypeVar

from airdraft.models.base import FloatArray

T = TypeVar("T")

BRIEF_S, _LATELY = 0.002, 8
"""Work that takes less in the mean of so many is done in the loop's own thread: to hand it to another, and to wait for
each other's turn of the interpreter, took as long again."""
TURN_S = 0.0015
"""Time of each turn of the loop for such work and what is done in between; the first work of a turn may take longer. A
task that sleeps is woken within three turns."""


class Beside:
    """Does such work in one event loop."""

    def __init__(self, name: str) -> None:
        """`name`: of its threads."""
        # Half the cores: the loop is busy, too. Two threads on two cores waited for the interpreter, and were slower.
        self._threads = ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 1) // 2)), name)
        self._takes_s = BRIEF_S  # unknown is not brief
        self._began_s: float | None = None  # this turn's first work

    async def turn(self) -> None:
        """Wait until a turn of the loop has time left."""
        while self._began_s is not None and perf_counter() + self._takes_s > self._began_s + TURN_S:  # noqa: ASYNC110
            await asyncio.sleep(0)  # the next turn is at once

    async def do(self, work: Callable[[FloatArray], T], rows: FloatArray) -> T:
        """Do work on rows, after `turn`. Raises what it raises."""
        loop = asyncio.get_running_loop()
        if self._takes_s >= BRIEF_S:
            return await loop.run_in_executor(self._threads, self._timed, work, rows)
        if self._began_s is None:
            self._began_s = perf_counter()
            loop.call_soon(self._next_turn)
        return self._timed(work, rows)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _next_turn(self) -> None:
        self._began_s = None

    def _timed(self, work: Callable[[FloatArray], T], rows: FloatArray) -> T:
        began_s = thread_time()  # of the CPU: others' work on this machine makes none of it longer
        found = work(rows)
        self._takes_s += (thread_time() - began_s - self._takes_s) / _LATELY
        return found
