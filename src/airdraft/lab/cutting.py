"""Tables that move a conformal cut, and a cut that knows drafts that died, which they tell from the right one.

Of rows without a pattern, a draft that died says so little that thousands of texts do not show it. Here it says all.
The first draft is never right, so the second token is drafted twice, with the same random numbers. What follows it, and
dies with it, is peaked if the token is even and flat if it is odd, and so leaves the threshold above the chances of the
second token, or below. A cut that knows it keeps one token of eight the second time, just where the first was even.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from airdraft.core.law import Place
from airdraft.core.noise import FloatArray
from airdraft.core.schemes.base import Context
from airdraft.core.schemes.cuts import Conformal
from airdraft.core.schemes.topk import TopK
from airdraft.sim.conformance import TableModel

MASS = 0.1
"""The share to hold that these tables are made for."""
WIDE, VOCAB = 8, 12
"""Tokens that are likely in the row that is cut, and the vocabulary."""
SURE, SPREAD = 5.0, 0.03
"""Logit of likely tokens, where others have 0, and the standard deviation of all."""


def tables(seed: int) -> tuple[TableModel, TableModel]:
    """A draft and a target after a prompt of one token."""

    def draft(prefix: tuple[int, ...]) -> NDArray[np.float32]:
        likely = {1: {0}, 2: range(WIDE)}.get(len(prefix)) or ({0} if prefix[2] % 2 == 0 else range(VOCAB))
        return _row((seed, 1, *prefix), likely)

    def target(prefix: tuple[int, ...]) -> NDArray[np.float32]:
        return _row((seed, 2, *prefix), {1: {1, 2}, 2: range(WIDE)}.get(len(prefix), {0}))

    return TableModel(draft, VOCAB), TableModel(target, VOCAB)


def _row(seed: tuple[int, ...], likely: Collection[int]) -> NDArray[np.float32]:
    row = np.random.default_rng(seed).normal(0.0, SPREAD, VOCAB)
    row[list(likely)] += SURE
    return np.asarray(row, np.float32)


class _Remembering(Conformal):
    """A cut that forgets no draft: its threshold is what the last one left, whether that died or not."""

    def size(self, probs: FloatArray, at: Place) -> int:
        """See `Cut.size`."""
        last = at.position - 1
        self._after = [(last, threshold) for _, threshold in self._after[-1:]]
        return super().size(probs, at)


class DeadDrafts(TopK):
    """Let the threshold of a conformal cut know drafts that died."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._cut = _Remembering(self._k, context.spec.mass)
