"""Splitting, rounding, clipping and making up: none leaves a larger error than without it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airdraft.compress.channels import (
    activation_codes,
    clipped,
    compensation,
    layer_error,
    parts_of,
    rounded_rows,
    shared_out,
    split_rows,
)
from tests.suites import examples

SEEDS = st.integers(0, 2**32 - 1)


def planted(seed: int, channels: int, raised: float) -> tuple[np.ndarray, np.ndarray]:
    """Activations [positions, channels] that follow each other, and weights with some columns raised."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3 * channels, channels)) @ rng.normal(size=(channels, channels)) / channels**0.5
    weights = rng.normal(size=(9, channels))
    weights[:, rng.choice(channels, 2, replace=False)] *= raised
    return x, weights


@examples(40)
@given(SEEDS, st.sampled_from([20, 41, 64]), st.floats(1, 50), st.sampled_from([7, 31, 127]))
def test_no_part_leaves_a_larger_error(seed: int, channels: int, raised: float, levels: int) -> None:
    x, weights = planted(seed, channels, raised)
    gram = x.T @ x
    plain, plain_step = rounded_rows(weights, gram, levels)
    codes, step, parts = split_rows(weights, gram, levels)
    before, after = (layer_error(a * b - weights, gram) for a, b in ((plain, plain_step), (codes, step)))
    assert after <= before
    if parts is not None:
        assert after < before
        assert channels < parts.sum() <= channels * 1.05
    up, down = compensation(weights - codes * step, gram)
    assert layer_error(codes * step + up @ down - weights, gram) <= after * (1 + 1e-5)
    largest = np.abs(x).max(0) / levels

    def wrong(steps: np.ndarray) -> np.ndarray:
        return np.square(activation_codes(x / steps, levels) * steps - x).sum(0)

    assert (wrong(clipped(largest, x, levels)) <= wrong(largest)).all()


def test_splitting_helps_four_bits_where_columns_stand_out() -> None:
    x, weights = planted(3, 128, 30.0)
    gram = x.T @ x
    plain, plain_step = rounded_rows(weights, gram, 7)
    codes, step, parts = split_rows(weights, gram, 7)
    assert parts is not None
    assert layer_error(codes * step - weights, gram) < 0.75 * layer_error(plain * plain_step - weights, gram)


@given(SEEDS, st.sampled_from([7, 31, 127]), st.floats(1, 50))
def test_codes_of_parts_are_as_narrow_as_any_and_add_up(seed: int, levels: int, raised: float) -> None:
    _, weights = planted(seed, 40, raised)
    parts = parts_of(weights)
    codes, _ = rounded_rows(weights, np.eye(40), levels, parts)
    each = shared_out(codes, parts)
    whole = np.zeros_like(codes)
    np.add.at(whole.T, np.repeat(np.arange(40), parts), each.T)
    np.testing.assert_array_equal(whole, codes)
    width = np.maximum(each.max(1), 0) - np.minimum(each.min(1), 0)
    assert (width <= 2 * levels + (levels < 127)).all()
    assert np.abs(each).max() <= 127


def test_channels_that_are_never_used_are_rounded_as_well() -> None:
    weights = np.random.default_rng(3).normal(size=(4, 40))
    codes, step = rounded_rows(weights, np.zeros((40, 40)), 7)
    assert np.abs(codes * step - weights).max() <= np.abs(weights).max()
    up, down = compensation(weights - codes * step, np.zeros((40, 40)))
    assert np.isfinite(up).all()
    assert np.isfinite(down).all()
