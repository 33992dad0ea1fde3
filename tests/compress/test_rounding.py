"""Codes of few bits: what is stored is what was chosen, and GPTQ chooses no worse than the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.compress.gptq import gptq
from airdraft.compress.rounding import BLOCK, WIDTHS, codes, packed, rounded, spread, steps
from airdraft.models.imports.quants import FORMATS


@pytest.mark.parametrize("bits", WIDTHS)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 0.02, 1.0, 1e3]))
def test_what_is_stored_is_read_back(bits: str, seed: int, scale: float) -> None:
    width = WIDTHS[bits]
    weights = np.float32(scale) * np.random.default_rng(seed).normal(size=(3, 2 * BLOCK)).astype(np.float32)
    step = steps(weights, width)
    found = codes(weights, spread(step), width)
    raw = packed(found, step, width)
    form = FORMATS[width.number]
    assert form.name == width.format
    assert raw.shape == (3, form.row_bytes(2 * BLOCK))
    np.testing.assert_array_equal(form.dense(raw), found * spread(step))
    # The step is rounded to half precision, and the code on the far side of the largest may be missing.
    assert (np.abs(found * spread(step) - weights) <= np.abs(spread(step)) * (1.01 if width.bits == 4 else 0.6)).all()


def correlated(rng: np.random.Generator, columns: int) -> np.ndarray:
    """Activations [positions, columns] whose channels follow each other."""
    return rng.normal(size=(4 * columns, columns)) @ rng.normal(size=(columns, columns)) / columns**0.5


@pytest.mark.parametrize("bits", WIDTHS)
def test_gptq_spreads_errors_so_that_less_is_left_of_them(bits: str) -> None:
    rng = np.random.default_rng(1)
    columns = 5 * BLOCK  # more than are taken together, and not a whole number of those
    x, weights = correlated(rng, columns), rng.normal(size=(24, columns))
    found, step = gptq(weights, x.T @ x, WIDTHS[bits])
    better = np.square(x @ (found * spread(step) - weights).T).sum()
    nearest = np.square(x @ (rounded(weights, WIDTHS[bits]) - weights).T).sum()
    assert better < 0.7 * nearest


def test_gptq_is_the_nearest_where_no_channel_tells_of_another() -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(6, 3 * BLOCK))
    found, step = gptq(weights, np.diag(rng.uniform(0, 5, 3 * BLOCK)), WIDTHS["W4"])
    np.testing.assert_array_equal(found * spread(step), rounded(weights, WIDTHS["W4"]))


def test_channels_that_are_never_used_do_not_stop_gptq() -> None:
    weights = np.random.default_rng(3).normal(size=(4, BLOCK))
    found, step = gptq(weights, np.zeros((BLOCK, BLOCK)), WIDTHS["W4"])
    np.testing.assert_array_equal(found * spread(step), rounded(weights, WIDTHS["W4"]))
