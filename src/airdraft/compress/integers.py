"""Layers in whole numbers: weights and activations in codes of 8, 6 or 4 bits, multiplied as integers.

What a norm gives has codes whose step is fixed in advance for each channel, and the fold moves these steps into norm
and matrices: the norm's output, rounded, is the code. `attn_output` and `ffn_down` have no norm before them; their
activations get a step for each token. Weights have a step for each row of the matrix. With 8 bits, codes lie around
zero, as kernels elsewhere take them, and weights get the nearest. Fewer bits run in this engine alone: there rows have
windows of codes and are rounded by GPTQ, and a token's codes end at a share of its largest activation, whatever the
way.

The ways differ in the steps of a norm's channels:

- `token`: none is fixed; each token has one for all channels, as behind `attn_output` and `ffn_down`.
- `tensor`: one for all, of the largest activation there is.
- `smoothquant` (arXiv 2211.10438): activations and weights share the burden, with α = 0.5.
- `outliertune` (2406.18832): each channel's own. With fewer bits than 8 channels are shifted to lie around zero, which
  theirs does where norms have a bias; here the engine subtracts it, and the fold adds it to what the matrices give.
- `mergequant` (2503.07654): shifted as `outliertune`, and else see `channels`.

And four neighbours, as far as the fold gives them:

- `osplus` (Outlier Suppression+, 2304.09145): channels are shifted, and large ones scaled down to a bound that is
  searched for; one step for all.
- `repquant` (2402.05628): each channel's own step, and a clipping of it that is searched for. Theirs takes quantiles.
- `crossquant` (2410.07505): a step for each token and channel, t^α · c^(1-α) of the largest of each, with α = 0.15.
- `qllm` (2310.08041): channels with large activations are split, so that one step for all is small. Theirs merges as
  many that are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from airdraft.compress.channels import (
    SYMMETRIC,
    Parts,
    activation_codes,
    clipped,
    clipped_share,
    compensation,
    even_parts,
    rounded_rows,
    shared_out,
    split_rows,
)  # fmt: skip
from airdraft.compress.fold import Matrix, Scaled, fold, smooth
from airdraft.compress.layers import MATRICES, Applied, At, Layer
from airdraft.compress.rounding import Reals
from airdraft.models.imports.matrices import Matrices

Way = Literal[
    "token", "tensor", "smoothquant", "outliertune", "mergequant", "osplus", "repquant", "crossquant", "qllm",
]  # fmt: skip
LEVELS = {"W8A8": 127, "W6A6": 31, "W4A4": 7}
"""The largest code of weights and activations; of weights the smallest is its negative, of activations one less."""
NORMS = ("attn_norm", "ffn_norm")
ALPHA, CROSS = 0.5, 0.15
"""SmoothQuant's, and CrossQuant's."""
BOUNDS = tuple(np.linspace(0.05, 1.0, 20))
"""Shares of the largest activation that Outlier Suppression+ tries as the bound of all."""
_LEAST = 1e-6
"""Of the largest activation: a channel that never exceeds this share gets the step of one that does."""
_ZERO = 128  # what stands for 0 in uint8
_TINY = float(np.finfo(np.float32).tiny)

Beside = dict[str, NDArray[Any]]
"""What a layer in whole numbers is beside its weights, by what it belongs to: see `Integers.parts`."""


@dataclass
class Integers:
    """What a model in whole numbers is beside its folded weights, which lie on codes."""

    levels: int
    fixed: bool = True
    """Whether the steps behind norms are fixed in advance, but for CrossQuant's; else each token has its own."""
    parts: Beside = field(default_factory=dict)
    """By names in the model, each where there is any: of a norm into how many `parts` each channel is split, its
    `shift` in steps, and its `column`, CrossQuant's scale of channels; of what matrices are applied to, the `share` of
    a token's largest activation at which codes end, and `down`, the first matrix of the compensation; of a matrix its
    rows' `step`, what the shift `adds`, and `up`, the second of the compensation."""


@dataclass(frozen=True)
class _Norm:
    """How channels behind a norm become codes."""

    step: Reals
    shift: Reals | None = None
    parts: Parts | None = None
    column: Reals | None = None


