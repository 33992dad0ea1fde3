"""Calls in set shapes: the rows of calls without, whatever came before; and what happens where nothing is captured.

No GPU is needed: the same buffers, padding and pages are used on the CPU, where a shape is run and not replayed.
"""

from __future__ import annotations

import gc
import io
import logging
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.sampling import SamplingParams
from airdraft.errors import ModelError
from airdraft.models.base import Part
from airdraft.models.engines import hf_graphs
from airdraft.models.engines.hf import HfModel
from airdraft.models.engines.hf_graphs import Shape, captured

pytest.importorskip("torch", reason="the hf engine takes airdraft[hf]")

from ..suites import examples
from .test_hf import close, write
from .test_hf_choice import choice

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("one_thread")


class Counting:
    """Makes nothing faster, and counts what it was asked to make ready, and what of it ran."""

    def __init__(self) -> None:
        self.made = self.ran = 0

    def __call__(self, run: Any) -> Any:
        self.made += 1

        def again() -> Any:
            self.ran += 1
            return run()

        return again


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("hf") / request.param, request.param)


@pytest.fixture(scope="module")
def plain(folder: Path) -> HfModel:
    return HfModel(folder, device="cpu")


@pytest.fixture
def shaped(folder: Path) -> tuple[HfModel, Counting]:
    model, counting = HfModel(folder, device="cpu"), Counting()
    model.set_shapes(counting)
    return model, counting


def test_a_shape_is_the_least_that_fits() -> None:
    assert Shape.of(1, 1, 1) == (1, 1, 64)
    assert Shape.of(3, 5, 201) == (4, 6, 256)
    assert Shape.of(16, 5, 1030) == (16, 6, 1280)
    assert Shape.of(65, 1, 90) is None
    assert Shape.of(1, 33, 90) is None
    assert Shape.of(64, 9, 90) is None


@given(st.integers(1, 64), st.integers(1, 32), st.integers(0, 100_000))
def test_everything_fits_its_shape(texts: int, fed: int, kept: int) -> None:
    shape = Shape.of(texts, fed, kept + fed)
    if shape is None:
        assert texts * fed > hf_graphs.MOST_TOKENS // 4
        return
    assert shape.texts >= texts
    assert shape.fed >= fed
    assert shape.columns - shape.fed >= kept
    assert shape.columns <= max(1.25 * (kept + shape.fed), kept + shape.fed + hf_graphs.LEAST)


@given(st.data())
@examples(30)
def test_any_history_has_the_rows_of_calls_without_shapes(folder: Path, plain: HfModel, data: st.DataObject) -> None:
    """Batches of any texts, chains and trees, roll-backs and picks; pages grow meanwhile."""
    model, counting = HfModel(folder, device="cpu"), Counting()
    model.set_shapes(counting)
    caches = [(model.new_cache(), plain.new_cache()) for _ in range(5)]
    branched: dict[int, tuple[int, int]] = {}  # where a tree of two leaves was fed, and how many tokens
    for _ in range(data.draw(st.integers(1, 6))):
        batches: tuple[list[Part], list[Part]] = ([], [])
        trees = {}
        for at in sorted(data.draw(st.sets(st.integers(0, 4), min_size=1))):
            length, picks = caches[at][0].length, ()
            if at in branched and data.draw(st.booleans()):
                keep, picks = branched[at][0] + 1, (1,)  # the first of its tokens, and the second leaf
            else:
                keep = data.draw(st.integers(0, min(length, branched[at][0] if at in branched else length)))
            fed = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=6))
            fed, parents = fed[: 60 - keep] or [1], None
            if keep + len(picks) + len(fed) > 60:
                keep, picks = 0, ()
            if len(fed) == 3:
                parents, trees[at] = (-1, 0, 0), (keep + len(picks), 3)
            for batch, cache in zip(batches, caches[at], strict=True):
                batch.append(Part(cache, keep, fed, len(fed), parents, picks))
            branched.pop(at, None)
        branched |= trees
        for found, expected in zip(model.verify(batches[0]), plain.verify(batches[1]), strict=True):
            assert isinstance(found, np.ndarray)
            close(found, expected)
    assert counting.ran > 0
    assert model._graphs is not None
    assert not model._graphs.off


def test_a_shape_is_made_ready_once_and_anew_when_pages_move(shaped: tuple[HfModel, Counting]) -> None:
    model, counting = shaped
    cache = model.new_cache()
    for token in range(8):
        model.forward(cache, token, [token], 1)
    assert counting.made == 1
    assert counting.ran == 8
    others = [model.new_cache() for _ in range(9)]
    for other in others:
        model.forward(other, 0, [1, 2, 3, 4, 5, 6], 1)
    model.forward(cache, 8, [9], 1)
    assert counting.made > 2  # the other shape, and the first again


def test_long_prompts_and_private_texts_have_no_shape(shaped: tuple[HfModel, Counting], plain: HfModel) -> None:
    model, counting = shaped
    close(model.forward(model.new_cache(), 0, [3] * 40, 2), plain.forward(plain.new_cache(), 0, [3] * 40, 2))
    hidden = model.new_cache()
    hidden.private = True
    close(model.forward(hidden, 0, [1, 2, 3], 3), plain.forward(plain.new_cache(), 0, [1, 2, 3], 3))
    assert counting.made == 0


