"""Drafters, which propose tokens on the device, with or without a model. They may also propose nothing."""

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
    """Number of cached positions to keep."""
    tokens: tuple[int, ...]
    """Ids to feed after those. The drafter wants the last one's row."""


class Drafter(Protocol):
    """Guesses the tokens that follow one text."""

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Ask | Sequence[Guess]:
        """Propose what follows `text` and then `drafts`.

        Returns: at most `most` guesses for the next positions, none if there is nothing to propose now; or a forward
        to run first. `told` then takes its row, and `want` is not called before that.
        """
        ...

    def told(self, row: np.ndarray) -> Sequence[Guess]:
        """Propose from the row [vocab] that `want` asked for. Returns nothing if its prefix has changed.

        As many guesses are taken as `want` was asked for.
        """
        ...

    def cut(self, at: int) -> None:
        """Forget everything from position `at` on, where the text differs."""
        ...


class ModelDrafter:
    """A drafter that runs a draft model for each token, and tracks which cached positions are still valid."""

    def __init__(self) -> None:
        self._cached = 0  # positions in the model's cache that agree with text and drafts
        self._asked: int | None = None  # the position of the row asked for
        self._stale = False  # whether that row's prefix has changed

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Ask:
        """See `Drafter.want`. Each token takes one forward."""
        # A model needs at least one token, so after a cut it gets the last one again.
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
