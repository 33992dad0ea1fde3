"""Moving scales, shifting and splitting channels changes nothing that is computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.compress.fold import Folded, Matrix, Scaled, fold, smooth, split


def output(x: np.ndarray, folded: Folded) -> np.ndarray:
    """What the matrices compute of positions [n, channels] before the norm's weight and bias."""
    bias = folded.before.bias
    h = x[:, folded.source] * folded.before.weight + (0 if bias is None else bias)
    return np.concatenate([h @ each.weight.T + (0 if each.bias is None else each.bias) for each in folded.matrices], 1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans(), st.floats(0, 1), st.floats(0.05, 2))
def test_the_same_is_computed(seed: int, channels: int, biased: bool, alpha: float, most: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(7, channels)) * np.exp(rng.normal(0, 2, channels))
    before = Scaled(rng.normal(size=channels), rng.normal(size=channels) if biased else None)
    matrices = [Matrix(rng.normal(size=(5, channels))), Matrix(rng.normal(size=(3, channels)), rng.normal(size=3))]
    plain = output(x, Folded(before, matrices, np.arange(channels)))
    scale = smooth(np.abs(x * before.weight).max(0), [each.weight for each in matrices], alpha)
    folded = fold(before, matrices, scale, rng.normal(size=channels) if biased else None)
    bar = 1e-10 * max(1.0, np.abs(plain).max())
    np.testing.assert_allclose(output(x, folded), plain, rtol=0, atol=bar)
    parts = split(folded, scale, most * scale.max())
    np.testing.assert_allclose(output(x, parts), plain, rtol=0, atol=bar)
    assert all((np.abs(each.weight) <= np.abs(whole.weight[:, parts.source]) + 1e-12).all()
               for each, whole in zip(parts.matrices, folded.matrices, strict=True))  # fmt: skip


def test_rows_of_a_matrix_take_the_scales_as_a_norm_does() -> None:
    rng = np.random.default_rng(0)
    x, rows, matrix = rng.normal(size=(4, 6)), rng.normal(size=(8, 6)), Matrix(rng.normal(size=(3, 8)))
    folded = fold(Scaled(rows), [matrix], np.exp(rng.normal(size=8)))
    np.testing.assert_allclose(x @ folded.before.weight.T @ folded.matrices[0].weight.T, x @ rows.T @ matrix.weight.T)


@pytest.mark.parametrize("scale", [[1.0, 0.0], [1.0, -1.0], [1.0, np.nan], [1.0, np.inf]])
def test_a_scale_that_none_can_take_back_is_refused(scale: list[float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        fold(Scaled(np.ones(2)), [Matrix(np.ones((1, 2)))], np.array(scale))


def test_a_shift_needs_a_bias() -> None:
    with pytest.raises(ValueError, match="bias"):
        fold(Scaled(np.ones(2)), [Matrix(np.ones((1, 2)))], np.ones(2), np.ones(2))


def test_splitting_outlier_channels_lowers_the_error_of_four_bits() -> None:
    """Few channels with large activations, static codes of four bits: what MergeQuant splits channels for."""
    rng = np.random.default_rng(3)
    channels = 256
    x = rng.normal(size=(512, channels))
    x[:, :4] *= 40
    matrix = Matrix(rng.normal(size=(128, channels)))
    scale = np.abs(x).max(0) / 7
    folded = fold(Scaled(np.ones(channels)), [matrix], scale)
    plain = x @ matrix.weight.T

    def error(each: Folded) -> float:
        codes = np.clip(np.rint(x[:, each.source] * each.before.weight), -7, 7)
        weight = each.matrices[0].weight
        step = np.abs(weight).max(1, keepdims=True) / 7
        return float(np.square(codes @ (np.rint(weight / step) * step).T - plain).sum())

    assert error(split(folded, scale, 2 * float(np.median(scale)))) < 0.6 * error(folded)
