"""The chances that a model gave to the tokens of a text, found in the rows that it gave lately."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from airdraft.core.events import Forward

HELD = 64
"""Rows that are kept, the latest."""
ALIKE = 8
"""Tokens before a row that must be the text's own: the row of a dead draft says nothing about the text."""
LOGITS_A_SECOND = 4e6
"""Most logits to sum up in a second, for all texts together: some 2 % of a core. What is beyond stays unknown."""


class _Budget:
    def __init__(self) -> None:
        self._left, self._at = LOGITS_A_SECOND, time.monotonic()

    def spend(self, logits: int) -> bool:
        now = time.monotonic()
        self._left, self._at = min(LOGITS_A_SECOND, self._left + (now - self._at) * LOGITS_A_SECOND), now
        if self._left < logits:
            return False
        self._left -= logits
        return True


_budget = _Budget()


class Chances:
    """Remembers the rows of one model for one text."""

    def __init__(self) -> None:
        self._fed: list[int] = []  # what the model's cache holds; -1: not seen
        self._rows: dict[int, tuple[tuple[int, ...], np.ndarray]] = {}  # by the position that a row predicts

    def rows(self, forward: Forward, logits: np.ndarray) -> None:
        """Take the rows [n, vocab] of a forward. Those of a tree are not taken: they belong to several texts."""
        fed = self._fed
        fed += [-1] * max(0, forward.keep + max(forward.picks, default=-1) + 1 - len(fed))
        fed[forward.keep :] = [fed[forward.keep + pick] for pick in forward.picks]
        if forward.parents is not None:
            fed += [-1] * len(forward.tokens)
            return
        fed += forward.tokens
        for at in range(min(len(logits), len(forward.tokens))):
            position = len(fed) - at
            self._rows.pop(position, None)
            self._rows[position] = tuple(fed[max(0, position - ALIKE) : position]), logits[-1 - at]
        while len(self._rows) > HELD:
            del self._rows[next(iter(self._rows))]

    def of(self, start: int, tokens: Sequence[int], text: Sequence[int]) -> list[float | None]:
        """The chance of each token from `start` on in a text, before temperature and truncation. None: not known."""
        return [self._of(start + at, token, text) for at, token in enumerate(tokens)]

    def _of(self, position: int, token: int, text: Sequence[int]) -> float | None:
        before, row = self._rows.pop(position, ((), None))
        if row is None or before != tuple(text[max(0, position - ALIKE) : position]) or not _budget.spend(row.size):
            return None
        top = row.max()
        return round(float(np.exp(row[token] - top) / np.exp(row - top).sum()), 4)
