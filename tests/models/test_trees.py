"""Parts that are trees: rows as if each branch were fed alone, a path that stays, and who refuses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, OneByOne, Part
from airdraft.models.onnx import OnnxModel
from airdraft.models.profile import PacedEngine
from airdraft.sim.conformance import TableModel

from .trees import TreeTable

VOCAB = 7
TEXT = [3, 1, 4]
TREE = [5, 2, 6, 0, 1]
PARENTS = (-1, 0, 0, 1, 2)
"""Two branches after the 5: 2 0 and 6 1."""
BRANCHES = {(0,): [5], (0, 1): [5, 2], (0, 2): [5, 6], (0, 1, 3): [5, 2, 0], (0, 2, 4): [5, 6, 1]}
"""Each path through the tree, and its tokens."""


def row(prefix: tuple[int, ...]) -> FloatArray:
    return np.random.default_rng(prefix).normal(size=VOCAB).astype(np.float32)


def alone(*tokens: int) -> FloatArray:
    """The rows of a chain after `TEXT`, [tokens, VOCAB]."""
    table = TableModel(row, VOCAB)
    return table.forward(table.new_cache(), 0, [*TEXT, *tokens], len(tokens))


def grown() -> tuple[TreeTable, Any, Any]:
    """An engine, a cache with the tree in it, and its rows."""
    engine = TreeTable(row, VOCAB)
    cache = engine.new_cache()
    engine.verify([Part(cache, 0, TEXT, 0)])
    return engine, cache, engine.verify([Part(cache, len(TEXT), TREE, len(TREE), PARENTS)])[0]


def test_the_rows_of_a_tree_are_those_of_each_branch_alone() -> None:
    _, cache, found = grown()
    assert cache.length == len(TEXT) + len(TREE)
    for path, tokens in BRANCHES.items():
        np.testing.assert_array_equal(found[list(path)], alone(*tokens))


@pytest.mark.parametrize("path", BRANCHES, ids=str)
def test_the_path_that_is_picked_stays(path: tuple[int, ...]) -> None:
    engine, cache, _ = grown()
    [found] = engine.verify([Part(cache, len(TEXT), [2, 2], 2, picks=path)])
    assert cache.length == len(TEXT) + len(path) + 2
    np.testing.assert_array_equal(found, alone(*BRANCHES[path], 2, 2)[-2:])
    [found] = engine.verify([Part(cache, len(TEXT) + len(path), [6], 1)])  # what stays is text
    np.testing.assert_array_equal(found, alone(*BRANCHES[path], 6)[-1:])


def test_a_tree_may_grow_out_of_a_path_that_stays() -> None:
    engine, cache, _ = grown()
    [found] = engine.verify([Part(cache, len(TEXT), [4, 3], 2, (-1, -1), picks=(0, 2))])
    np.testing.assert_array_equal(found, [alone(5, 6, token)[-1] for token in (4, 3)])


@pytest.mark.parametrize(
    ("parents", "picks"),
    [((-1, 1), ()), ((-2, 0), ()), ((-1,), ()),
     (None, (0, 5)), (None, (-1,)), (None, (1, 0)), (None, (0, 0)), (None, (0, 3))],
)  # fmt: skip
def test_what_is_no_tree_or_path_is_refused(parents: tuple[int, ...] | None, picks: tuple[int, ...]) -> None:
    engine, cache, _ = grown()
    before = list(cache)
    [found] = engine.verify([Part(cache, len(TEXT), [1, 2], 1, parents, picks)])
    assert isinstance(found, ModelError)
    assert cache == before


@pytest.mark.parametrize("shape", [{"parents": (-1, -1)}, {"picks": (0,)}], ids=str)
@pytest.mark.parametrize("wrap", [lambda model: model, OneByOne, lambda model: PacedEngine(model, 0.001)])
def test_who_runs_chains_only_says_so(draft: OnnxModel, wrap: Any, shape: dict[str, tuple[int, ...]]) -> None:
    engine = wrap(draft)
    cache = engine.new_cache()
    engine.verify([Part(cache, 0, TEXT, 0)])
    [found] = engine.verify([Part(cache, 2, [1, 2], 1, **shape)])
    assert isinstance(found, ModelError)
    assert str(found) == "draft runs chains only; give it a part without parents and picks"
    assert cache.length == len(TEXT)
