"""Heads: linear regressions from what is known of channels to what is asked, fitted to few labelled ones.

How strongly each is held back is chosen from its own labels alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Values = NDArray[np.complexfloating]

STRENGTHS = 10.0 ** np.arange(-4, 6)
"""Ridges to choose from, in mean powers of a feature (and of a label each)."""
NEVER = 1e-9
"""Added to deviations of features, so that those which never change are left out."""


@dataclass(frozen=True)
class Head:
    """A fitted regression of numbers."""

    centre: Real  # [features]
    weights: Real  # [features, answers]
    answer: Real  # [answers], the mean

    def __call__(self, features: Real) -> Real:
        """Answer for each row: [rows, answers]."""
        found: Real = (features - self.centre) @ self.weights + self.answer
        return found


def fit(features: Real, answers: Real) -> Head:
    """Fit by ridge regression, [rows, features] to [rows, answers], with the ridge of the least leave-one-out error."""
    centre, answer = features.mean(0), answers.mean(0)
    scale = 1 / (features.std(0) + NEVER)
    left, sizes, right = np.linalg.svd((features - centre) * scale, full_matrices=False)
    towards = left.T @ (answers - answer)
    best = np.inf, np.zeros(len(sizes))
    for strength in STRENGTHS * len(features):
        kept = sizes**2 / (sizes**2 + strength)
        wrong = answers - answer - left @ (kept[:, None] * towards)
        own = 1 / len(features) + left**2 @ kept
        error = float(np.mean((wrong / np.maximum(1 - own, NEVER)[:, None]) ** 2))
        if error < best[0]:
            best = error, sizes / (sizes**2 + strength)
    return Head(centre, scale[:, None] * (right.T @ (best[1][:, None] * towards)), answer)


def mapped(inputs: Values, wanted: Values, inputs_then: Values, start: Values | None = None) -> Values:
    """Fit a complex linear map, [rows, inputs] to [rows, values], and apply it to other rows.

    It is held back towards 0, or with `start` [inputs, values] towards that. Four fifths of the rows are fitted, and
    the last fifth chooses how strongly it is held back.
    """
    start = np.zeros((inputs.shape[1], wanted.shape[1]), np.complex64) if start is None else start
    first = max(1, len(inputs) * 4 // 5)
    seen, left = inputs[:first], wanted[:first] - inputs[:first] @ start
    if first < inputs.shape[1]:  # as many unknowns as rows
        values, vectors = np.linalg.eigh(seen @ seen.conj().T)
        basis, towards = seen.conj().T @ vectors, vectors.conj().T @ left
    else:
        values, vectors = np.linalg.eigh(seen.conj().T @ seen)
        basis, towards = vectors, vectors.conj().T @ (seen.conj().T @ left)
    power = float(np.mean(np.abs(seen) ** 2))
    rest, rest_wanted = inputs[first:] @ basis, wanted[first:] - inputs[first:] @ start
    best = float(np.sum(np.abs(rest_wanted) ** 2)), np.zeros(len(values))  # as if held back for ever
    for strength in STRENGTHS * power * first:
        share = 1 / (np.maximum(values, 0.0) + strength)
        error = float(np.sum(np.abs(rest @ (share[:, None] * towards) - rest_wanted) ** 2))
        if error < best[0]:
            best = error, share
    found: Values = inputs_then @ start + (inputs_then @ basis) @ (best[1][:, None] * towards)
    return found
