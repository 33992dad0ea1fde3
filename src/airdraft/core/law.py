"""The law of a text: everything between a row of logits and a choice.

A row is cut to the tokens that the guide allows, the sampling parameters act on what is left (`core/sampling.py`), and
a token is chosen with the noise of its position. Both sides of the link apply the same law at the same place, so a
scheme never looks at parameters, seeds or grammars itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from airdraft.core.noise import FloatArray
from airdraft.core.sampling import SamplingParams, choose, distribution
from airdraft.errors import ModelError


class Guide(Protocol):
    """A grammar's state after some text. It never changes, so rolling back is forgetting."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """The tokens that may come next, [vocab]. None: all."""
        ...

    def after(self, token: int) -> Guide:
        """The state after `token`, which was allowed."""
        ...


@dataclass(frozen=True)
class Place:
    """A position in a text, and what the law asks of the text before it."""

    position: int
    """Index of the token to be chosen, from the start of the prompt."""
    guide: Guide | None = None

    def then(self, token: int) -> Place:
        """The place after `token`."""
        return Place(self.position + 1, None if self.guide is None else self.guide.after(token))


class Law:
    """The target's way to choose tokens, for one text. `vocab_size` is the length of its rows."""

    def __init__(self, params: SamplingParams, seed: int, vocab_size: int) -> None:
        self.params, self.seed, self.vocab_size = params, seed, vocab_size

    def choose(self, row: np.ndarray, at: Place) -> int:
        """The token that the seed draws from one row of logits [vocab]: argmax(log p + G). See `sampling.choose`."""
        return choose(_guided(row, at), self.params, self.seed, at.position)

    def probs(self, row: np.ndarray, at: Place) -> FloatArray:
        """The distribution that one row of logits [vocab] stands for. float64 [vocab]."""
        return distribution(_guided(row, at), self.params)

    def coins(self, side: int, at: Place, use: int = 0) -> np.random.Generator:
        """The coins of one side, `DEVICE` or `EDGE`, for the token at a place; others for each `use`.

        They fall alike however often they are tossed. A session that resumes a text meets what the session that was cut
        off met there; so being cut off, which is likelier while a rejection is dealt with, changes no chance.
        """
        return np.random.Generator(np.random.Philox(key=[self.seed, side], counter=[0, use, at.position, 0]))


def _guided(row: np.ndarray, at: Place) -> np.ndarray:
    """The row [vocab] with -inf where the guide allows nothing."""
    allowed = None if at.guide is None else at.guide.allowed()
    if allowed is None:
        return row
    row = np.where(allowed, row, -np.inf)
    if not np.isfinite(row.max()):
        raise ModelError(f"the guide allows no token at position {at.position} that the model scores; mend the grammar")
    return row
