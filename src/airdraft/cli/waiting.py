"""How a serving command waits for its end."""

from __future__ import annotations

import asyncio
import signal


async def until_stopped() -> None:
    """Return when the process is asked to end by SIGINT (Ctrl-C) or SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
