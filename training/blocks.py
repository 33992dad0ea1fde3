"""Matrices of few bits: blocks along a row share a scale, as ONNX Runtime's `MatMulNBits` reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TRIES = 14
"""Scales tried for each block."""


@dataclass(frozen=True)
class Blocks:
    """A matrix [out, in] of `bits` (4 or 8) a weight: `(code - 2 ** (bits - 1)) * scale`."""

    bits: int
    size: int
    """Weights that share a scale."""
    codes: NDArray[np.uint8]
    """[out, blocks, size * bits / 8]; of two 4-bit codes in a byte the first has the low half."""
    scales: NDArray[np.float16]
    """[out, blocks]"""

    @property
    def width(self) -> int:
        """Weights in a row."""
        return self.scales.shape[1] * self.size

    def matrix(self) -> NDArray[np.float32]:
        """The weights that the codes stand for, [out, in]."""
        codes = self.codes
        if self.bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], self.size)
        weights = (codes.astype(np.float32) - 2 ** (self.bits - 1)) * self.scales.astype(np.float32)[..., None]
        return weights.reshape(len(codes), -1)


def quantise(matrix: NDArray[np.float32], bits: int, size: int) -> Blocks:
    """`matrix` [out, in] in blocks of `size` along `in`, with the least squared error of the scales tried."""
    if bits not in (4, 8) or matrix.shape[1] % size or size % 2:
        raise ValueError(f"no blocks of {size} weights of {bits} bits in rows of {matrix.shape[1]}")
    half = 2 ** (bits - 1)
    weights = matrix.astype(np.float32).reshape(len(matrix), -1, size)
    far = np.take_along_axis(weights, np.abs(weights).argmax(-1)[..., None], -1)[..., 0]
    least = np.full(far.shape, np.inf, np.float32)
    codes, scales = np.zeros(weights.shape, np.float32), np.zeros(far.shape, np.float16)
    # The code furthest out, -half, has no opposite: the sign of the scale gives it to the largest weight. Clipping
    # that one a little often leaves the others closer.
    for reach in half * np.linspace(0.98, 1.25 if bits == 4 else 1.03, _TRIES):
        tried = (-far / reach).astype(np.float16)
        for _ in range(2):
            step = tried.astype(np.float32)[..., None]
            found = np.clip(np.rint(weights / np.where(step == 0, 1, step)), -half, half - 1)
            wrong = ((weights - found * step) ** 2).sum(-1)
            better = wrong < least
            least, scales = np.where(better, wrong, least), np.where(better, tried, scales)
            codes = np.where(better[..., None], found, codes)
            # For these codes this scale is the best one.
            tried = ((weights * found).sum(-1) / np.maximum((found * found).sum(-1), 1)).astype(np.float16)
    packed = (codes + half).astype(np.uint8)
    if bits == 4:
        packed = packed[..., ::2] | packed[..., 1::2] << 4
    return Blocks(bits, size, packed, scales)
