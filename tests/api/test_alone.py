"""The target alone, as an edge writes it for clients without a draft."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from airdraft.api.alone import TargetWriter
from airdraft.core.events import Committed, Event, Finished
from airdraft.edge.access import Tenant, anybody
from airdraft.edge.server import EdgeServer
from airdraft.models.base import FloatArray, OneByOne

from ..edge.loopback import TOKENIZER, VOCAB, WARM, Table, request, run, truth


async def written(server: EdgeServer, **options: object) -> list[Event]:
    asked = request("server", WARM, **options)  # type: ignore[arg-type]
    return [event async for event in TargetWriter(server, server._anybody).write(asked)]


def test_texts_of_one_token_prompts_and_of_whole_contexts() -> None:
    target = Table(1, eos_ids=(), max_context=20)

    async def main() -> None:
        async with EdgeServer(OneByOne(target), TOKENIZER, VOCAB) as server:
            for prompt in ((5,), (5, 6), tuple(range(19))):
                events = await written(server, prompt=prompt, max_tokens=100)
                tokens = [token for event in events[:-1] if isinstance(event, Committed) for token in event.tokens]
                assert tokens == truth(target, request("server", WARM, prompt=prompt, max_tokens=100))
                assert len(tokens) == 20 - len(prompt)
                assert events[-1] == Finished(0, "length")

    run(main)


def test_forwards_that_are_short_leave_the_loop_to_others() -> None:
    """They run in the loop's own thread, and a text that never waits would keep all connections waiting."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main() -> None:
        async with EdgeServer(OneByOne(Table(1, eos_ids=())), TOKENIZER, VOCAB) as server:
            await written(server, max_tokens=50)
            other = asyncio.create_task(others())
            before = turns
            await written(server, max_tokens=200)
            assert turns - before > 150
            other.cancel()

    run(main)


def test_requests_of_one_key_have_the_turns_of_one_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are, another tenant's text has every other turn."""
    seen: list[int] = []
    # Turns are paid for in seconds: each call takes as many, however long this machine holds it up.
    ticks = itertools.count()
    monkeypatch.setattr("airdraft.scheduler.loop.perf_counter", lambda: next(ticks) * 0.01)

    class Noted(Table):
        def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
            found = super().forward(cache, keep, tokens, rows)
            seen.append(cache[0])
            return found

    async def main() -> None:
        target = Noted(1, eos_ids=(), seconds=0.001)
        async with EdgeServer(OneByOne(target), TOKENIZER, VOCAB) as server:
            greedy, modest = anybody(0.0), anybody(0.0)

            async def write(tenant: Tenant, prompt: Sequence[int], most: int) -> None:
                async for _ in TargetWriter(server, tenant).write(request("server", prompt=prompt, max_tokens=most)):
                    pass

            many = [asyncio.create_task(write(greedy, (1, 2), 30)) for _ in range(12)]
            await asyncio.sleep(0.02)
            began = len(seen)
            await write(modest, (3, 4), 30)
            during = seen[began:]
            assert during.count(3) > len(during) / 3
            await asyncio.gather(*many)

    run(main)
