"""Steady rows: what an engine's rows depend on is found by a trial, and forwards keep to widths that do not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import EngineInfo, Exactness, LocalEngine, Part
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.grafts import Grafted
from airdraft.models.registry import load, load_target
from airdraft.models.steady import ROUNDING, Banded, share, steadied

from ..cpu import needs_avx2
from .test_onnx_variants import converted

VOCAB = 50
Disturb = Callable[["Made", Sequence[Part], Part], float]


class Shelf:
    """A cache of tokens."""

    def __init__(self, engine: Made) -> None:
        self.tokens: list[int] = []
        self.error = 0.0
        """What the forwards that fed it left in it."""
        engine.caches.append(self)

    @property
    def length(self) -> int:
        return len(self.tokens)


class Made(LocalEngine):
    """An engine whose rows are a function of the text, but for what `disturb` adds to them."""

    def __init__(self, disturb: Disturb, *, caches: int | None = None, context: int = 400) -> None:
        self.info = EngineInfo("made", VOCAB, context, max_batch=4, max_caches=caches)
        self.caches: list[Shelf] = []
        self.widths: list[int] = []
        self._disturb = disturb

    def new_cache(self) -> Shelf:
        return Shelf(self)

    def forward(self, cache: Shelf, keep: int, tokens: Sequence[int], rows: int) -> NDArray[np.float32]:
        [found] = self.verify([Part(cache, keep, tokens, rows)])
        assert not isinstance(found, AirdraftError)
        return found

    def verify(self, batch: Sequence[Part]) -> list[Any]:
        errors = [self._disturb(self, batch, part) for part in batch]
        found = []
        for part, error in zip(batch, errors, strict=True):
            self.widths.append(len(part.tokens))
            part.cache.tokens[part.keep :] = part.tokens
            part.cache.error = max(part.cache.error, error)
            ends = range(part.cache.length - part.rows + 1, part.cache.length + 1)
            rows = [np.random.default_rng(part.cache.tokens[:end]).standard_normal(VOCAB) for end in ends]
            rows = np.array(rows, np.float32).reshape(part.rows, VOCAB)
            found.append(rows + np.float32(part.cache.error) * np.arange(VOCAB, dtype=np.float32))
        return found


def never(engine: Made, batch: Sequence[Part], part: Part) -> float:
    return 0.0


def if_single(engine: Made, batch: Sequence[Part], part: Part) -> float:
    return 0.01 * (len(part.tokens) == 1)


def if_wide(engine: Made, batch: Sequence[Part], part: Part) -> float:
    return 0.02 * (len(part.tokens) == 1) + 0.01 * (len(part.tokens) > 7)


def by_width(engine: Made, batch: Sequence[Part], part: Part) -> float:
    return 0.001 * len(part.tokens)


def if_shared(engine: Made, batch: Sequence[Part], part: Part) -> float:
    return 0.01 * (len(batch) > 1)


def a_little_if_shared(engine: Made, batch: Sequence[Part], part: Part) -> float:
    return 1e-6 * (len(batch) > 1)


def in_company(engine: Made, batch: Sequence[Part], part: Part) -> float:
    return 0.01 * (sum(cache.length in {7, 40} for cache in engine.caches if cache is not part.cache) == 2)


@pytest.mark.parametrize(
    ("disturb", "band", "depends", "most"),
    [
        (never, (2, None), (), 4),
        (if_single, (2, None), (), 4),
        (if_wide, (2, 7), (), 4),
        (by_width, None, ("width",), 4),
        (if_shared, (2, None), (), 1),
        (a_little_if_shared, (2, None), ("batch",), 4),
        (in_company, (2, None), ("company",), 4),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_trial_finds_what_rows_depend_on(
    disturb: Disturb, band: tuple[int, int | None] | None, depends: tuple[str, ...], most: int
) -> None:
    found = steadied(Made(disturb))
    assert ((found._least, found._most) if isinstance(found, Banded) else None) == band
    shares = found.info.exactness.shares
    assert {name for name, changed in shares.items() if changed} == set(depends)
    assert found.info.max_batch == most
    assert 0 < (shares["batch"] or ROUNDING) <= ROUNDING


def test_an_engine_that_holds_two_texts_is_tried_too() -> None:
    assert steadied(Made(never, caches=1)).info.exactness == Exactness(0.0, 0.0, 0.0)
    assert steadied(Made(never, caches=2)).info.exactness == Exactness(0.0, 0.0, 0.0)


def test_a_short_context_is_tried_too() -> None:
    found = steadied(Made(if_single, context=9))
    assert found.info.exactness == Exactness(0.0, 0.0, 0.0)
    assert found.info.max_context == 8


@pytest.mark.parametrize("rows", [0, 1, 2, 29])
def test_forwards_keep_to_their_band(rows: int) -> None:
    for n in range(1, 30):
        one_forward_keeps_to_its_band(n, min(rows, n))


def one_forward_keeps_to_its_band(n: int, rows: int) -> None:
    inner = Made(never)
    engine = Banded(inner, 2, 7)
    cache, text = engine.new_cache(), np.random.default_rng(n).integers(VOCAB, size=40).tolist()
    engine.forward(cache, 0, text[:10], 0)
    found = engine.forward(cache, 5, text[5 : 5 + n], rows)
    assert 2 <= min(inner.widths) <= max(inner.widths) <= 7
    assert cache.length == 5 + n
    np.testing.assert_array_equal(found, inner.forward(inner.new_cache(), 0, text[: 5 + n], rows))
    with pytest.raises(ModelError, match=f"cannot keep {6 + n} positions of a cache of {5 + n}"):
        engine.forward(cache, 6 + n, [1], 1)  # though the other engine's cache may hold more


def test_one_error_is_no_others() -> None:
    engine = Banded(Made(never), 2, 7)
    caches = [engine.new_cache() for _ in range(3)]
    good, bad, long = engine.verify([
        Part(caches[0], 0, [1], 1), Part(caches[1], 1, [1], 1), Part(caches[2], 0, [3] * 20, 20)
    ])  # fmt: skip
    assert isinstance(bad, ModelError)
    assert isinstance(good, np.ndarray)
    assert good.shape == (1, VOCAB)
    assert isinstance(long, np.ndarray)
    assert long.shape == (20, VOCAB)


def test_an_engine_that_fails_in_its_trial_is_left_as_it_is() -> None:
    class Broken(Made):
        def verify(self, batch: Sequence[Part]) -> list[Any]:
            return [ModelError("no") for _ in batch]

    engine = Broken(never)
    assert steadied(engine) is engine
    assert engine.info.exactness == Exactness()


def test_shares() -> None:
    rows = np.zeros((2, 2), np.float32)
    other = np.array([[0, 0], [0, np.log(3)]], np.float32)
    assert share(rows, rows) == 0
    assert share(rows, other) == pytest.approx((0 + 0.25) / 2)
    assert share(rows, rows + np.float32(1e-7)) == 1e-9  # other bits, equal probabilities


def test_words() -> None:
    assert Exactness(0.0, 0.0, 0.0).words == "exact: the same request has the same text"
    assert Exactness().words == "exact up to rounding, whose size the engine does not say"
    assert Exactness(2e-7, 0.0, 0.03).words == (
        "exact up to rounding; share of tokens that it changes: 2e-07 with batch, 3e-02 with company"
    )
    assert Exactness(2e-7, 0.0, None).told == {"batch": 2e-7, "width": "exact", "company": None, "prompts": "exact"}
    lossy = Exactness.of((0.0, 0.0, 0.0, 0.03))
    assert lossy.words == (
        "not exact after published prompts or documents, which change 3e-02 of tokens; otherwise exact: the same "
        "request has the same text"
    )
    assert lossy.losses == {"prompts": 0.03}
    assert Exactness.of((0.0, 0.1, None)).losses == {}


TEXT = np.random.default_rng(3).integers(0, 4096, 60).tolist()
WIDTHS = (1, 2, 1, 9, 1, 30, 16)


def stepwise(engine: Any) -> Any:
    cache, found, start = engine.new_cache(), [], 0
    for width in WIDTHS:
        found.append(engine.forward(cache, start, TEXT[start : start + width], width))
        start += width
    return np.concatenate(found)


@needs_avx2
@pytest.mark.parametrize("kind", ["fp32", "int4"])
def test_onnx_rows_are_the_same_bits_at_every_width(kind: str, tmp_path: Path) -> None:
    """And would not be if one token were fed alone: the claim, and that it is not empty."""
    folder = shipped("target") if kind == "fp32" else converted("target", kind, tmp_path / "less")
    bare, found = OnnxModel(folder), load_target(str(folder), engine="onnx")[0]
    assert isinstance(found, Banded | Grafted)
    assert (found.info.exactness.width, found.info.exactness.company) == (0, 0)
    whole = bare.forward(bare.new_cache(), 0, TEXT, len(TEXT))
    np.testing.assert_array_equal(stepwise(found), whole)
    assert (stepwise(bare) != whole).any()


def test_one_scale_for_all_activations_makes_texts_depend_on_width(tmp_path: Path) -> None:
    """Dynamic 8-bit: nothing can be kept, so it is said."""
    folder = converted("target", "int8", tmp_path / "less")
    found = load_target(str(folder), engine="onnx")[0]
    exactness = found.info.exactness
    assert not isinstance(found, Banded)
    assert found.info.max_batch == 1
    assert (exactness.batch, exactness.company) == (0, 0)
    assert exactness.width is not None
    assert 0.01 < exactness.width < 0.2
    assert "with width" in exactness.words


def test_a_draft_is_not_slowed_down() -> None:
    assert isinstance(load("draft")[0], OnnxModel)


@needs_avx2
def test_a_target_that_drafts_is_steady_where_that_is_asked_for() -> None:
    assert isinstance(load("target", steady=True)[0], Grafted)
