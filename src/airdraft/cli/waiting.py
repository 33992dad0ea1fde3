"""How a serving command waits for its end."""

from __future__ import annotations

import asyncio
import os
import signal


async def until_stopped(until_eof: bool = False) -> None:
    """Return when the process is asked to end: by SIGINT (Ctrl-C), SIGTERM or, if so wished, the end of its input.

    A process that holds the other end of our input need not live to ask: however it dies, the pipe closes.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stopped.set()

    if until_eof:
        loop.add_reader(0, read)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
