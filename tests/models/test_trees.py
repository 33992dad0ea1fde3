"""Parts that are trees: rows as if each branch were fed alone, a path that stays, and who refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.core import schemes
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Drafts
from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, OneByOne, Part
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.profile import PacedEngine
from airdraft.sim import alone as alone_text
from airdraft.sim.conformance import TableModel

from .graphs import Shape, write_decoder
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


def test_branches_grow_on_side_by_side_and_one_of_them_is_dropped() -> None:
    """What a drafter does: it runs the ends of branches in one call, and later drops what the text did not take."""
    engine, cache, _ = grown()
    [found] = engine.verify([Part(cache, len(TEXT) + 5, [3, 4, 2], 3, (-2, -1, -4))])  # after 2 0, after 6 1, after 2
    wanted = [alone(5, 2, 0, 3)[-1], alone(5, 6, 1, 4)[-1], alone(5, 2, 2)[-1]]
    np.testing.assert_array_equal(found, wanted)
    picks = (0, 1, 3, 5, 7)  # 5, and of its branches what follows 2: 0 3, and 2
    [found] = engine.verify([Part(cache, len(TEXT), [1, 6], 2, (-2, -1), picks)])
    np.testing.assert_array_equal(found, [alone(5, 2, 0, 3, 1)[-1], alone(5, 2, 2, 6)[-1]])


def test_a_tree_may_grow_out_of_a_path_that_stays() -> None:
    engine, cache, _ = grown()
    [found] = engine.verify([Part(cache, len(TEXT), [4, 3], 2, (-1, -1), picks=(0, 2))])
    np.testing.assert_array_equal(found, [alone(5, 6, token)[-1] for token in (4, 3)])


@pytest.mark.parametrize(
    ("parents", "picks"),
    [((-1, 1), ()), ((-5, 0), ()), ((-1,), ()), ((-7, 0), (0, 2)),
     (None, (0, 5)), (None, (-1,)), (None, (1, 0)), (None, (0, 0)), (None, (0, 3)), (None, (1,))],
)  # fmt: skip
def test_what_is_no_tree_or_path_is_refused(parents: tuple[int, ...] | None, picks: tuple[int, ...]) -> None:
    engine, cache, _ = grown()
    before = list(cache)
    [found] = engine.verify([Part(cache, len(TEXT), [1, 2], 1, parents, picks)])
    assert isinstance(found, ModelError)
    assert cache == before


@pytest.mark.parametrize("shape", [{"parents": (-1, -1)}, {"picks": (0,)}], ids=str)
@pytest.mark.parametrize("wrap", [lambda model: model, OneByOne, lambda model: PacedEngine(model, 0.001)])
def test_who_runs_chains_only_says_so(tmp_path: Path, wrap: Any, shape: dict[str, tuple[int, ...]]) -> None:
    """A graph of somebody else's, which has no input for a tree."""
    engine = wrap(OnnxModel(write_decoder(tmp_path / "chains", Shape())))
    cache = engine.new_cache()
    engine.verify([Part(cache, 0, TEXT, 0)])
    [found] = engine.verify([Part(cache, 2, [1, 2], 1, **shape)])
    assert isinstance(found, ModelError)
    assert str(found) == "chains runs chains only; give it a part without parents and picks"
    assert cache.length == len(TEXT)


@pytest.mark.parametrize("right", [0, 1], ids=["the first branch", "the second branch"])
def test_drafts_of_two_branches_are_verified_in_one_forward_and_the_accepted_path_stays(right: int) -> None:
    """From drafts to part, rows and ruling, and on with the next draft: the text is the target's."""
    law, target = Law(SamplingParams(), 5, VOCAB), TableModel(row, VOCAB)
    scheme = schemes.make(SchemeSpec("coupled"), law, schemes.EDGE)
    own = list(alone_text.write(target, TEXT, SamplingParams(), 5, 6))
    wrong = [(token + 1) % VOCAB for token in own]
    branches = (own, wrong) if right == 0 else (wrong, own)
    # Two branches of two tokens, and the last committed token before both.
    drafts = Drafts(Drafts.of_tokens([*branches[0][:2], *branches[1][:2]]).said, parents=(-1, 0, -1, 2))
    engine = TreeTable(row, VOCAB)
    cache = engine.new_cache()
    engine.verify([Part(cache, 0, TEXT[:-1], 0)])
    fed, parents = [TEXT[-1], *drafts.tokens], (-1, *(parent + 1 for parent in drafts.parents or ()))
    [rows] = engine.verify([Part(cache, len(TEXT) - 1, fed, len(fed), parents)])
    assert isinstance(rows, np.ndarray)
    ruling = scheme.verify(drafts, rows, Place(len(TEXT)))
    assert (ruling.path, ruling.token) == ((0, 1) if right == 0 else (2, 3), own[2])
    text = [*TEXT, *own[:3]]
    # What stays behind the prompt is the last token of it and the accepted path.
    picks = (0, *(node + 1 for node in ruling.path))
    chain = Drafts.of_tokens(own[3:5])
    [rows] = engine.verify([Part(cache, len(TEXT) - 1, [text[-1], *chain.tokens], 3, picks=picks)])
    assert isinstance(rows, np.ndarray)
    assert scheme.verify(chain, rows, Place(len(text))).token == own[5]


def test_a_path_that_was_not_accepted_would_show() -> None:
    """The broken twin of the test above: the other branch stays, and its rows are others."""
    engine, cache, _ = grown()
    [found] = engine.verify([Part(cache, len(TEXT), [2, 2], 2, picks=(0, 1))])
    assert not np.array_equal(found, alone(5, 6, 2, 2)[-2:])
