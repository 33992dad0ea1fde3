"""Trees in the scheduler: whatever it evicts, cuts and shares, each row is of the tokens that lead to it."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.events import Forward
from airdraft.models.base import FloatArray
from airdraft.scheduler import Owner, Scheduler
from airdraft.scheduler.turns import PIECE

from ..models.trees import Prefix, TreeCache, TreeTable
from ..suites import examples

VOCAB = 100
Line = tuple[tuple[int, int], ...]
"""Tokens that lead to a position, each with a number of its own, as two may be the same."""


def row(prefix: Prefix) -> FloatArray:
    """Numbers that tell a sequence from others: its length, and a sum that knows the order."""
    found = np.zeros(VOCAB, np.float32)
    found[:2] = len(prefix), sum(at * token for at, token in enumerate(prefix, 1)) % 9973
    return found


class Copying(TreeTable):
    """The same, whose caches can be copied."""

    def copy(self, cache: TreeCache, length: int) -> TreeCache:
        return TreeCache(cache[:length])


@examples(60)
@given(data=st.data(), shares=st.booleans())
def test_every_row_is_of_what_leads_to_it(data: st.DataObject, shares: bool) -> None:
    """Several texts grow trees, drop branches, and lose their caches to each other meanwhile.

    shares: they are one tenant's, and begin alike.
    """
    engine = (Copying if shares else TreeTable)(row, VOCAB, max_batch=data.draw(st.integers(1, 3)))
    one = Owner()
    engine.info = replace(engine.info, max_caches=data.draw(st.sampled_from([None, 1, 2])))
    drawn, texts = st.integers(0, 1 << 30), data.draw(st.integers(1, 3))
    seeds = [data.draw(drawn) for _ in range(texts)]

    async def write(scheduler: Scheduler, seed: int) -> None:
        random, fresh = np.random.default_rng(seed), itertools.count()
        text, lines = scheduler.open(one if shares else Owner()), list[Line]()
        for _ in range(random.integers(1, 6)):
            keep = int(random.integers(max(0, len(lines) - 9), len(lines) + 1))
            stay = lines[:keep]
            picks = list[int]()
            for at in range(keep, len(lines)):
                if lines[at][:-1] in ((), *stay) and random.random() < 0.7:
                    picks.append(at - keep)
                    stay.append(lines[at])
            n = int(random.integers(1, 24 if shares else 8)) if lines else int(random.integers(1, 2 * PIECE))
            tokens = random.integers(VOCAB, size=n).tolist()
            if shares:
                tokens = np.repeat(random.integers(1, 3, size=n), 16)[:n].tolist()
            lowest = -len(stay) - 1
            is_tree = bool(lines) and random.random() < 0.7
            parents = tuple(int(random.integers(max(lowest, -5), at)) for at in range(n)) if is_tree else None
            begun = len(stay)
            for at, token in enumerate(tokens):
                above = begun + (at - 1 if parents is None else parents[at])
                stay.append((*(stay[above] if above >= 0 else ()), (token, next(fresh))))
            lines, rows = stay, int(random.integers(0, n + 1))
            asked = Forward(1, keep, tuple(tokens), rows, parents=parents, picks=tuple(picks))
            found = await scheduler.run(text, lambda asked=asked: asked)  # type: ignore[misc]
            assert len(found) == rows
            for own, line in zip(found, lines[len(lines) - rows :], strict=True):
                np.testing.assert_array_equal(own, row(tuple(token for token, _ in line)))
        scheduler.drop(text)

    async def main() -> None:
        scheduler = Scheduler(engine, "trees")
        async with asyncio.timeout(100):
            await asyncio.gather(*(write(scheduler, seed) for seed in seeds))
        scheduler.close()

    asyncio.run(main())
