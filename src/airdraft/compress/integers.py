"""Layers in whole numbers: weights and activations in codes of 8, 6 or 4 bits, multiplied as integers.

What a norm gives has codes whose step is fixed in advance for each channel, and the fold moves these steps into norm
and matrices: the norm's output, rounded, is the code. `attn_output` and `ffn_down` have no norm before them; their
activations get a step for each token. Weights have a step for each row of the matrix.

The ways differ in the steps of a norm's channels:

- `tensor`: one for all, of the largest activation there is.
- `smoothquant` (arXiv 2211.10438): activations and weights share the burden, with α = 0.5.
- `outliertune` (2406.18832): each channel's own. Without its shift of channels, which needs norms with a bias.
- `mergequant` (2503.07654): the same, and the channels with the largest steps are split. Reconstructed from its
  abstract, without its clipping and its low-rank compensation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from airdraft.compress.fold import Matrix, Scaled, fold, smooth
from airdraft.compress.layers import MATRICES, Applied, At, Layer
from airdraft.compress.rounding import Reals
from airdraft.models.imports.matrices import Matrices

Way = Literal["tensor", "smoothquant", "outliertune", "mergequant"]
LEVELS = {"W8A8": 127, "W6A6": 31, "W4A4": 7}
"""The largest code of weights and activations; the smallest is its negative."""
NORMS = ("attn_norm", "ffn_norm")
ALPHA = 0.5
"""SmoothQuant's."""
GROWTH = 0.05
"""Channels that may be added by splitting, as a share of all."""
_LEAST = 1e-6
"""Of the largest activation: a channel that never exceeds this share gets the step of one that does."""
_ZERO = 128  # what stands for 0 in uint8
_TINY = float(np.finfo(np.float32).tiny)


@dataclass
class Integers:
    """What a model in whole numbers is beside its folded weights."""

    levels: int
    parts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Into how many each channel behind a norm is split, by the norm's name; only where any is."""


def channel_steps(way: Way, largest: Reals, weights: Sequence[Reals], levels: int) -> Reals:
    """The step of each channel's codes behind a norm, [channels].

    largest: absolute value of each channel in the calibration text. weights: the matrices behind, [rows, channels].
    """
    least = max(_LEAST * float(largest.max()), _TINY)
    largest = np.maximum(largest, least).astype(np.float32)
    if way == "tensor":
        return np.full_like(largest, largest.max() / levels)
    if way == "smoothquant":
        scale = smooth(largest, weights, ALPHA)
        found: Reals = scale * (largest / scale).max() / levels
        return found
    return largest / np.float32(levels)


def parts_of(step: Reals) -> NDArray[np.int64]:
    """Into how many parts each channel is split, so that the largest step left is as small as `GROWTH` allows."""
    room = int(GROWTH * len(step))
    every = (np.ceil(step / most).astype(np.int64) for most in np.sort(step))
    return next(parts for parts in every if (parts - 1).sum() <= room)


def folded(layer: Layer, seen: dict[str, Applied], way: Way, levels: int) -> tuple[Layer, dict[str, NDArray[np.int64]]]:
    """The layer with the steps of its norms' channels moved into norms and matrices, and how channels are split."""
    layer, split = dict(layer), {}
    for norm in NORMS:
        names = MATRICES[norm]
        matrices = [Matrix(layer[f"{name}.weight"]) for name in names]
        step = channel_steps(way, seen[norm].largest, [each.weight for each in matrices], levels)
        made = fold(Scaled(layer[f"{norm}.weight"]), matrices, step)
        layer[f"{norm}.weight"] = made.before.weight
        layer |= {f"{name}.weight": each.weight for name, each in zip(names, made.matrices, strict=True)}
        if way == "mergequant":
            split[norm] = parts_of(step)
    return layer, split


def row_codes(weights: Reals, levels: int) -> tuple[Reals, Reals]:
    """Codes of a matrix [rows, columns] with a step for each row, and the steps [rows, 1]."""
    step = np.abs(weights).max(1, keepdims=True) / levels
    step = np.where(step == 0, 1, step).astype(np.float32)
    return np.rint(weights / step), step


def in_numpy(layer: Layer, split: dict[str, NDArray[np.int64]], levels: int) -> tuple[Layer, At]:
    """The folded layer as `layers.Run` takes it: weights that lie on codes, and the rounding of activations."""
    made = dict(layer)
    for kind, names in MATRICES.items():
        parts = split.get(kind)
        for name in names:
            weights = layer[f"{name}.weight"] if parts is None else layer[f"{name}.weight"] / parts
            codes, step = row_codes(weights, levels)
            made[f"{name}.weight"] = codes * step if parts is None else codes * step * parts.astype(np.float32)

    def at(kind: str, x: Reals) -> Reals:
        if kind in NORMS:
            return np.clip(np.rint(x), -levels, levels)
        step = np.maximum(np.abs(x).max(-1, keepdims=True), _TINY) / np.float32(levels)
        found: Reals = np.rint(x / step) * step
        return found

    return made, at


class IntegerMatrices(Matrices):
    """Writes the matrices of layers as products of integers; those of a file whose weights are folded."""

    def __init__(self, integers: Integers, *given: Any) -> None:
        super().__init__(*given)
        self._integers = integers

    def _dense(self, x: str, name: str, stems: Sequence[str]) -> str:
        if not name.startswith("blk."):
            return super()._dense(x, name, stems)
        prefix, _, matrix = stems[0].rpartition(".")
        kind = next(kind for kind, names in MATRICES.items() if matrix in names)
        weights = np.concatenate([form.dense(raw) for stem in stems for form, raw in self._rows(stem)])
        n, levels = self._nodes, self._integers.levels
        step = ""
        if kind not in NORMS:
            largest = n.op("ReduceMax", n.op("Abs", x), n.ints(-1), keepdims=1)
            step = n.op("Div", n.op("Max", largest, _float(n, _TINY)), _float(n, levels))
            x = n.op("Div", x, step)
        x = n.op("Clip", n.op("Round", x), _float(n, -levels), _float(n, levels))
        codes = n.op("Cast", n.op("Add", x, _float(n, _ZERO)), to=2)  # to uint8
        parts = self._integers.parts.get(f"{prefix}.{kind}")
        if parts is not None:
            take = np.repeat(np.arange(len(parts)), parts)
            codes = n.op("Gather", codes, n.constant(take), axis=-1)
            weights = (weights / parts)[:, take]
        found, steps = row_codes(weights, levels)
        table = self._weights.add(name, np.uint8, found.shape[::-1], iter([(found + _ZERO).T.astype(np.uint8)]))
        zero = n.constant(np.uint8(_ZERO))
        y = n.op("Cast", n.op("MatMulInteger", codes, table, zero, zero), to=1)  # to float
        y = n.op("Mul", y, n.constant(steps[:, 0].astype(np.float32)))
        return n.op("Mul", y, step) if step else y


def _float(nodes: Any, value: float) -> str:
    name: str = nodes.constant(np.float32(value))
    return name
