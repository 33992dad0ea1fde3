"""Attention over keys and values that lie in several places: each place's part by itself, and all parts merged.

The reference in NumPy. Softmax over all keys is a mean of values, weighted by exp(score); so the mean of means, each
weighted by the sum of its exponentials, is the same number (online softmax, Milakov and Gimelshein 2018; the parts of
flash-decoding). A part needs to tell its output and the logarithm of that sum, and it does not matter who computed
it, in what order parts come, and how keys are cut into them. EdgePrompt (arXiv 2504.11729) joins parts so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


class Attended(NamedTuple):
    """What queries have seen of some keys."""

    output: Floats
    """[..., queries, head_dim]; 0 where they have seen nothing."""
    log_sum: Floats
    """[..., queries]: of exp(score) over these keys; -inf where they have seen nothing."""


def attend(queries: Floats, keys: Floats, values: Floats, seen: NDArray[np.bool_] | None = None) -> Attended:
    """Attention over some keys.

    Args:
        queries: [..., n, head_dim], scaled.
        keys, values: [..., any number, head_dim].
        seen: [..., n, keys]; None: every query sees every key.
    """
    scores = queries @ np.swapaxes(keys, -1, -2)
    if seen is not None:
        scores = np.where(seen, scores, -np.inf)
    top = _finite(scores.max(-1, initial=-np.inf, keepdims=True))
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    output = weights @ values / np.where(total > 0, total, 1)
    with np.errstate(divide="ignore"):
        return Attended(output, (np.log(total) + top)[..., 0])


def merge(parts: Sequence[Attended]) -> Attended:
    """What the same queries have seen of all keys of several parts, of which no two hold the same key.

    Raises: `ValueError` if there is no part.
    """
    if not parts:
        raise ValueError("no part tells how many queries there are; give an empty one")
    logs = np.stack([part.log_sum for part in parts])
    top = _finite(logs.max(0))
    weights = np.exp(logs - top)
    total = weights.sum(0)
    shares = weights / np.where(total > 0, total, 1)
    output = sum(share[..., None] * part.output for share, part in zip(shares, parts, strict=True))
    with np.errstate(divide="ignore"):
        return Attended(np.asarray(output), np.log(total) + top)


def _finite(top: Floats) -> Floats:
    """The greatest score, or 0 where there is none."""
    return np.where(np.isneginf(top), 0, top)