def channel_steps(way: Way, applied: Applied, weights: Sequence[Reals], levels: int) -> _Norm:
    """How the channels behind a norm become codes. weights: the matrices behind, [rows, channels]."""
    least = max(_LEAST * float(applied.largest.max()), _TINY)
    largest = np.maximum(applied.largest, least).astype(np.float32)
    middle = ((applied.most + applied.least) / 2).astype(np.float32)
    half = np.maximum((applied.most - applied.least) / 2, least).astype(np.float32)
    top = np.float32(levels)
    if way == "tensor":
        return _Norm(np.full_like(largest, largest.max() / top))
    if way == "smoothquant":
        scale = smooth(largest, weights, ALPHA)
        return _Norm(scale * (largest / scale).max() / top)
    if way == "osplus":
        return _Norm(_bounded(applied, np.concatenate(weights), half, middle, levels), middle)
    if way == "crossquant":
        column = largest ** np.float32(1 - CROSS)
        return _Norm(column, column=column)
    if way == "qllm":
        parts = even_parts(largest)
        return _Norm(parts.astype(np.float32) * (largest / parts).max() / top, parts=parts)
    shift = middle if way in ("outliertune", "mergequant") and levels < SYMMETRIC else None
    step = (largest if shift is None else half) / top
    if way == "outliertune":
        return _Norm(step, shift)
    return _Norm(clipped(step, applied.sample if shift is None else applied.sample - shift, levels), shift)


def _bounded(applied: Applied, weights: Reals, half: Reals, middle: Reals, levels: int) -> Reals:
    """Outlier Suppression+'s steps: those whose bound leaves the smallest error of activations, as matrices take it."""
    x = applied.sample - middle

    def steps(share: float) -> Reals:
        scale = np.maximum(half / (half.max() * np.float32(share)), 1)
        found: Reals = scale * (half / scale).max() / np.float32(levels)
        return found

    def error(share: float) -> float:
        step = steps(share)
        codes, rows = row_codes(weights * step, levels)
        made = activation_codes(x / step, levels) @ (codes * rows).T
        return float(np.square(made - x @ weights.T).sum())

    return steps(min(BOUNDS, key=error))


def folded(layer: Layer, seen: dict[str, Applied], way: Way, levels: int) -> tuple[Layer, Beside]:
    """The layer with the steps of its norms' channels moved into norms and matrices, which lie on codes.

    Returns: it, and what else it is, with names within the layer.
    """
    layer, beside = dict(layer), Beside()
    for kind, names in MATRICES.items():
        matrices = [Matrix(layer[f"{name}.weight"]) for name in names]
        applied, parts = seen[kind], None
        gram = applied.gram
        if kind in NORMS and way != "token":
            norm = channel_steps(way, applied, [each.weight for each in matrices], levels)
            made = fold(Scaled(layer[f"{kind}.weight"]), matrices, norm.step)
            layer[f"{kind}.weight"], matrices, parts = made.before.weight, made.matrices, norm.parts
            gram = _shifted(applied, norm.shift) / np.outer(norm.step, norm.step)
            if norm.column is not None:
                beside[f"{kind}.column"] = norm.column
            if norm.shift is not None:
                beside[f"{kind}.shift"] = norm.shift / norm.step
                for name, each in zip(names, matrices, strict=True):
                    beside[f"{name}.adds"] = each.weight @ beside[f"{kind}.shift"]
        elif levels < SYMMETRIC or way == "mergequant":
            beside[f"{kind}.share"] = np.array(clipped_share(applied.sample, levels), np.float32)
        rounded = _rounded(way, [each.weight for each in matrices], gram, levels, parts, kind in NORMS)
        of_kind = {f"{kind}.parts": rounded.parts, f"{kind}.down": rounded.down}
        beside |= {name: each for name, each in of_kind.items() if each is not None}
        at = 0
        for name, each in zip(names, matrices, strict=True):
            rows = slice(at, at := at + len(each.weight))
            layer[f"{name}.weight"] = (rounded.codes[rows] * rounded.step[rows]).astype(np.float32)
            beside[f"{name}.step"] = rounded.step[rows, 0].astype(np.float32)
            if rounded.up is not None:
                beside[f"{name}.up"] = rounded.up[rows]
    return layer, beside


@dataclass(frozen=True)
class _Rounded:
    """Matrices of one kind in codes, one below the other."""

    codes: Reals
    step: Reals
    parts: Parts | None = None
    up: Reals | None = None
    down: Reals | None = None


def _rounded(
    way: Way, matrices: Sequence[Reals], gram: Reals, levels: int, parts: Parts | None, behind_norm: bool
) -> _Rounded:
    weights = np.concatenate(matrices)
    if way == "mergequant":
        if behind_norm:
            codes, step, parts = split_rows(weights, gram, levels)
        else:
            codes, step = rounded_rows(weights, gram, levels)
        return _Rounded(codes, step, parts, *compensation(weights - codes * step, gram))
    if levels < SYMMETRIC or parts is not None:
        return _Rounded(*rounded_rows(weights, gram, levels, parts), parts)
    return _Rounded(*row_codes(weights, levels))


def _shifted(applied: Applied, shift: Reals | None) -> Reals:
    """X'X of the activations less `shift`."""
    if shift is None:
        return applied.gram
    cross = np.outer(applied.sum, shift)
    found: Reals = applied.gram - cross - cross.T + applied.positions * np.outer(shift, shift)
    return found


