"""Tokens that PyTorch chooses: the reference's, or none."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.choosing import choose
from airdraft.core.logprobs import UNLIKELY
from airdraft.core.noise import gumbel, mix, row_key
from airdraft.core.sampling import SamplingParams
from airdraft.errors import ModelError
from airdraft.models.base import Choice, Chooser, Part
from airdraft.models.engines import hf_choice
from airdraft.models.engines.hf import HfModel
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.grafts import Grafted
from airdraft.models.sharing import Sharing
from airdraft.models.steady import Banded
from bench.engine_choice import DRAFTS, LOGPROBS, TOKENS, compare, truth

pytest.importorskip("torch", reason="the hf engine takes airdraft[hf]")
pytest.importorskip("transformers", reason="the hf engine takes airdraft[hf]")

from ..suites import examples
from .test_hf import write

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("one_thread")


LEAST_EQUAL = {TOKENS: 0.97, LOGPROBS: 0.95, DRAFTS: 0.9}
"""Least share of rows that are not given back. One draft in eight has a bar next to its probability."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    return HfModel(write(tmp_path_factory.mktemp("hf") / "llama", "llama"), device="cpu")


def choice(params: SamplingParams, seed: int, positions: tuple[int, ...], vocab: int, *masks: Any) -> Choice:
    return Choice(params.temperature, params.top_k, params.top_p, params.min_p, seed, vocab, positions, masks)


def chosen(rows: Any, params: SamplingParams, *masks: Any) -> list[Any]:
    rows = np.asarray(rows, np.float32)
    asked = choice(params, 3, tuple(range(7, 7 + len(rows))), rows.shape[1], *masks)
    [found] = hf_choice.chosen([Part(None, 0, [0] * len(rows), len(rows), choice=asked)], [torch.from_numpy(rows)])
    return list(found)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 40)), st.integers(1, 300))
def test_the_noise_is_the_references(seed: int, position: int, vocab: int) -> None:
    keys = torch.tensor([[hf_choice._signed(row_key(seed, position))]])
    tokens = hf_choice._token_words(vocab, torch.device("cpu"))
    words = hf_choice._mixed(keys ^ tokens)[0].numpy().view(np.uint64)
    assert words.tolist() == [
        mix(row_key(seed, position) ^ mix((token + 1) * 0x9E3779B97F4A7C15)) for token in range(vocab)
    ]
    noise = hf_choice._gumbel(keys, tokens)[0].numpy()
    np.testing.assert_allclose(noise, gumbel(seed, position, vocab), rtol=0, atol=hf_choice._DOUBT / 4)


@pytest.mark.parametrize("what", LEAST_EQUAL)
def test_two_thousand_rows_of_every_parameter(what: str) -> None:
    found = compare(512, 2000, what)
    assert found.wrong == 0
    assert found.equal > LEAST_EQUAL[what] * found.rows


@pytest.mark.slow
@pytest.mark.parametrize("what", LEAST_EQUAL)
def test_a_hundred_thousand_rows_of_every_parameter(what: str) -> None:
    for vocab_size, positions in ((512, 100_000), (151936, 300)):
        found = compare(vocab_size, positions, what)
        assert found.rows >= positions
        assert found.wrong == 0
        assert found.equal > LEAST_EQUAL[what] * found.rows


def _late(keys: Any, words: Any, gumbel: Any = hf_choice._gumbel) -> Any:
    """Noise as of the next position, but for a part."""
    noise = gumbel(keys, words)
    noise[..., ::7] = gumbel(keys + 1, words)[..., ::7]
    return noise


def _last(scores: Any, k: int) -> Any:
    """The highest k, of equal ones the higher ids."""
    return (scores.shape[1] - 1 - scores.flip(-1).topk(k, -1).indices).sort(-1).values


def _uncut(scores: Any, sums: Any, top_p: Any) -> Any:
    """The winners, whether top-p keeps them or not."""
    return hf_choice._highest(sums)


def _all(scores: Any, weights: Any, top_p: Any) -> tuple[Any, Any]:
    """Everything is kept, whatever top-p."""
    return torch.ones_like(scores, dtype=torch.bool), torch.ones(len(scores), dtype=torch.bool)


