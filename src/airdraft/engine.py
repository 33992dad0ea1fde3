"""One model, the thread that runs it, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from airdraft.core.events import Forward
from airdraft.models.base import FloatArray, LanguageModel

SHORT_S = 0.002
"""A forward that takes less runs in the loop's own thread. To hand it to another, and to wake for its result, takes up
to half a millisecond on a small machine, and is worth it only to keep the loop free."""
SHORT_TOKENS = 16
"""Tokens that such a forward may feed: the time of the last one says nothing about a long prompt."""


class Engine:
    """Forwards of one model take turns, so that each has the cores to itself. Spare ones give way to all others."""

    def __init__(self, model: LanguageModel, name: str) -> None:
        """`name` is the thread's."""
        self.model = model
        self._executor = ThreadPoolExecutor(1, name)
        self._took_s = SHORT_S  # the last one; unknown is not short
        self._busy = False
        self._waiting: list[tuple[Callable[[], Forward], asyncio.Future[None]]] = []

    async def run(self, cache: Any, latest: Callable[[], Forward]) -> FloatArray:
        """Wait for a turn, then run what `latest` says by then. float32 [rows, vocab].

        Raises: `ModelError`, or whatever the engine throws.
        """
        await self._turn(latest)
        try:
            forward = latest()
            if self._took_s < SHORT_S and len(forward.tokens) <= SHORT_TOKENS:
                return self._forward(cache, forward)
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._forward, cache, forward)
        finally:
            self._next()

    def _forward(self, cache: Any, forward: Forward) -> FloatArray:
        began_s = perf_counter()
        try:
            return self.model.forward(cache, forward.keep, forward.tokens, forward.rows)
        finally:
            self._took_s = perf_counter() - began_s

    def close(self) -> None:
        """Nothing more is to be run."""
        self._executor.shutdown(cancel_futures=True)

    async def _turn(self, latest: Callable[[], Forward]) -> None:
        if not self._busy:
            self._busy = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((latest, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was our turn already
                self._next()
            raise

    def _next(self) -> None:
        """First come, first served; but what was spare when it was asked for may have drafts by now."""
        self._waiting = [(latest, turn) for latest, turn in self._waiting if not turn.done()]
        if not self._waiting:
            self._busy = False
            return
        at = next((at for at, (latest, _) in enumerate(self._waiting) if not latest().spare), 0)
        self._waiting.pop(at)[1].set_result(None)
