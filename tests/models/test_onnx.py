"""The shipped pair behind `LanguageModel`: a cache that rolls back, and every misuse named."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, LanguageModel
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped

from ..suites import examples

TOLERANCE = 1e-4
"""Between rows of forwards of different widths: rounding, 5e-6 as a rule. Two tokens swapped far back make 0.8."""

TEXT = [0, 300, 17, 2049, 900, 31, 4000, 300, 300, 77, 1234, 5]


def rows_of(model: LanguageModel, tokens: list[int], rows: int = 1) -> FloatArray:
    """The last rows of one forward of everything."""
    return model.forward(model.new_cache(), 0, tokens, rows)


@pytest.fixture(params=["target", "draft"])
def model(request: pytest.FixtureRequest) -> OnnxModel:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, OnnxModel)
    return found


def test_facts_come_from_the_config(model: OnnxModel) -> None:
    assert model.name in ("target", "draft")
    assert (model.vocab_size, model.max_context, model.eos_ids) == (4096, 1024, (0,))


def test_it_is_a_language_model(target: OnnxModel) -> None:
    model: LanguageModel = target
    logits = rows_of(model, TEXT, 3)
    assert logits.shape == (3, 4096)
    assert logits.dtype == np.float32


def test_one_forward_of_n_tokens_has_the_rows_of_n_forwards_of_one(model: OnnxModel) -> None:
    cache = model.new_cache()
    alone = [model.forward(cache, i, [token], 1)[0] for i, token in enumerate(TEXT)]
    together = rows_of(model, TEXT, len(TEXT))
    np.testing.assert_allclose(together, alone, rtol=0, atol=TOLERANCE)


def test_rows_are_the_last_ones(model: OnnxModel) -> None:
    everything = rows_of(model, TEXT, len(TEXT))
    for rows in range(len(TEXT) + 1):
        np.testing.assert_array_equal(rows_of(model, TEXT, rows), everything[len(TEXT) - rows :])


@pytest.mark.parametrize("keep", range(len(TEXT) + 1))
def test_a_cache_rolled_back_to_any_depth_is_as_good_as_a_fresh_one(model: OnnxModel, keep: int) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT, 0)
    branch = [8, 9, 10]
    np.testing.assert_allclose(
        model.forward(cache, keep, branch, 3), rows_of(model, TEXT[:keep] + branch, 3), rtol=0, atol=TOLERANCE
    )


def test_rolled_back_and_fed_again_the_rows_are_equal_to_the_bit(model: OnnxModel) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT, 0)
    once = model.forward(cache, 7, [8, 9, 10], 3)
    model.forward(cache, 7, [99] * 20, 0)
    np.testing.assert_array_equal(model.forward(cache, 7, [8, 9, 10], 3), once)


@examples(25)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 1000), st.lists(st.integers(0, 4095), min_size=1, max_size=5)), min_size=1, max_size=8
    )
)
def test_any_history_of_feeding_and_rolling_back(steps: list[tuple[int, list[int]]]) -> None:
    model = _draft()
    cache, held = model.new_cache(), list[int]()
    for depth, tokens in steps:
        keep = depth % (len(held) + 1)
        held = held[:keep] + tokens
        rows = model.forward(cache, keep, tokens, len(tokens))
        np.testing.assert_allclose(rows, rows_of(model, held, len(tokens)), rtol=0, atol=TOLERANCE)


_opened: list[OnnxModel] = []


def _draft() -> OnnxModel:
    """Hypothesis and fixtures of a function do not mix."""
    if not _opened:
        _opened.append(OnnxModel(shipped("draft")))
    return _opened[0]


def test_interleaved_caches_do_not_disturb_each_other(model: OnnxModel) -> None:
    caches = [model.new_cache(), model.new_cache()]
    mixed: list[list[FloatArray]] = [[], []]
    # Step 2 of three feeds in place of the last token, so both caches roll back in turn as well.
    for i in range(12):
        for which, first in enumerate((10, 500)):
            mixed[which].append(model.forward(caches[which], _keep(i), [first + i], 1))
    for which, first in enumerate((10, 500)):
        cache = model.new_cache()
        alone = [model.forward(cache, _keep(i), [first + i], 1) for i in range(12)]
        np.testing.assert_array_equal(mixed[which], alone)


def _keep(i: int) -> int:
    """0 1 1 2 3 3 4 5 5 ...: positions kept at step i when each third step replaces the last token."""
    return i - (i + 1) // 3


def test_threads_with_a_cache_each_do_not_disturb_each_other(model: OnnxModel) -> None:
    def write(first: int) -> list[FloatArray]:
        cache = model.new_cache()
        return [model.forward(cache, _keep(i), [first + i], 1) for i in range(12)]

    starts = [10, 500, 900, 1300]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(write, starts))
    np.testing.assert_array_equal(together, [write(first) for first in starts])


def test_the_rows_are_the_callers(model: OnnxModel) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT[:-1], 0)
    rows = model.forward(cache, len(TEXT) - 1, TEXT[-1:], 1)
    before = rows.copy()
    rows += 1  # samplers work in place
    np.testing.assert_array_equal(model.forward(cache, len(TEXT) - 1, TEXT[-1:], 1), before)


def test_the_last_position_can_be_used_and_none_beyond(draft: OnnxModel) -> None:
    cache = draft.new_cache()
    draft.forward(cache, 0, [1] * 1023, 0)
    assert draft.forward(cache, 1023, [2], 1).shape == (1, 4096)
    with pytest.raises(ModelError, match=r"1025 positions exceed the 1024 of draft; shorten"):
        draft.forward(cache, 1024, [3], 1)


@pytest.mark.parametrize(
    ("keep", "tokens", "rows", "message"),
    [
        (5, [1], 1, "cannot keep 5 positions of a cache of 4; feed"),
        (-1, [1], 1, "cannot keep -1 positions of a cache of 4; feed"),
        (4, [], 0, "at least one token; feed"),
        (4, [1, 2], 3, "2 tokens give 0 to 2 rows, not 3; ask"),
        (4, [1, 2], -1, "2 tokens give 0 to 2 rows, not -1; ask"),
        (4, [1, 4096], 1, "outside 0 to 4095; use the tokenizer of draft"),
        (4, [-1, 2], 1, "outside 0 to 4095; use the tokenizer of draft"),
        (4, [1] * 1021, 1, "1025 positions exceed the 1024 of draft; shorten"),
    ],
)
def test_misuse_is_named_and_leaves_the_cache(
    draft: OnnxModel, keep: int, tokens: list[int], rows: int, message: str
) -> None:
    cache = draft.new_cache()
    draft.forward(cache, 0, TEXT[:4], 0)
    with pytest.raises(ModelError, match=message) as raised:
        draft.forward(cache, keep, tokens, rows)
    assert "\n" not in str(raised.value)
    np.testing.assert_allclose(draft.forward(cache, 4, TEXT[4:], 1), rows_of(draft, TEXT), rtol=0, atol=TOLERANCE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The draft in a folder that the test may damage."""
    return Path(shutil.copytree(shipped("draft"), tmp_path / "copy"))


def test_a_copy_elsewhere_runs(copy: Path) -> None:
    assert rows_of(OnnxModel(copy, threads=2, name="mine"), TEXT).shape == (1, 4096)


def test_no_graph(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"copy has no model\.onnx; export it with `optimum-cli export onnx"):
        OnnxModel(copy)


def test_broken_graph(copy: Path) -> None:
    graph = copy / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.onnx cannot be loaded \(.*\); fetch or export it again") as raised:
        OnnxModel(copy)
    assert "\n" not in str(raised.value)


def test_missing_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx cannot be loaded \(.*model\.safetensors"):
        OnnxModel(copy)