@pytest.mark.parametrize(
    ("name", "fault", "what"),
    [("_gumbel", _late, TOKENS), ("_top", _last, TOKENS), ("_winners", _uncut, TOKENS), ("_top", _last, LOGPROBS),
     ("_nucleus", _all, DRAFTS), ("_top", _last, DRAFTS)],
)  # fmt: skip
def test_the_comparison_sees_a_fault(name: str, fault: Any, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_choice, name, fault)
    assert compare(512, 2000, what).wrong > 0


def test_one_row_of_a_part_whose_draft_is_rejected() -> None:
    rows = np.array([[0, 9, 0], [0, 0, 9], [9, 0, 0], [0, 9, 0]], np.float32)
    asked = replace(choice(SamplingParams(1.0), 0, (1, 2, 3, 4), 3), bars=((1, 0.9), (0, 0.9), (0, 0.9), (0, math.inf)))
    [found] = hf_choice.chosen([Part(None, 0, [0] * 4, 4, choice=asked)], [torch.from_numpy(rows)])
    assert found[0] == 1
    np.testing.assert_array_equal(found[1], rows[1])
    assert [type(each) for each in found] == [int, np.ndarray, int, int]


def test_of_equal_ones_the_first_is_the_most_likely() -> None:
    assert chosen([[0, 5, 5, 1], [9, 9, 9, 9]], SamplingParams(0.0)) == [1, 0]


def test_where_rounding_might_decide_the_row_is_given() -> None:
    rows = np.array([[0, 0, -9e9, -9e9], [0, 5, 0, 0]], np.float32)
    halves, sure = chosen(rows, SamplingParams(1.0, top_p=0.5))  # the first has half of the mass, so is it enough?
    assert isinstance(sure, int)
    if isinstance(halves, int):  # it won, and nothing is before it
        assert halves == 0
    else:
        np.testing.assert_array_equal(halves, rows[0])
    # Scores so great that a double has no room for the noise beside them.
    assert not isinstance(chosen([[1e20, 1e20]], SamplingParams(1e-6))[0], int)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_none_is_given_back(bad: float) -> None:
    rows = np.zeros((2, 6), np.float32)
    rows[0] = bad
    for params in (SamplingParams(0.0), SamplingParams(1.0), SamplingParams(1.0, 2, 0.9, 0.1)):
        broken, sound = chosen(rows, params)
        np.testing.assert_array_equal(broken, rows[0])
        assert sound == choose(rows[1], params, 3, 8)


def test_a_mask_without_a_token_that_may_come() -> None:
    [row] = chosen(np.zeros((1, 5)), SamplingParams(1.0), np.zeros(5, bool))
    np.testing.assert_array_equal(row, np.zeros(5))


BARS = st.sampled_from([0.0, 1e-4, 0.01, 0.1, 0.9])
PARAMS = st.builds(
    SamplingParams,
    st.sampled_from([0.0, 0.3, 1.0, 2.0]), st.sampled_from([0, 1, 5, 97]), st.sampled_from([1.0, 0.9, 0.3]),
    st.sampled_from([0.0, 0.1]),
)  # fmt: skip


WRAPPERS: dict[str, Any] = {
    "as it is": lambda engine: engine,
    "at least two tokens": lambda engine: Banded(engine, 2),
    "two to three tokens": lambda engine: Banded(engine, 2, 3),
    "branches fed again": Grafted,
    "both": lambda engine: Grafted(Banded(engine, 2)),
    "shared beginnings": Sharing,
}


