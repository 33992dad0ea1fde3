"""What an engine is told that chooses tokens itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airdraft.core.connection import known_rows
from airdraft.core.events import Forward
from airdraft.core.law import Guide, Law, Needs, Place
from airdraft.core.logprobs import UNLIKELY, Logprob
from airdraft.core.sampling import SamplingParams
from airdraft.errors import AirdraftError, LocalProtocolError, ModelError
from airdraft.models.base import Choice, EngineInfo, Part, Wanted
from airdraft.scheduler import Owner, Scheduler
from airdraft.scheduler.choices import choice_of, wanted_of
from airdraft.sim.conformance import TableModel

from ..core.test_guides import EOS, VOCAB, Steps

LAW = Law(SamplingParams(0.7, 3, 0.9, 0.01), 11, VOCAB)


def forward(tokens: Sequence[int], at: Place | None, parents: tuple[int, ...] | None = None) -> Forward:
    return Forward(1, 4, tuple(tokens), len(tokens), parents=parents, needs=None if at is None else Needs(LAW, at))


def test_rows_that_are_needed_are_asked_for() -> None:
    assert choice_of(forward([1, 2], None)) is None


def test_a_chain_has_positions_one_after_the_other() -> None:
    assert choice_of(forward([1, 2, 3], Place(5))) == Choice(0.7, 3, 0.9, 0.01, 11, VOCAB, (5, 6, 7))


def test_a_tree_has_positions_by_depth() -> None:
    found = choice_of(forward([1, 2, 3, 4, 5], Place(5), (-1, 0, 1, 0, 3)))
    assert found is not None
    assert found.positions == (5, 6, 7, 6, 7)


def test_masks_follow_the_grammar_down_each_branch() -> None:
    found = choice_of(forward([0, 2, 1, 2, 3, 1], Place(5, Steps(9, 0)), (-1, 0, 1, 1, 0, 4)))
    assert found is not None
    first, after_2, after_1, forbidden, forced, after_forced = found.allowed
    assert first is not None
    assert first.tolist() == [False, True, True, True, True, True]
    assert after_2 is not None
    assert not after_2[2]
    assert after_1 is not None
    assert not after_1[1]
    assert forbidden is None  # no token follows itself, so nobody asks what comes after it
    assert forced is None  # after 3 comes 1, whatever the row says
    assert after_forced is not None
    assert not after_forced[1]


def test_drafts_have_bars_and_the_last_row_is_needed() -> None:
    found = choice_of(
        replace(forward([1, 2, 4], None), needs=Needs(LAW, Place(5, Steps(9, 3)), (0.5, 0.25).__getitem__))
    )
    assert found is not None
    assert found.bars == ((2, 0.5), (4, 0.25), (0, math.inf))
    forced, _, _ = found.allowed  # 2 is not allowed after 3, so nobody asks what comes then
    assert forced is not None  # a draft is judged by the row
    assert forced.tolist() == [False, True, False, False, False, False]


def test_of_a_forced_token_a_log_probability_may_be_asked() -> None:
    found = choice_of(replace(forward([0, 3], None), needs=Needs(LAW, Place(5, Steps(9, 0)), logprobs=2)))
    assert found is not None
    assert found.logprobs == (2, UNLIKELY)
    _, forced = found.allowed
    assert forced is not None
    assert forced.tolist() == [False, True, False, False, False, False]


class Lacking(Steps):
    """A grammar over rows that do not tell all."""

    needed = 2

    def after(self, token: int) -> Guide:
        super().after(token)
        return Lacking(self._left - 1, token)


def test_rows_are_to_tell_what_a_guide_needs() -> None:
    asked = forward([0, 2, 1, 2, 3], Place(5, Lacking(9, 0)), (-1, 0, 1, 1, 0))
    first, after_2, after_1, forbidden, forced = wanted_of(asked)
    assert first is not None
    assert (first.count, first.allowed.tolist()) == (2, [False, True, True, True, True, True])
    assert after_2 is not None
    assert not after_2.allowed[2]
    assert after_1 is not None
    assert (forbidden, forced) == (None, None)
    assert wanted_of(replace(asked, needs=None)) == ()
    assert wanted_of(forward([1, 2], Place(5, Steps()))) == ()  # rows that tell all
    assert asked.needs is not None
    told = wanted_of(replace(asked, needs=replace(asked.needs, logprobs=1)))[4]
    assert told is not None
    assert told.allowed.nonzero()[0].tolist() == [1]  # whose log-probability is asked for, though it is forced


@pytest.mark.parametrize(("count", "lacks"), [(1, 0), (2, 0), (3, 1), (9, 2)])
def test_a_row_lacks_what_it_does_not_tell(count: int, lacks: int) -> None:
    row = np.array([-1, -np.inf, -2, -3, -np.inf, -np.inf], np.float32)
    assert Wanted(np.array([True, True, False, True, True, False]), count).lacks(row) == lacks


class Leaning(Steps):
    """A grammar that raises a token as well."""

    def bent(self, row: np.ndarray) -> np.ndarray:  # type: ignore[override]
        return row + np.eye(VOCAB)[2]


def test_a_row_that_a_guide_bends_is_asked_for() -> None:
    assert Leaning.bent is not Guide.bent
    assert choice_of(forward([1, 2], Place(5, Leaning()))) is None


class Broken(Steps):
    """A grammar that fails."""

    def allowed(self) -> Any:
        raise ModelError("no grammar")


def test_a_grammar_that_fails_leaves_the_fault_to_its_own_text() -> None:
    assert choice_of(forward([1, 2], Place(5, Broken()))) is None


@pytest.mark.parametrize(
    ("said", "error"),
    [([1, VOCAB], ModelError), ([-1, 1], ModelError), ([1], LocalProtocolError), ([1, 2, 3], LocalProtocolError),
     ([1, np.full(VOCAB, np.nan)], ModelError), ([1, np.zeros(VOCAB - 1)], LocalProtocolError)],
)  # fmt: skip
def test_what_an_engine_says_is_bounded(said: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        known_rows(np.fromiter(said, object, len(said)), 2, VOCAB)
    fine = np.fromiter([VOCAB - 1, np.zeros(VOCAB)], object, 2)
    assert known_rows(fine, 2, VOCAB).tolist() == fine.tolist()


@pytest.mark.parametrize(("token", "likely"), [(VOCAB, 0), (-1, 0), (0, VOCAB), (0, -1)])
def test_what_it_says_of_log_probabilities_is_bounded(token: int, likely: int) -> None:
    with pytest.raises(ModelError):
        known_rows(np.fromiter([Logprob(token, -1.0, ((likely, -1.0),))], object, 1), 1, VOCAB)
    assert known_rows(np.fromiter([Logprob(2, -1.0, ((3, -0.5),))], object, 1), 1, VOCAB).tolist() == [2]


class Choosing:
    """An engine that chooses greedily, and notes what it is asked."""

    def __init__(self, chooses: bool = True) -> None:
        self.table = TableModel(lambda prefix: np.eye(VOCAB, dtype=np.float32)[len(prefix) % VOCAB], VOCAB)
        self.info = EngineInfo("choosing", VOCAB, 64, (EOS,), max_batch=4, chooses=chooses)
        self.new_cache = self.table.new_cache
        self.asked: list[Choice | None] = []

    def verify(self, batch: Sequence[Part]) -> list[Any]:
        self.asked += [part.choice for part in batch]
        return [self.table.forward(part.cache, part.keep, part.tokens, part.rows) for part in batch]

    def choose(self, batch: Sequence[Part]) -> list[Any]:
        rows = self.verify(batch)
        return [
            each if part.choice is None else [each[0], *each[1:].argmax(1).tolist()]
            for part, each in zip(batch, rows, strict=True)
        ]


@pytest.mark.parametrize("chooses", [True, False])
def test_the_scheduler_hands_on_what_it_is_given(chooses: bool) -> None:
    engine = Choosing(chooses)

    async def main() -> list[Any]:
        scheduler = Scheduler(engine, "test")
        text = scheduler.open(Owner())
        prompt = Forward(1, 0, (1, 2, 3, 4), 0)
        asked = forward([1, 2, 3], Place(5))
        try:
            return [
                await scheduler.run(text, lambda each=each: each)  # type: ignore[misc]
                for each in (prompt, asked, replace(asked, needs=None))
            ]
        except AirdraftError as error:
            return [error]
        finally:
            scheduler.close()

    prefilled, found, rows = asyncio.run(main())
    assert len(prefilled) == 0
    assert rows.shape == (3, VOCAB)
    assert rows.dtype == np.float32
    if not chooses:
        assert engine.asked == [None] * 3
        np.testing.assert_array_equal(found, rows)
        return
    assert [each is None for each in engine.asked] == [True, False, True]
    assert found.dtype == object
    np.testing.assert_array_equal(found[0], rows[0])
    assert found[1:].tolist() == rows[1:].argmax(1).tolist()
