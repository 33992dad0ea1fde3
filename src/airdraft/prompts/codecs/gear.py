"""Few bits a number and what they miss, after GEAR (arXiv 2403.05527): outliers by themselves, and a low rank.

The numbers farthest from the mean of their group are taken out first, which narrows the steps of all others, and
written in half precision. Of what the levels of the others miss, the part of rank 2 that is largest is written as two
thin matrices, over the heads of a layer together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.models.base import FloatArray
from airdraft.prompts.codecs.base import Field, Lossy, of_rows, places, rows_of
from airdraft.prompts.codecs.kivi import Kivi

OUTLIERS = 0.02
"""Share of the numbers."""
RANK = 2
_STEPS = 3


@dataclass(frozen=True)
class Gear(Lossy):
    """Levels of `bits` bits, see `Kivi`, with outliers and a low rank."""

    bits: int

    @property
    def name(self) -> str:
        """See `Codec.name`."""
        return f"gear{self.bits}"

    @property
    def _levels(self) -> Kivi:
        return Kivi(self.bits)

    def fields(self, shape: tuple[int, int, int], keys: bool) -> Sequence[Field]:
        """See `Lossy.fields`."""
        heads, positions, width = shape
        count = math.ceil(OUTLIERS * math.prod(shape))
        rank = min(RANK, positions)
        return [
            *self._levels.fields(shape, keys),
            (places(math.prod(shape)), (count,)), ("<f2", (count,)),
            ("<f2", (positions, rank)), ("<f2", (rank, heads * width)),
        ]  # fmt: skip

    def encoded(self, x: FloatArray, keys: bool) -> Sequence[NDArray[Any]]:
        """See `Lossy.encoded`."""
        count, axis = math.ceil(OUTLIERS * x.size), 1 if keys else 2
        mean = np.broadcast_to(x.mean(axis, keepdims=True), x.shape)
        apart = np.argpartition(-np.abs(x - mean), count - 1, axis=None)[:count]
        plain = x.copy()
        plain.flat[apart] = mean.flat[apart]
        levels = self._levels.encoded(plain, keys)
        missed = plain - self._levels.decoded(levels, x.shape, keys)
        missed.flat[apart] = 0
        left = rows_of(missed)
        basis = _largest(left)
        return [*levels, apart, x.flat[apart], basis, basis.T @ left]

    def decoded(self, arrays: Sequence[NDArray[Any]], shape: tuple[int, int, int], keys: bool) -> FloatArray:
        """See `Lossy.decoded`."""
        *levels, apart, outliers, basis, right = arrays
        if apart.max(initial=0) >= math.prod(shape):
            raise ValueError("it has an outlier outside the tensor")
        left = basis.astype(np.float32) @ right.astype(np.float32)
        found: FloatArray = self._levels.decoded(levels, shape, keys) + of_rows(left, shape)
        found.flat[apart] = outliers
        return found


def _largest(matrix: FloatArray) -> FloatArray:
    """Orthonormal columns [n, rank] onto which the projection of `matrix` [n, m] is nearly as large as it can be.

    By the power method, as in GEAR.
    """
    n = len(matrix)
    found: FloatArray = np.random.default_rng(0).normal(size=(n, min(RANK, n))).astype(np.float32)
    for _ in range(_STEPS):
        found = np.linalg.qr(matrix @ (matrix.T @ found))[0]
    return found
