"""Rows of logits as chances, in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from airdraft.models.base import FloatArray


def probs(rows: FloatArray, temperature: float = 1.0) -> NDArray[np.float64]:
    """softmax(rows / temperature) along the last axis."""
    wide = np.exp((rows.astype(np.float64) - rows.max(-1, keepdims=True)) / temperature)
    found: NDArray[np.float64] = wide / wide.sum(-1, keepdims=True)
    return found


def log_probs(rows: FloatArray) -> NDArray[np.float64]:
    """log softmax(rows) along the last axis."""
    wide = rows.astype(np.float64) - rows.max(-1, keepdims=True)
    found: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return found
