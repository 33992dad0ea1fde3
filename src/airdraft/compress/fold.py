"""The fold: scales of a norm's channels moved into the matrices behind it, without changing what they compute.

A norm multiplies each channel by a weight, and the matrices behind it multiply that channel by a column. So γ' = γ/s
and W' = W·diag(s) compute the same for any scales s > 0. Four published methods are choices of s, and of two steps
beside it:

- SmoothQuant (arXiv 2211.10438): s = a^α / w^(1-α), of the largest activation a and weight w of each channel.
- AWQ (2306.00978): s = m^α of the mean activation m, with the α that leaves the smallest error.
- OutlierTune (2406.18832): α = 1, so that every channel's codes have the same step; channels are shifted to lie around
  zero where a norm has a bias.
- MergeQuant (2503.07654): the same, and channels of a large scale are split. Reconstructed from its abstract: its
  equations could not be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating]


@dataclass(frozen=True)
class Scaled:
    """What stands before matrices and multiplies each channel: a norm's weight, or the rows of another matrix."""

    weight: Reals
    """[channels], or [channels, ...]: one row for each channel."""
    bias: Reals | None = None
    """[channels]."""


@dataclass(frozen=True)
class Matrix:
    """A matrix that is applied to the channels."""

    weight: Reals
    """[rows, channels]."""
    bias: Reals | None = None
    """[rows]."""


@dataclass(frozen=True)
class Folded:
    """The same computation, cut otherwise between what stands before and the matrices."""

    before: Scaled
    matrices: list[Matrix]
    source: NDArray[np.int64]
    """[channels]: the former channel of each; split ones stand there more than once."""


def smooth(activations: Reals, weights: Sequence[Reals], alpha: float) -> Reals:
    """SmoothQuant's scales of channels, [channels]: α = 0 evens out the weights, α = 1 the activations.

    activations: the largest absolute value of each channel. weights: the matrices, [rows, channels] each.
    """
    largest = np.max([np.abs(weight).max(0) for weight in weights], 0)
    tiny = np.finfo(largest.dtype).tiny
    scale = np.maximum(activations, tiny) ** alpha / np.maximum(largest, tiny) ** (1 - alpha)
    # A channel that is always zero has no scale of its own.
    found: Reals = np.where((activations > 0) & (largest > 0), scale, 1.0)
    return found


def fold(before: Scaled, matrices: Sequence[Matrix], scale: Reals, shift: Reals | None = None) -> Folded:
    """Move `scale` [channels] from what stands before into the matrices, after `shift` [channels].

    With a shift z, (x - z) goes on and the matrices' biases grow by W·z. Only a norm with a bias can take it.
    Raises: `ValueError` for a scale that is not positive and finite, or a shift without a bias.
    """
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("scales of channels must be positive and finite")
    bias = before.bias
    if shift is not None:
        if bias is None:
            raise ValueError("channels can be shifted only where the norm before them has a bias")
        bias = bias - shift
        matrices = [
            replace(each, bias=each.weight @ shift + (0 if each.bias is None else each.bias)) for each in matrices
        ]
    rows = scale.reshape(-1, *(1 for _ in before.weight.shape[1:]))
    return Folded(
        Scaled(before.weight / rows, None if bias is None else bias / scale),
        [replace(each, weight=each.weight * scale) for each in matrices],
        np.arange(len(scale)),
    )


def split(folded: Folded, scale: Reals, most: float) -> Folded:
    """Cut every channel whose `scale` [channels] is above `most` into as many equal parts as bring it below.

    The parts carry the same code; each column of the matrices is that channel's, divided by their number. So weights
    that are large because their channel's activations are stay within what few bits tell apart. The number of channels
    grows by the parts. Raises: `ValueError` unless `most` is positive.
    """
    if not most > 0:
        raise ValueError("the largest scale of a channel must be positive")
    parts = np.maximum(1, np.ceil(scale / most)).astype(np.int64)
    take = np.repeat(np.arange(len(scale)), parts)
    before = folded.before
    return Folded(
        Scaled(before.weight[take], None if before.bias is None else before.bias[take]),
        [replace(each, weight=each.weight[:, take] / parts[take]) for each in folded.matrices],
        folded.source[take],
    )
