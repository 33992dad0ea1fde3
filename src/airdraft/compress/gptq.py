"""GPTQ: weights rounded column after column, each error made up for by the columns that are still to come.

Frantar, Ashkboos, Hoefler, Alistarh 2022 (arXiv 2210.17323), algorithm 1. The loss of a matrix is the squared error of
what it computes on the calibration text, so a column's error is spread by the inverse of X'X.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.compress.rounding import Reals, Width, codes, steps, values

DAMPING = 0.01
"""Share of the mean diagonal of X'X that is added to it, as in the paper."""
_TOGETHER = 128
"""Columns whose errors reach the later ones in one product, as in the paper."""


def gptq(weights: Reals, gram: Reals, width: Width) -> tuple[NDArray[np.int8], Reals]:
    """Round the matrix `weights` [rows, columns]. Returns: its codes, and steps [rows, blocks].

    gram: X'X of the activations that the matrix was applied to, [columns, columns].
    """
    found = np.zeros((len(weights), weights.shape[1] // width.block))

    def choose(at: int, left: Reals) -> tuple[NDArray[Any], Reals]:
        block = at // width.block
        if at % width.together == 0:
            of = steps(left[:, : width.together], width)
            found[:, block : block + of.shape[1]] = of
        made = codes(left[:, 0], found[:, block], width)
        return made, values(made, found[:, block], width)

    return column_by_column(weights, gram, choose).astype(np.int8), found.astype(weights.dtype)


def column_by_column(weights: Reals, gram: Reals, choose: Callable[[int, Reals], tuple[NDArray[Any], Reals]]) -> Reals:
    """Round the matrix `weights` [rows, columns] with any codes. Returns: them.

    choose: given a column's number and what is left of this and the later columns, gives its codes and what they stand
    for, [rows].
    """
    left = weights.astype(np.float64)
    inverse = _inverse(gram.astype(np.float64))
    columns = left.shape[1]
    made = np.zeros(left.shape, np.float32)
    for first in range(0, columns, _TOGETHER):
        stop = min(first + _TOGETHER, columns)
        errors = np.zeros((len(left), stop - first))
        for at in range(first, stop):
            made[:, at], value = choose(at, left[:, at:])
            errors[:, at - first] = (left[:, at] - value) / inverse[at, at]
            left[:, at:stop] -= np.outer(errors[:, at - first], inverse[at, at:stop])
        left[:, stop:] -= errors @ inverse[first:stop, stop:]
    return made


def _inverse(gram: Reals) -> Reals:
    """The upper Cholesky factor of the inverse of X'X, damped. Channels that are always zero stand alone."""
    at = np.arange(len(gram))
    damped = gram.copy()
    damped[at, at] += np.where(gram[at, at] == 0, 1.0, 0.0) + DAMPING * gram[at, at].mean()
    found: Reals = np.linalg.cholesky(np.linalg.inv(damped)).T
    return found
