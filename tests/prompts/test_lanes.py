"""Requests to a store: in order, as many at once as keep a link busy, and given up at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from airdraft.prompts.lanes import FEWEST, MOST, Lanes


class _Emulated(asyncio.SelectorEventLoop):
    """A loop of an emulated time: nobody waits, and however busy the machine is, nothing comes late."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def skip(wait_s: float | None) -> Any:
            assert wait_s is not None, "all wait, and nothing will wake them"
            self._now_s += wait_s
            return select(0)

        self._selector.select = skip  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now_s


def _run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_Emulated) as runner:
        runner.run(main)


class _Link:
    """A link: each request takes a round trip, and then its turn on the wire."""

    def __init__(self, rtt_s: float, each_s: float) -> None:
        self.rtt_s, self.each_s = rtt_s, each_s
        self.free_s = 0.0
        self.running = self.most = 0
        self.done: list[int] = []

    def request(self, number: int) -> Callable[[], Awaitable[int]]:
        async def run() -> int:
            loop = asyncio.get_running_loop()
            self.running += 1
            self.most = max(self.most, self.running)
            self.free_s = max(self.free_s, loop.time() + self.rtt_s) + self.each_s
            try:
                await asyncio.sleep(self.free_s - loop.time())
            finally:
                self.running -= 1
            self.done.append(number)
            return number

        return run


@pytest.mark.parametrize(("rtt_s", "each_s"), [(0.02, 0.0), (0.0, 0.004)], ids=["far", "slow"])
def test_the_bound_follows_the_link_and_the_order_stands(rtt_s: float, each_s: float) -> None:
    """Where requests only wait, there are soon many; where the link is busy, few, and an early one is never late."""
    link, count = _Link(rtt_s, each_s), 60 if each_s else 600

    async def main() -> None:
        lanes = Lanes()
        found = await asyncio.gather(*(lanes.run(link.request(at), 10.0) for at in range(count)))
        assert found == list(range(count))

    _run(main())
    if each_s:
        assert link.most <= 3 * FEWEST
        assert link.done == list(range(count))
    else:
        assert FEWEST < link.most <= MOST


def test_whatever_ends_gives_its_place_to_the_next() -> None:
    """Requests that fail, take too long or are cancelled, waiting or under way, in any order: none keeps a place."""
    chance = random.Random(5)  # noqa: S311

    async def never() -> None:
        await asyncio.sleep(1000)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise OSError

    async def main() -> None:
        lanes = Lanes()
        for _ in range(30):
            tasks = [
                asyncio.create_task(lanes.run(chance.choice([never, fails]), chance.choice([0.001, 100.0])))
                for _ in range(chance.randrange(1, 3 * FEWEST))
            ]
            await asyncio.sleep(chance.choice([0, 0, 0.002]))
            for task in chance.sample(tasks, len(tasks)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert lanes._running == 0
        async with asyncio.timeout(5):
            assert await lanes.run(_Link(0.0, 0.0).request(7), 1.0) == 7

    _run(main())
