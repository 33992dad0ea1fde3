"""The target alone, as an edge writes it for clients without a draft."""

from __future__ import annotations

import asyncio

from airdraft.api.alone import TargetWriter
from airdraft.core.events import Committed, Event, Finished
from airdraft.edge.server import EdgeServer
from airdraft.models.base import OneByOne

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
