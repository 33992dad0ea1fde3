"""Documents that were read by themselves: found wherever they stand, taken over as joining does, and lossy."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from airdraft.errors import BadParameterError
from airdraft.models.base import Part, raised
from airdraft.prompts.documents import FEWEST, FIRST, Documents, loss
from airdraft.prompts.joining import Document, firsts, joined
from airdraft.prompts.rotary import Rotary

from .models import steady
from .test_arriving import rows_after

ONE = [at * 31 % 4000 for at in range(FIRST + 2 * FEWEST)]
OTHER = [at * 37 % 3900 + 7 for at in range(FIRST + 3 * FEWEST)]
QUESTION = [5, 6, 7, 8, 9] * 9


@pytest.fixture(scope="module")
def engine() -> Any:
    return steady()


@pytest.fixture(scope="module")
def documents(engine: Any) -> Documents:
    return Documents.read(engine, {"one": ONE, "other": OTHER})


@pytest.mark.parametrize("order", [(ONE, OTHER), (OTHER, ONE)], ids=["one first", "other first"])
def test_documents_in_any_order_are_taken_over_as_joining_does(
    engine: Any, documents: Documents, order: tuple[list[int], ...]
) -> None:
    """Only the first few tokens of each, and what stands between, are fed; rows are close to those of `joined`."""
    prompt = [*order[0], *order[1], *QUESTION]
    rows, fetched, fed = asyncio.run(rows_after(engine, documents, prompt))
    assert fetched == len(ONE) + len(OTHER) - 2 * FIRST
    assert fed == len(prompt) + 2 - fetched
    cache = joined(
        engine, Rotary.of(engine), [Document.of(engine, each) for each in order],
        firsts([len(each) for each in order], FIRST),
    )  # fmt: skip
    start = len(ONE) + len(OTHER)
    raised(engine.verify([Part(cache, start, QUESTION[:-1], 0)]).pop())
    expected = raised(engine.verify([Part(cache, len(prompt) - 1, [QUESTION[-1], 3, 4], 3)]).pop())
    assert np.allclose(rows, expected, atol=1e-3)
    alone, none, _ = asyncio.run(rows_after(engine, None, prompt))
    assert none == 0
    assert not np.allclose(rows, alone, atol=1e-3)  # which is why answers say so


def test_a_prompt_without_a_document_has_the_same_bits(engine: Any, documents: Documents) -> None:
    prompt = [*ONE[: FIRST + FEWEST - 1], *(at * 41 % 3800 for at in range(200)), *QUESTION]
    rows, fetched, _ = asyncio.run(rows_after(engine, documents, prompt))
    assert fetched == 0
    assert np.array_equal(rows, asyncio.run(rows_after(engine, None, prompt))[0])


def test_what_is_lost_is_measured_and_never_nothing(engine: Any) -> None:
    assert 0 < loss(engine) < 0.5


def test_documents_that_are_none_are_refused(engine: Any) -> None:
    for size in (FIRST + FEWEST - 1, engine.info.max_context + 1):
        with pytest.raises(BadParameterError, match=r"short\.txt is"):
            Documents.read(engine, {"short.txt": [1] * size})
