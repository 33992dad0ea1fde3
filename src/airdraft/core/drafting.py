"""Drafters propose tokens on the device. They may need a model's forwards or none, and may have nothing to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from airdraft.core.schemes import Guess


@dataclass(frozen=True)
class Ask:
    """A forward of the draft model that the drafter needs before it can answer."""

    keep: int
    """Cached positions that stay."""
    tokens: tuple[int, ...]
    """Ids to feed after those. The row of the last one is wanted."""


class Drafter(Protocol):
    """Guesses what follows one text."""

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Ask | Sequence[Guess]:
        """Propose what follows `text` and the `drafts` behind it.

        Returns: guesses for the next positions, `most` at the most; none at all if there is nothing to say for now; or
        the forward to be run first, whose row `told` is given. Not called again before that.
        """
        ...

    def told(self, row: np.ndarray) -> Sequence[Guess]:
        """Propose with the row [vocab] that was asked for; nothing if what it rests on is gone."""
        ...

    def cut(self, at: int) -> None:
        """Forget what stood from position `at` on: the text differs there."""
        ...


class ModelDrafter:
    """A drafter that asks a draft model for each token, and knows which of its cached positions still hold."""

    def __init__(self) -> None:
        self._cached = 0  # positions in the model's cache that agree with text and drafts
        self._asked: int | None = None  # the position whose row is computed
        self._stale = False  # whether what that row rests on has changed

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Ask:
        """See `Drafter.want`. One token, one forward."""
        # A model must be fed something: the last token again, if what was drafted after it is dead.
        end = len(text) + len(drafts)
        keep = min(self._cached, end - 1)
        self._asked = self._cached = end
        self._stale = False
        return Ask(keep, (*text[keep:], *drafts[max(0, keep - len(text)) :]))

    def told(self, row: np.ndarray) -> Sequence[Guess]:
        """See `Drafter.told`."""
        return () if self._stale else (row,)

    def cut(self, at: int) -> None:
        """See `Drafter.cut`."""
        self._stale |= self._asked is not None and self._asked >= at
        self._cached = min(self._cached, at)
