"""An event loop in a thread of its own, so that the main thread may wait for a person."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Behind:
    """Runs coroutines while the main thread reads and prints. Ctrl-C reaches the main thread alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use `started`."""
        self._loop = loop

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Behind]:
        """A loop that runs until the end of the body."""
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            thread = threading.Thread(target=loop.run_forever, name="airdraft", daemon=True)
            thread.start()
            try:
                yield cls(loop)
            finally:
                loop.call_soon_threadsafe(loop.stop)
                thread.join()

    @contextlib.contextmanager
    def within(self, context: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter a context in the loop. Raises: what it raises."""
        entered: concurrent.futures.Future[T] = concurrent.futures.Future()
        over = asyncio.Event()

        async def hold() -> None:
            async with context as value:
                entered.set_result(value)
                await over.wait()

        def failed(held: concurrent.futures.Future[None]) -> None:
            if not entered.done():
                error = None if held.cancelled() else held.exception()
                entered.set_exception(error or concurrent.futures.CancelledError())

        held = asyncio.run_coroutine_threadsafe(hold(), self._loop)
        held.add_done_callback(failed)
        try:
            value = entered.result()
        except BaseException:  # Ctrl-C, or it failed by itself
            held.cancel()
            concurrent.futures.wait([held])
            raise
        try:
            yield value
        finally:
            self._loop.call_soon_threadsafe(over.set)
            held.result()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the loop, where nothing else runs meanwhile."""

        async def called() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield what a generator in the loop yields. Leaving the iteration closes it there, before this returns."""
        queue: SimpleQueue[T | None] = SimpleQueue()

        async def pump() -> None:
            async with contextlib.aclosing(items):
                async for item in items:
                    queue.put(item)

        pumping = asyncio.run_coroutine_threadsafe(pump(), self._loop)
        pumping.add_done_callback(lambda _: queue.put(None))
        try:
            while (item := queue.get()) is not None:
                yield item
            pumping.result()
        finally:
            pumping.cancel()
            concurrent.futures.wait([pumping])
