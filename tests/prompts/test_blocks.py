"""Blocks: names that tell the tokens before, bytes that tell when they are damaged, keys and values that come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import ModelError
from airdraft.models.base import EngineInfo, OneByOne, Part, TargetEngine
from airdraft.models.engines.llamacpp import LlamaCppModel
from airdraft.models.steady import BandCache, Banded
from airdraft.prompts.blocks import BLOCK, BlockError, Layout, chain, folder_of, opened, sealed

from ..suites import examples
from .models import plain

TOKENS = st.lists(st.integers(0, 3), max_size=4 * BLOCK)


@given(TOKENS, TOKENS)
def test_names_agree_as_far_as_texts_do_in_whole_blocks(one: list[int], other: list[int]) -> None:
    names = chain(one), chain(other)
    assert [len(each) for each in names] == [len(one) // BLOCK, len(other) // BLOCK]
    for at, (a, b) in enumerate(zip(*names, strict=False)):
        end = BLOCK * (at + 1)
        assert (a == b) == (one[:end] == other[:end])


@given(st.binary(max_size=200), st.data())
@examples(200)
def test_whatever_is_wrong_with_an_object_is_found(payload: bytes, data: st.DataObject) -> None:
    whole = sealed("a/b", payload)
    assert opened("a/b", whole) == payload
    wrong = bytearray(whole)
    at = data.draw(st.integers(0, len(whole) - 1))
    wrong[at] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(wrong), whole[:at], whole + b"\0"):
        with pytest.raises(BlockError, match="publish the prompt again"):
            opened("a/b", bad)
    with pytest.raises(BlockError):  # whole, and in another's place
        opened("a/c", whole)


@pytest.fixture(scope="module")
def engine() -> TargetEngine:
    return plain()  # type: ignore[no-any-return]  # both a model and an engine


def _fed(engine: TargetEngine, cache: Any, keep: int, tokens: list[int], rows: int) -> Any:
    [found] = engine.verify([Part(cache, keep, tokens, rows)])
    return found


@pytest.mark.parametrize("banded", [False, True])
def test_keys_and_values_go_out_and_in_to_the_bit(engine: Any, banded: bool) -> None:
    engine = Banded(engine, 2) if banded else engine
    layout = Layout.of(engine)
    text = [at * 7 % 4000 for at in range(2 * BLOCK + 9)]
    one = engine.new_cache()
    rows = _fed(engine, one, 0, text, 2)
    blocks = [
        layout.read([layout.written(one.take(at, at + BLOCK), layer) for layer in range(layout.layers)])
        for at in (0, BLOCK)
    ]
    other = engine.new_cache()
    _fed(engine, other, 0, [9] * 70, 0)  # what it held before does not matter
    other.put(0, blocks[0])
    other.put(BLOCK, blocks[1])
    assert other.length == 2 * BLOCK
    again = _fed(engine, other, 2 * BLOCK, text[2 * BLOCK :], 2)
    # The same forwards, with what was computed in place of what was put.
    own = engine.new_cache()
    _fed(engine, own, 0, text[: 2 * BLOCK], 0)
    assert np.array_equal(again, _fed(engine, own, 2 * BLOCK, text[2 * BLOCK :], 2))
    assert np.abs(again - rows).max() < 1e-3
    assert all(np.array_equal(a, b) for a, b in zip(own.take(0, len(text)), other.take(0, len(text)), strict=True))


def test_a_cache_in_company_does_not_see_what_was_there_before_a_put(engine: Any) -> None:
    texts = [[at * k % 4000 for at in range(BLOCK + 4)] for k in (3, 5)]
    caches = [engine.new_cache() for _ in texts]
    for cache, text in zip(caches, texts, strict=True):
        _fed(engine, cache, 0, text[:BLOCK], 0)
    together = [Part(cache, BLOCK, text[BLOCK:], 1) for cache, text in zip(caches, texts, strict=True)]
    expected = engine.verify(together)
    caches[0].put(0, caches[1].take(0, BLOCK))
    swapped = engine.verify([Part(caches[0], BLOCK, texts[1][BLOCK:], 1), together[1]])
    assert np.allclose(swapped[0], expected[1], atol=1e-3)


def test_blocks_of_other_targets_layouts_and_roundings_lie_elsewhere(engine: Any) -> None:
    class Otherwise(OneByOne):
        """The same target on a machine that rounds otherwise."""

        def verify(self, batch: Any) -> Any:
            return [np.nextafter(rows, np.inf) for rows in super().verify(batch)]

    layout = Layout.of(OneByOne(engine, b"a" * 16))
    one, again = (folder_of(OneByOne(engine, b"a" * 16), layout) for _ in range(2))
    assert one == again
    assert folder_of(OneByOne(engine, b"b" * 16), layout).split("/")[0] != one.split("/")[0]
    assert folder_of(Otherwise(engine, b"a" * 16), layout).split("/")[0] == one.split("/")[0]
    assert folder_of(Otherwise(engine, b"a" * 16), layout) != one


class _Closed:
    """An engine whose caches give nothing away, as llama.cpp's do not."""

    info = EngineInfo("closed", 10, 100, digest=b"c" * 16)

    def new_cache(self) -> Any:
        return BandCache(object())  # type: ignore[arg-type]

    verify: Any = None


def test_an_engine_that_gives_nothing_away_is_refused_by_name() -> None:
    assert not hasattr(LlamaCppModel.new_cache, "take")
    with pytest.raises(ModelError, match="the engine of closed keeps keys and values to itself"):
        Layout.of(_Closed())
    with pytest.raises(ModelError, match="nobody can say what"):
        Layout.of(OneByOne(plain()))
