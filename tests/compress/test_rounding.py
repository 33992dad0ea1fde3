"""Codes of few bits: what is stored is what was chosen, and GPTQ chooses no worse than the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.compress.gptq import gptq
from airdraft.compress.rounding import (
    BLOCK,
    FEWEST,
    GROUPS,
    STORED,
    SUPER,
    WIDTHS,
    Width,
    codes,
    grouped,
    packed,
    rounded,
    spread,
    steps,
    values,
)
from airdraft.models.imports.quants import FORMATS

gguf = pytest.importorskip("gguf", reason="its numbers are compared with")


EVERY = WIDTHS | FEWEST
GROUPED = [grouped(width, group) for width in EVERY.values() for group in GROUPS]


@pytest.mark.parametrize("bits", EVERY)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 0.02, 1.0, 1e3]))
def test_what_is_stored_is_read_back(bits: str, seed: int, scale: float) -> None:
    width = EVERY[bits]
    weights = np.float32(scale) * np.random.default_rng(seed).normal(size=(3, 2 * SUPER)).astype(np.float32)
    step = steps(weights, width)
    found = codes(weights, spread(step, width), width)
    raw = packed(found, step, width)
    form = FORMATS[width.number]
    assert form.name == width.format
    assert raw.shape == (3, form.row_bytes(2 * SUPER))
    stands_for = values(found, spread(step, width), width)
    np.testing.assert_allclose(form.dense(raw), stands_for, rtol=3e-7 if bits == "W2" else 0, atol=0)
    np.testing.assert_array_equal(gguf.dequantize(raw, gguf.GGMLQuantizationType(width.number)), form.dense(raw))
    if bits in WIDTHS:
        # The step is rounded to half precision, and the code on the far side of the largest may be missing.
        far = np.abs(spread(step, width)) * (1.01 if width.bits == 4 else 0.6)
        assert (np.abs(stands_for - weights) <= far).all()


@pytest.mark.parametrize("width", GROUPED, ids=str)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 0.02, 1.0, 1e3]))
def test_blocks_of_any_length_are_read_back(width: Width, seed: int, scale: float) -> None:
    weights = np.float32(scale) * np.random.default_rng(seed).normal(size=(3, 256)).astype(np.float32)
    step = steps(weights, width)
    assert step.shape == (3, 256 // width.block)
    found = codes(weights, spread(step, width), width)
    raw, form = packed(found, step, width), STORED[width.number]
    assert raw.shape == (3, form.row_bytes(256))
    np.testing.assert_array_equal(form.dense(raw), values(found, spread(step, width), width))
    assert form.bits == (8 if width.bits == 8 else 4)


@pytest.mark.parametrize("bits", EVERY)
def test_shorter_blocks_lose_less(bits: str) -> None:
    weights = np.random.default_rng(4).normal(size=(8, 256))
    lost = [np.square(rounded(weights, grouped(EVERY[bits], group)) - weights).mean() for group in GROUPS]
    assert lost == sorted(lost)


def test_fewer_bits_lose_more_and_never_all() -> None:
    weights = np.random.default_rng(4).normal(size=(8, SUPER))
    lost = [np.square(rounded(weights, EVERY[bits]) - weights).mean() for bits in ("W8", "W4", "W3", "W2")]
    assert lost == sorted(lost)
    assert lost[2] < 0.04
    assert lost[3] < 0.15


def correlated(rng: np.random.Generator, columns: int) -> np.ndarray:
    """Activations [positions, columns] whose channels follow each other."""
    return rng.normal(size=(4 * columns, columns)) @ rng.normal(size=(columns, columns)) / columns**0.5


@pytest.mark.parametrize("bits", EVERY)
def test_gptq_spreads_errors_so_that_less_is_left_of_them(bits: str) -> None:
    rng = np.random.default_rng(1)
    width = EVERY[bits]
    columns = SUPER if bits in FEWEST else 5 * BLOCK  # more than are taken together, and not a whole number of those
    x, weights = correlated(rng, columns), rng.normal(size=(24, columns))
    found, step = gptq(weights, x.T @ x, width)
    better = np.square(x @ (values(found, spread(step, width), width) - weights).T).sum()
    nearest = np.square(x @ (rounded(weights, width) - weights).T).sum()
    assert better < 0.7 * nearest


def test_gptq_is_the_nearest_where_no_channel_tells_of_another() -> None:
    rng = np.random.default_rng(2)
    weights, width = rng.normal(size=(6, 3 * BLOCK)), WIDTHS["W4"]
    found, step = gptq(weights, np.diag(rng.uniform(0, 5, 3 * BLOCK)), width)
    np.testing.assert_array_equal(values(found, spread(step, width), width), rounded(weights, width))


def test_channels_that_are_never_used_do_not_stop_gptq() -> None:
    weights, width = np.random.default_rng(3).normal(size=(4, BLOCK)), WIDTHS["W4"]
    found, step = gptq(weights, np.zeros((BLOCK, BLOCK)), width)
    np.testing.assert_array_equal(values(found, spread(step, width), width), rounded(weights, width))
