"""Keys at other positions, and documents that did not see each other when they were computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import BadParameterError, ModelError
from airdraft.models.base import Part
from airdraft.models.engines.hf import HfModel
from airdraft.models.files.folder import shipped
from airdraft.prompts.joining import Document, differing, firsts, joined
from airdraft.prompts.rotary import Rotary

from .models import plain

TEXT = [at * 37 % 3900 + 1 for at in range(150)]


@pytest.fixture(scope="module")
def engine() -> Any:
    return plain()


@pytest.fixture(scope="module")
def rotary(engine: Any) -> Rotary:
    return Rotary.of(engine)


def _computed(engine: Any, tokens: list[int]) -> list[Any]:
    return list(Document.of(engine, tokens).tensors)


def test_the_angles_are_those_of_the_models_config(rotary: Rotary) -> None:
    assert rotary.halves
    np.testing.assert_allclose(rotary.angles, 10000.0 ** (-np.arange(0, 64, 2) / 64), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_measured_on_hf_as_well(dtype: str) -> None:
    pytest.importorskip("torch", reason="needs the extra hf")
    pytest.importorskip("transformers", reason="needs the extra hf")
    found = Rotary.of(HfModel(shipped("target"), dtype=dtype))
    assert found.halves
    np.testing.assert_allclose(found.angles, 10000.0 ** (-np.arange(0, 64, 2) / 64), atol=1e-4)


@pytest.mark.parametrize("by", [1, 64, 700])
def test_keys_of_the_first_layer_are_those_of_where_they_are_moved(engine: Any, rotary: Rotary, by: int) -> None:
    there = _computed(engine, [7] * by + TEXT)
    moved = rotary.moved(_computed(engine, TEXT), by)
    np.testing.assert_allclose(moved[0], there[0][:, by:], atol=2e-4 * np.abs(there[0]).max())
    np.testing.assert_allclose(moved[1], there[1][:, by:], atol=1e-5)
    assert np.abs(there[0][:, by:] - _computed(engine, TEXT)[0]).max() > 0.01


@given(st.integers(-500, 500), st.booleans(), st.integers(0, 1 << 32))
def test_turning_keeps_lengths_and_leads_back(by: int, halves: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotary = Rotary(rng.uniform(-3, 3, 8), halves)
    block = [rng.normal(size=(2, 5, 16)).astype(np.float32) for _ in range(4)]
    moved = rotary.moved(block, by)
    for one, other, back in zip(block, moved, rotary.moved(moved, -by), strict=True):
        np.testing.assert_allclose(np.linalg.norm(one, axis=2), np.linalg.norm(other, axis=2), rtol=1e-5)
        np.testing.assert_allclose(one, back, atol=1e-5)


class _Learned:
    """An engine that adds something to each key by its position, as models with learned positions do."""

    def __init__(self, inner: Any) -> None:
        self.info, self.new_cache, self._inner = inner.info, inner.new_cache, inner

    def verify(self, batch: Any) -> Any:
        rows = self._inner.verify(batch)
        for part in batch:
            tensors = part.cache.take(0, part.cache.length)
            part.cache.put(0, [each + np.arange(each.shape[1], dtype=np.float32)[None, :, None] for each in tensors])
        return rows


def test_positions_that_are_no_turns_are_refused(engine: Any) -> None:
    with pytest.raises(ModelError, match="cannot be moved; compute these texts where they stand"):
        Rotary.of(_Learned(engine))


def test_documents_that_are_computed_again_are_those_of_the_whole_text(engine: Any, rotary: Rotary) -> None:
    lengths = [60, 50, 40]
    starts = [0, 60, 110]
    whole = _computed(engine, TEXT)
    pieces = [Document.of(engine, TEXT[at : at + n]) for at, n in zip(starts, lengths, strict=True)]

    def apart(again: list[int]) -> float:
        cache = joined(engine, rotary, pieces, again)
        assert cache.length == len(TEXT)
        return float(max(np.abs(a - b).max() for a, b in zip(cache.take(0, len(TEXT)), whole, strict=True)))

    stale = joined(engine, rotary, pieces, ()).take(0, len(TEXT))
    assert apart(list(range(60, 150))) < 1e-3
    assert apart([]) > 0.1
    half = differing(stale, whole, 0.5)
    assert len(half) == 75
    assert min(half) >= 60  # the first document is as it should be
    assert all(np.abs(stale[0][:, at] - whole[0][:, at]).max() < 1e-2 for at in half)
    cache: Any = joined(engine, rotary, pieces, half)
    [rows] = engine.verify([Part(cache, len(TEXT), [5, 6], 2)])
    assert np.isfinite(rows).all()
    with pytest.raises(BadParameterError, match="position 150 is to be computed, and there are 150"):
        joined(engine, rotary, pieces, [150])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 25))
def test_firsts_are_of_all_documents_but_the_first(lengths: list[int], count: int) -> None:
    owner = [which for which, length in enumerate(lengths) for _ in range(length)]
    found = firsts(lengths, count)
    for which in range(len(lengths)):
        mine = [at for at, each in enumerate(owner) if each == which]
        assert [at for at in found if owner[at] == which] == (mine[:count] if which else [])
