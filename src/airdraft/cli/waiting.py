"""The end of a command that serves: signals, or the end of its input."""

from __future__ import annotations

import asyncio
import os
import signal


def stopping(until_eof: bool) -> asyncio.Event:
    """An event that is set when the process should end: on SIGINT (Ctrl-C), on SIGTERM or, with `until_eof`, at the end
    of its input.

    Call it before announcing the server, because a reader of that line may ask for the end at once. With a pipe as its
    input the process ends however its parent dies.
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
        except OSError:  # a file or /dev/null: its end cannot be awaited
            stopped.set()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    return stopped
