"""Whole texts, many at once, over a store that loses, corrupts and delays what it holds: they are those without it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from airdraft.core.events import Forward
from airdraft.models.base import Tensors
from airdraft.models.fit import Fit
from airdraft.models.profile import PacedEngine
from airdraft.models.registry import load_target
from airdraft.prompts.arriving import StoredPrompts
from airdraft.prompts.blocks import BLOCK
from airdraft.prompts.publishing import publish
from airdraft.scheduler import Owner, Scheduler

PUBLISHED = [[(at * 31 + which) % 4000 for at in range((6 - which) * BLOCK + 20)] for which in range(2)]
TEXTS, WRITTEN = 5, 6


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "splice"])
def engine(request: pytest.FixtureRequest) -> Any:
    """Calls take 20 ms, so that there is something to gain from a store."""
    return PacedEngine(load_target("target", fit=Fit(splice=request.param or None))[0], 0.02)


def spoil(folder: Path, chance: random.Random) -> None:
    """Lose objects, and change, cut and swap others."""
    places = sorted(folder.glob("*/*/blocks/*/*"))
    for place in places:
        fate, data = chance.random(), bytearray(place.read_bytes())
        if fate < 0.01:
            place.unlink()
        elif fate < 0.05:
            at = chance.randrange(1000, len(data) - 4000)
            data[at : at + 4000] = chance.randbytes(4000)
            place.write_bytes(data)
        elif fate < 0.06:
            place.write_bytes(data[: chance.randrange(len(data))])
        elif fate < 0.10:
            place.write_bytes(chance.choice([each for each in places if each.is_file()]).read_bytes())


class _Late(StoredPrompts):
    """A store whose blocks come now at once and now late."""

    chance: random.Random

    async def block(self, name: bytes) -> Tensors:
        await asyncio.sleep(self.chance.choice([0, 0, 0.01, 0.1]))
        return await super().block(name)


async def texts_of(engine: Any, prompts: StoredPrompts | None, chance: random.Random) -> tuple[list[list[int]], int]:
    """The texts that an edge writes, of which some come while others are read, and the tokens from the store."""
    scheduler = Scheduler(engine, "test")
    scheduler.caches.elsewhere = prompts
    waits = [chance.random() * 0.2 for _ in range(TEXTS)]

    async def written(which: int) -> list[int]:
        await asyncio.sleep(waits[which])
        published = PUBLISHED[which % 2]
        tokens = [*published[: len(published) - 30 * (which % 3)], *(which * 3 + at for at in range(9))]
        text, end = scheduler.open(Owner(scheduler.tenant)), len(tokens)
        await scheduler.run(text, lambda: Forward(1, 0, tuple(tokens[:-1]), 0))
        while len(tokens) < end + WRITTEN:
            [row] = await scheduler.run(text, lambda: Forward(1, len(tokens) - 1, (tokens[-1],), 1))
            tokens.append(int(row.argmax()))
        scheduler.drop(text)
        return tokens[end:]

    async with asyncio.timeout(60):
        found = await asyncio.gather(*map(written, range(TEXTS)))
    scheduler.close()
    return found, scheduler.caches.fetched


@pytest.mark.slow
def test_texts_are_those_without_a_store(engine: Any, tmp_path: Path) -> None:
    expected, fetched = asyncio.run(texts_of(engine, None, random.Random(0))), 0  # noqa: S311
    for seed in range(6):
        chance, folder = random.Random(seed), tmp_path / str(seed)  # noqa: S311
        for prompt in PUBLISHED:
            publish(engine, prompt, str(folder))
        spoil(folder, chance)

        async def main(folder: Path = folder, chance: random.Random = chance) -> tuple[list[list[int]], int]:
            prompts = _Late.at(str(folder), engine)
            prompts.chance = chance  # type: ignore[attr-defined]
            found = await texts_of(engine, prompts, chance)
            assert prompts._bytes == 0
            return found

        texts, came = asyncio.run(main())
        assert texts == expected[0]
        fetched += came
    assert fetched > 0  # a store of which nothing is used would pass as well
