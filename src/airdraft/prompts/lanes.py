"""Requests to a store, in the order in which they came, and no more at once than keep the link busy.

Requests that run together share the link, so all of them end late: of two blocks that are asked for at once, neither
comes before both are there. So the number at once is bounded, and a later block's requests wait for an earlier one's.
The bound follows what a request takes (as TCP Vegas does, Brakmo and Peterson 1995): as long as it takes no longer than
the fastest did, there is room for twice as many; at twice that time there are enough.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

FEWEST, MOST = 4, 64
"""Requests at once."""


class Lanes:
    """Requests to one store, all in one event loop."""

    def __init__(self) -> None:
        self._most = float(FEWEST)
        self._running = 0
        self._least_s: float | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def run(self, request: Callable[[], Awaitable[T]], patience_s: float) -> T:
        """Make a request when it is its turn. Raises: what it raises; `TimeoutError` if it takes too long from then."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        self._go()
        try:
            await turn
            beside, began_s = self._running, loop.time()
            async with asyncio.timeout(patience_s):
                found = await request()
            self._learn(beside, loop.time() - began_s)
            return found
        finally:
            if turn.done() and not turn.cancelled():
                self._running -= 1
            self._go()

    def _go(self) -> None:
        while self._waiting and self._running < int(self._most):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._running += 1

    def _learn(self, beside: int, took_s: float) -> None:
        """Move the bound: in as many requests as run at once it may double, or fall to what would do."""
        self._least_s = min(took_s, self._least_s or took_s)
        enough = 2 * beside * self._least_s / max(took_s, 1e-9)
        self._most = min(MOST, max(FEWEST, self._most + (enough - self._most) / self._most))
