"""What stays of a tree lies as a chain, and rows are those of each branch, whatever grows and is dropped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import FloatArray, Part
from airdraft.models.grafts import Grafted

from ..suites import examples
from .trees import Prefix, TreeTable

VOCAB = 30
Line = tuple[tuple[int, int], ...]
"""Tokens that lead to a position, each with a number of its own, as two may be the same."""


def row(prefix: Prefix) -> FloatArray:
    found = np.zeros(VOCAB, np.float32)
    found[:2] = len(prefix), sum(at * token for at, token in enumerate(prefix, 1)) % 9973
    return found


class Watched(TreeTable):
    """Notes whether what stays is a chain, and how many tokens are fed."""

    def __init__(self) -> None:
        super().__init__(row, VOCAB)
        self.fed: list[int] = []

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        for part in batch:
            assert not part.picks
            kept = part.cache[: part.keep]
            assert kept == [kept[-1][:end] for end in range(1, part.keep + 1)] if kept else True
            self.fed.append(len(part.tokens))
        return super().verify(batch)


@examples(200)
@given(seed=st.integers(0, 1 << 30))
def test_whatever_grows_and_is_dropped(seed: int) -> None:
    random, fresh = np.random.default_rng(seed), itertools.count()
    inner = Watched()
    engine = Grafted(inner)
    caches, texts = [engine.new_cache() for _ in range(2)], [list[Line]() for _ in range(2)]
    for _ in range(random.integers(1, 8)):
        parts, wanted = [], []
        for at, cache in enumerate(caches):
            lines = texts[at]
            keep = int(random.integers(max(0, len(lines) - 6), len(lines) + 1))
            stay, picks = lines[:keep], list[int]()
            for each in range(keep, len(lines)):
                if lines[each][:-1] in ((), *stay) and random.random() < 0.6:
                    picks.append(each - keep)
                    stay.append(lines[each])
            n = int(random.integers(1, 7))
            tokens = random.integers(VOCAB, size=n).tolist()
            lowest = -len(stay) - 1
            is_tree = random.random() < 0.7
            parents = tuple(int(random.integers(max(lowest, -4), i)) for i in range(n)) if is_tree else None
            begun = len(stay)
            for i, token in enumerate(tokens):
                above = begun + (i - 1 if parents is None else parents[i])
                stay.append((*(stay[above] if above >= 0 else ()), (token, next(fresh))))
            rows = int(random.integers(0, n + 1))
            texts[at] = stay
            parts.append(Part(cache, keep, tokens, rows, parents, tuple(picks)))
            wanted.append([row(tuple(token for token, _ in line)) for line in stay[len(stay) - rows :]])
        for cache, found, rows_wanted, lines in zip(caches, engine.verify(parts), wanted, texts, strict=True):
            assert isinstance(found, np.ndarray), found
            assert len(found) == len(rows_wanted)
            for one, other in zip(found, rows_wanted, strict=True):
                np.testing.assert_array_equal(one, other)
            assert cache.length == len(lines)


def test_the_first_branch_is_not_fed_again_and_another_is() -> None:
    for picks, fed in (((0, 2), 1), ((1, 3), 3), ((0,), 1)):
        inner = Watched()
        engine = Grafted(inner)
        cache = engine.new_cache()
        engine.verify([Part(cache, 0, [1, 2, 3], 0)])
        engine.verify([Part(cache, 3, [4, 5, 6, 7], 4, (-1, -1, 0, 1))])
        [found] = engine.verify([Part(cache, 3, [9], 1, None, picks)])
        assert inner.fed[-1] == fed
        np.testing.assert_array_equal(found, [row((1, 2, 3, *([4, 5, 6, 7][pick] for pick in picks), 9))])


def test_a_part_that_fails_leaves_what_was_there() -> None:
    engine = Grafted(Watched())
    cache = engine.new_cache()
    engine.verify([Part(cache, 0, [1, 2, 3], 0)])
    engine.verify([Part(cache, 3, [4, 5], 2, (-1, -1))])
    [found] = engine.verify([Part(cache, 3, [VOCAB], 1, None, (1,))])
    assert isinstance(found, ModelError)
    assert cache.length == 5
    [found] = engine.verify([Part(cache, 3, [9], 1, None, (1,))])
    np.testing.assert_array_equal(found, [row((1, 2, 3, 5, 9))])
