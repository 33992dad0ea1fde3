"""Several streams merged into one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

WAITING = 64
"""Items that may queue up before the streams wait for the reader."""

T = TypeVar("T")


async def together(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yield the items of several streams as they come, each with its stream's index. The first error ends all."""
    arrived: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(WAITING)

    async def pass_on(index: int, stream: AsyncGenerator[T, None]) -> None:
        last = None
        try:
            async with contextlib.aclosing(stream):
                async for item in stream:
                    await arrived.put((index, item))
        except Exception as error:  # raised again for the reader
            last = error
        await arrived.put(last)

    tasks = [asyncio.create_task(pass_on(index, stream)) for index, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            got = await arrived.get()
            if isinstance(got, Exception):
                raise got
            if got is None:
                left -= 1
            else:
                yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