@pytest.fixture(scope="module", params=WRAPPERS)
def wrapped(request: pytest.FixtureRequest, llama: HfModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "shared beginnings":
        folder = write(tmp_path_factory.mktemp("hf") / "spliced", "llama")
        return Sharing(HfModel(folder, device="cpu", splice=True))
    return WRAPPERS[request.param](llama)


@given(st.data())
@examples(30)
def test_the_engine_chooses_from_the_rows_that_it_would_give(wrapped: Any, data: st.DataObject) -> None:
    """Chains, trees and parts that ask for rows in one call, each with a law of its own."""
    assert isinstance(wrapped, Chooser)
    parts, plain = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        text = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=9))
        fed = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=5))
        parents = None
        if data.draw(st.booleans()):
            parents = (-1, *(data.draw(st.integers(0, at - 1)) for at in range(1, len(fed))))
        rows = data.draw(st.integers(1, len(fed)))
        caches = [wrapped.new_cache() for _ in range(2)]
        for cache in caches:
            wrapped.forward(cache, 0, text, 0)
        masks = [np.random.default_rng(at).random(97) < 0.5 if data.draw(st.booleans()) else None for at in range(rows)]
        first = data.draw(st.integers(0, 1 << 30))
        asked = choice(
            data.draw(PARAMS), data.draw(st.integers(0, (1 << 64) - 1)), tuple(range(first, first + rows)), 97, *masks
        )
        if data.draw(st.booleans()):
            asked = replace(asked, logprobs=(data.draw(st.integers(0, 3)), UNLIKELY))
        elif parents is None and data.draw(st.booleans()):
            asked = replace(asked, bars=tuple((data.draw(st.integers(0, 96)), data.draw(BARS)) for _ in range(rows)))
        parts.append(Part(caches[0], len(text), fed, rows, parents, choice=asked if data.draw(st.booleans()) else None))
        plain.append(Part(caches[1], len(text), fed, rows, parents))
    for part, found, expected in zip(parts, wrapped.choose(parts), wrapped.verify(plain), strict=True):
        assert not isinstance(found, ModelError)
        assert not isinstance(expected, ModelError)
        if part.choice is None:
            np.testing.assert_array_equal(np.asarray(found), expected)
            continue
        assert isinstance(found, list)
        assert len(found) == part.rows
        for at, (said, row) in enumerate(zip(found, expected, strict=True)):
            if isinstance(said, np.ndarray):
                np.testing.assert_array_equal(said, row)
            else:
                assert said == truth(row, part.choice, at)
            if part.choice.bars and truth(row, part.choice, at) is None:
                break


def test_a_wrapper_of_an_engine_that_gives_rows_gives_rows() -> None:
    assert not isinstance(Grafted(Banded(OnnxModel(shipped("draft")), 2)), Chooser)


def test_columns_that_are_no_tokens_are_not_chosen(llama: HfModel) -> None:
    [found] = llama.choose(
        [Part(llama.new_cache(), 0, [1, 2, 3], 3, choice=choice(SamplingParams(0), 0, (1, 2, 3), 4))]
    )
    rows = llama.forward(llama.new_cache(), 0, [1, 2, 3], 3)
    assert list(found) == np.argmax(rows[:, :4], 1).tolist()


def test_an_error_is_no_other_parts(llama: HfModel) -> None:
    asked = choice(SamplingParams(0.0), 0, (1,), 97)
    bad, good = llama.choose([Part(llama.new_cache(), 0, [token], 1, choice=asked) for token in (4000, 5)])
    assert isinstance(bad, ModelError)
    assert isinstance(good, list)


def test_on_the_cpu_rows_are_given(llama: HfModel) -> None:
    assert not llama.info.chooses


def test_rows_that_do_not_fit_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((7, 50)).astype(np.float32)
    whole = chosen(rows, SamplingParams(1.0))
    monkeypatch.setattr(hf_choice, "_PIECE", 100)
    assert chosen(rows, SamplingParams(1.0)) == whole


def test_a_part_that_picks_chooses_as_well(llama: HfModel) -> None:
    asked = choice(SamplingParams(0.0), 0, (3,), 97)
    cache, chain = llama.new_cache(), llama.new_cache()
    llama.forward(cache, 0, [1], 0)
    llama.choose([Part(cache, 1, [2, 3, 4], 3, (-1, 0, 0))])
    [found] = llama.choose([Part(cache, 2, [5], 1, picks=(1,), choice=asked)])
    assert found == [int(llama.forward(chain, 0, [1, 2, 4, 5], 1)[0].argmax())]
