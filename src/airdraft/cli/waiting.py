"""How a serving command waits for its end."""

from __future__ import annotations

import asyncio
import os
import signal


def stopping(until_eof: bool) -> asyncio.Event:
    """Set when the process is asked to end: by SIGINT (Ctrl-C), SIGTERM or, if so wished, the end of its input.

    Call it before saying that the server is up: whoever reads that may ask at once. A process that holds the other end
    of our input need not live to ask: however it dies, the pipe closes.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stopped.set()

    if until_eof:
        try:
            loop.add_reader(0, read)
        except OSError:  # a file or /dev/null, whose end nobody can wait for
            stopped.set()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    return stopped