def test_tokens_are_chosen_from_a_shape(shaped: tuple[HfModel, Counting], plain: HfModel) -> None:
    model, counting = shaped
    tokens, masks = [5, 6, 7, 8, 9], (None, np.arange(97) % 2 == 0, None, None, None)
    asked = choice(SamplingParams(0.8, top_p=0.9), 3, (4, 5, 6, 7, 6), 97, *masks)
    parts = [Part(each.new_cache(), 0, tokens, 5, (-1, 0, 1, 0, 3), choice=asked) for each in (model, plain)]
    assert model.choose(parts[:1]) == plain.choose(parts[1:])
    assert counting.ran == 1


def test_where_nothing_can_be_captured_forwards_run_as_they_are(
    folder: Path, plain: HfModel, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU captures")
    model = HfModel(folder, device="cpu")
    graphs = model.set_shapes(captured)
    caches = [model.new_cache(), plain.new_cache()]
    with caplog.at_level(logging.WARNING, "airdraft"):
        for keep in range(3):
            close(model.forward(caches[0], keep, [keep], 1), plain.forward(caches[1], keep, [keep], 1))
    assert graphs.off
    assert len(caplog.records) == 1
    assert "captured no more" in caplog.text


@pytest.mark.parametrize("terminal", [False, True])
def test_shapes_get_ready_at_the_start_and_a_terminal_shows_it(
    shaped: tuple[HfModel, Counting], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    model, counting = shaped
    assert model._graphs is not None
    errors = io.StringIO()
    monkeypatch.setattr(errors, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", errors)
    model._graphs.warm()
    assert counting.made == len(hf_graphs.WARM)
    assert ("forwards get ready" in errors.getvalue()) == terminal


def test_the_oldest_shapes_go(shaped: tuple[HfModel, Counting], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_graphs, "MOST", 2)
    model, counting = shaped
    cache = model.new_cache()
    model.forward(cache, 0, [1] * 30, 0)
    for width in (1, 2, 4, 4, 1):
        model.forward(cache, 1, [3] * width, 1)
    assert counting.made == 5  # with that of the prompt; the last is one that went
    gc.collect()


def test_pages_are_there_before_they_are_needed(plain: HfModel) -> None:
    plain._pages.reserve(1000)
    count = plain._pages.count
    assert count >= 1000 // 16
    plain._pages.reserve(10)
    assert plain._pages.count == count


class Failing(Counting):
    """A GPU whose memory ends when the second shape is made ready, or when a shape is run for the third time."""

    def __init__(self, *, made: int = 1 << 30, ran: int = 1 << 30) -> None:
        super().__init__()
        self._most_made, self._most_ran = made, ran

    def __call__(self, run: Any) -> Any:
        if self.made == self._most_made:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        again = super().__call__(run)

        def replay() -> Any:
            if self.ran == self._most_ran:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return again()

        return replay


@pytest.mark.parametrize("failing", [Failing(made=1), Failing(ran=2)], ids=["capture", "replay"])
def test_what_fails_later_is_run_as_it_is_and_no_text_notices(
    folder: Path, plain: HfModel, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    model = HfModel(folder, device="cpu")
    failing.made = failing.ran = 0
    graphs = model.set_shapes(failing)
    cache, other = model.new_cache(), plain.new_cache()
    with caplog.at_level(logging.WARNING, "airdraft"):
        for keep, width in ((0, 1), (1, 1), (2, 5), (7, 1), (3, 6)):
            fed = list(range(width))
            [found] = model.verify([Part(cache, keep, fed, width)])
            close(found, plain.forward(other, keep, fed, width))
    assert graphs.off
    assert model.uncaptured == graphs.off
    assert caplog.text.count("captured no more") == 1


def test_memory_that_ends_while_pages_move_leaves_them_as_they_were(
    shaped: tuple[HfModel, Counting], plain: HfModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some layers have moved then, and what was captured before would read where they were."""
    model, counting = shaped
    cache, other = model.new_cache(), plain.new_cache()
    for each, kept in ((model, cache), (plain, other)):
        each.forward(kept, 0, [5, 6, 7], 0)
    count, made = model._pages.count, counting.made
    zeros, left = torch.Tensor.new_zeros, iter([True])

    def ends(self: Any, *size: int, **options: Any) -> Any:
        if self.dim() == 2 and not next(left, False):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return zeros(self, *size, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_zeros", ends)
        [found] = model.verify([Part(model.new_cache(), 0, [1] * 50, 1)])
    assert isinstance(found, ModelError)
    assert "out of memory" in str(found)
    assert model._pages.count == count
    close(model.forward(cache, 3, [8], 1), plain.forward(other, 3, [8], 1))
    assert counting.made > made  # anew, where the pages lie now
    close(model.forward(cache, 0, [1] * 50, 2), plain.forward(other, 0, [1] * 50, 2))


def test_an_error_holds_on_to_no_cache(plain: HfModel) -> None:
    cache = plain.new_cache()
    gone = weakref.ref(cache)
    found = plain.verify([Part(cache, 0, [4000], 1), Part(cache, 3, [1], 1)])
    assert all(isinstance(each, ModelError) for each in found)
    del cache
    gc.collect()
    assert gone() is None
