"""The ways to choose a layer's codes: to the nearest, by AWQ, or by GPTQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from airdraft.compress.fold import Matrix, Scaled, fold
from airdraft.compress.gptq import gptq
from airdraft.compress.layers import MATRICES, Applied, Layer
from airdraft.compress.rounding import Reals, Width, codes, rounded, spread, steps, values

Method = Literal["rtn", "awq", "gptq"]
ALPHAS = tuple(np.linspace(0, 1, 21))
"""Exponents that AWQ tries, as in its code."""
_BEFORE = {"attn_norm": "attn_norm", "ffn_norm": "ffn_norm", "attn_output": "attn_v", "ffn_down": "ffn_up"}
"""What stands before the matrices of each kind, and can take their channels' scales."""


@dataclass(frozen=True)
class Coded:
    """A matrix in codes."""

    codes: NDArray[np.int8]
    step: Reals
    """[rows, blocks]."""
    width: Width

    def weights(self) -> Reals:
        """What it stands for."""
        return values(self.codes, spread(self.step, self.width), self.width).astype(np.float32)


def nearest(layer: Layer, seen: Mapping[str, Applied], width: Width) -> tuple[Layer, dict[str, Coded]]:
    """Round every weight to the nearest code (RTN)."""
    return layer, {name: to_nearest(layer[f"{name}.weight"], width) for names in MATRICES.values() for name in names}


def to_nearest(weights: Reals, width: Width) -> Coded:
    """A matrix, rounded to the nearest."""
    step = steps(weights, width)
    return Coded(codes(weights, spread(step, width), width), step, width)


def by_activations(layer: Layer, seen: Mapping[str, Applied], width: Width) -> tuple[Layer, dict[str, Coded]]:
    """AWQ (Lin et al. 2023, arXiv 2306.00978, section 3.2): channels that matter get finer codes.

    A channel's scale is a power of its mean activation, and the power is the one with the smallest squared error of
    what the matrices compute. Theirs looks at the error of a whole block, this at each kind of matrix.
    """
    layer = dict(layer)
    for kind, names in MATRICES.items():
        before, applied = _BEFORE[kind], seen[kind]
        rows = layer[f"{before}.weight"]
        if len(rows) != len(applied.total):  # heads share values: no row of theirs belongs to one channel
            continue
        weights = [layer[f"{name}.weight"] for name in names]
        scale = min(_scales(applied), key=lambda each: sum(_error(w, each, applied.gram, width) for w in weights))
        folded = fold(Scaled(rows, layer.get(f"{before}.bias")), [Matrix(each) for each in weights], scale)
        layer[f"{before}.weight"] = folded.before.weight
        if folded.before.bias is not None:
            layer[f"{before}.bias"] = folded.before.bias
        layer |= {f"{name}.weight": each.weight for name, each in zip(names, folded.matrices, strict=True)}
    return nearest(layer, seen, width)


def _scales(applied: Applied) -> list[Reals]:
    mean = np.maximum(applied.total / max(1, applied.positions), 1e-8).astype(np.float32)
    found = []
    for alpha in ALPHAS:
        scale = mean**alpha
        found.append(scale / np.sqrt(scale.max() * scale.min()))
    return found


def _error(weights: Reals, scale: Reals, gram: Reals, width: Width) -> float:
    """The squared error of what a matrix computes after rounding with these scales of its channels."""
    wrong = rounded(weights * scale, width) / scale - weights
    return float(((wrong @ gram) * wrong).sum())


def by_errors(layer: Layer, seen: Mapping[str, Applied], width: Width) -> tuple[Layer, dict[str, Coded]]:
    """GPTQ, see `gptq`."""
    made = {}
    for kind, names in MATRICES.items():
        for name in names:
            made[name] = Coded(*gptq(layer[f"{name}.weight"], seen[kind].gram, width), width)
    return layer, made


METHODS: dict[Method, Callable[[Layer, Mapping[str, Applied], Width], tuple[Layer, dict[str, Coded]]]] = {
    "rtn": nearest, "awq": by_activations, "gptq": by_errors,
}  # fmt: skip
"""Each takes a layer and what its matrices are applied to. It returns the layer as it was cut anew, and its codes."""