def row_codes(weights: Reals, levels: int) -> tuple[Reals, Reals]:
    """Codes of a matrix [rows, columns] with a step for each row, and the steps [rows, 1]."""
    step = np.abs(weights).max(1, keepdims=True) / levels
    step = np.where(step == 0, 1, step).astype(np.float32)
    return np.rint(weights / step), step


def in_numpy(layer: Layer, beside: Beside, levels: int, fixed: bool = True) -> tuple[Layer, At]:
    """The folded layer as `layers.Run` takes it: with the compensation, and the rounding of activations."""
    made = dict(layer)
    for kind, names in MATRICES.items():
        for name in names:
            if f"{kind}.down" in beside:
                made[f"{name}.weight"] = layer[f"{name}.weight"] + beside[f"{name}.up"] @ beside[f"{kind}.down"]
            if f"{name}.adds" in beside:
                made[f"{name}.bias"] = beside[f"{name}.adds"] + layer.get(f"{name}.bias", np.float32(0))

    def at(kind: str, x: Reals) -> Reals:
        column = beside.get(f"{kind}.column")
        if fixed and kind in NORMS and column is None:
            return activation_codes(x - beside.get(f"{kind}.shift", np.float32(0)), levels)
        largest = np.maximum(np.abs(x if column is None else x * column).max(-1, keepdims=True), _TINY)
        if column is not None:
            largest = largest ** np.float32(CROSS)
        step = largest * (beside.get(f"{kind}.share", np.float32(1)) / np.float32(levels))
        found: Reals = activation_codes(x / step, levels) * step
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
        beside, n, levels = self._integers.parts, self._nodes, self._integers.levels
        x, step = self._steps(x, f"{prefix}.{kind}", self._integers.fixed and kind in NORMS)
        x = n.op("Clip", n.op("Round", x), _float(n, -levels - 1), _float(n, levels))  # see `activation_codes`
        codes = n.op("Cast", n.op("Add", x, _float(n, _ZERO)), to=2)  # to uint8
        steps = self._stacked(stems, "step")
        found = np.concatenate([form.dense(raw) for stem in stems for form, raw in self._rows(stem)])
        found = np.rint(found / steps[:, None])
        parts = beside.get(f"{prefix}.{kind}.parts")
        if parts is not None:
            codes = n.op("Gather", codes, n.constant(np.repeat(np.arange(len(parts)), parts)), axis=-1)
            found = shared_out(found, parts)
        table = self._weights.add(name, np.uint8, found.shape[::-1], iter([(found + _ZERO).T.astype(np.uint8)]))
        zero = n.constant(np.uint8(_ZERO))
        y = n.op("Cast", n.op("MatMulInteger", codes, table, zero, zero), to=1)  # to float
        y = n.op("Mul", y, n.constant(steps))
        if f"{prefix}.{kind}.down" in beside:
            low = n.op("MatMul", x, n.constant(beside[f"{prefix}.{kind}.down"].T))
            y = n.op("Add", y, n.op("MatMul", low, n.constant(self._stacked(stems, "up").T)))
        if f"{stems[0]}.adds" in beside:
            y = n.op("Add", y, n.constant(self._stacked(stems, "adds")))
        return n.op("Mul", y, step) if step else y

    def _steps(self, x: str, kind: str, fixed: bool) -> tuple[str, str]:
        """Activations in steps, not yet rounded, and the steps of tokens, if they have any."""
        beside, n = self._integers.parts, self._nodes
        column = beside.get(f"{kind}.column")
        if fixed and column is None:
            shift = beside.get(f"{kind}.shift")
            return (x if shift is None else n.op("Sub", x, n.constant(shift.astype(np.float32)))), ""
        size = n.op("Abs", x if column is None else n.op("Mul", x, n.constant(column)))
        largest = n.op("Max", n.op("ReduceMax", size, n.ints(-1), keepdims=1), _float(n, _TINY))
        if column is not None:
            largest = n.op("Pow", largest, _float(n, CROSS))
        share = beside.get(f"{kind}.share", np.float32(1)) / np.float32(self._integers.levels)
        step = n.op("Mul", largest, _float(n, float(share)))
        return n.op("Div", x, step), step

    def _stacked(self, stems: Sequence[str], what: str) -> Reals:
        """What the rows of matrices have beside their weights, in the order of the graph's rows."""
        found = []
        for stem in stems:
            rows: Reals = self._integers.parts[f"{stem}.{what}"]
            order = self._order(stem, len(rows))
            found.append(rows if order is None else rows[order])
        return np.concatenate(found).astype(np.float32)


def _float(nodes: Any, value: float) -> str:
    name: str = nodes.constant(np.float32(value))
    return name
