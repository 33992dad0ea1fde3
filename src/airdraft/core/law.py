"""The law of a text: everything between a row of logits and a choice.

The guide removes tokens from the row and bends it, the sampling parameters act on the rest (`core/sampling.py`), and
the noise of the position chooses a token. Both sides apply the same law at the same place, so a scheme never looks at
parameters, seeds or grammars itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from airdraft.core.choosing import choose, likely
from airdraft.core.messages import GuideSpec
from airdraft.core.noise import FloatArray
from airdraft.core.sampling import SamplingParams, distribution
from airdraft.errors import GuideError


class Guide(Protocol):
    """What leads a text beside its model, a grammar say, at one place. It is immutable: to roll back is to drop it."""

    @property
    def forced(self) -> int | None:
        """The token that comes next whatever the model says. None: there are several."""
        ...

    needed: int | None = None
    """Tokens of a row, the likeliest that are allowed, among which a choice is made, if rows may not tell all."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """Mask of the tokens that may come next, [vocab]. None: all of them."""
        ...

    def bent(self, row: np.ndarray) -> np.ndarray:
        """Return a row of logits [vocab], without what is not allowed, with others of them raised, lowered or taken."""
        return row

    def within(self, prompt: Sequence[int]) -> Guide:
        """Return the state before the first token of a text that follows `prompt`. It is asked of a first state."""
        return self

    def after(self, token: int) -> Guide:
        """Return the state after `token`. Raises: `RemoteProtocolError` if no text of the grammar goes on so."""
        ...


Read = Callable[[GuideSpec, Sequence[int]], Guide]
"""Makes a guide, given the tokens that end a text. Raises: `BadParameterError`."""


@dataclass(frozen=True)
class Place:
    """A position in a text, with the guide's state there."""

    position: int
    """Index of the token to choose, counted from the start of the prompt."""
    guide: Guide | None = None

    def then(self, token: int) -> Place:
        """Return the place after `token`."""
        return Place(self.position + 1, None if self.guide is None else self.guide.after(token))

    @property
    def forced(self) -> int | None:
        """The only token that the guide allows; None if there are several, or no guide."""
        return None if self.guide is None else self.guide.forced

    def along(self, tokens: Sequence[int]) -> tuple[Sequence[int], Place]:
        """Return the first of `tokens` that the guide allows before it gives up, and the place after them."""
        at, count = self, 0
        with contextlib.suppress(GuideError):
            for token in tokens:
                if at.guide is not None and (allowed := at.guide.allowed()) is not None and not allowed[token]:
                    break
                at, count = at.then(token), count + 1
        return tokens[:count], at

    def run(self, most: int) -> list[int]:
        """Return the tokens that are forced from here on, at most `most`, before the guide gives up."""
        at, found = self, list[int]()
        with contextlib.suppress(GuideError):
            while len(found) < most and (token := at.forced) is not None:
                found.append(token)
                at = at.then(token)
        return found


class Law:
    """The rule by which the target chooses the tokens of one text. `vocab_size` is the length of its rows."""

    def __init__(self, params: SamplingParams, seed: int, vocab_size: int, doubt: float = 0.0) -> None:
        """`doubt`: as in `Target`."""
        self.params, self.seed, self.vocab_size, self.doubt = params, seed, vocab_size, doubt

    def choose(self, row: np.ndarray, at: Place) -> int:
        """Choose the token that the seed draws from a row of logits [vocab]. See `choosing.choose`."""
        forced = at.forced
        return choose(_guided(row, at), self.params, self.seed, at.position) if forced is None else forced

    def is_sure(self, row: np.ndarray, at: Place, token: int) -> bool:
        """Whether a token that was chosen is chosen as well if all others gain `doubt` on it."""
        if not self.doubt:
            return True
        row = row.copy()
        row[token] -= self.doubt
        return self.choose(row, at) == token

    def likely(self, row: np.ndarray, at: Place, most: int) -> list[tuple[int, float]]:
        """List tokens that another model's row would choose here, given this one's. See `choosing.likely`."""
        return likely(_guided(row, at), self.params, self.seed, at.position, most)

    def probs(self, row: np.ndarray, at: Place) -> FloatArray:
        """Return the distribution that a row of logits [vocab] stands for. float64 [vocab]."""
        return distribution(_guided(row, at), self.params)

    def coins(self, side: int, at: Place, use: int = 0) -> np.random.Generator:
        """Return the random numbers of one side, `DEVICE` or `EDGE`, for the token at a place, by `use`.

        They are the same on every call. A session that resumes a text meets the numbers of the interrupted one, so an
        interruption, which is likelier during a rejection, does not change the distribution.
        """
        return np.random.Generator(np.random.Philox(key=[self.seed, side], counter=[0, use, at.position, 0]))


@dataclass(frozen=True)
class Needs:
    """What is needed of a forward's rows, so that an engine may answer some of them with a token."""

    law: Law
    at: Place
    """The place of the first row."""
    bars: Callable[[int], float] | None = None
    """Says of a draft of a chain what chance it must exceed to be accepted; then its row is answered with it. Of the
    other rows the first is needed itself. None: every row is answered with the token that the law chooses."""
    logprobs: int | None = None
    """As in `Open`. If they are asked for, each token comes as a `Logprob`."""


def _guided(row: np.ndarray, at: Place) -> np.ndarray:
    """Set the row [vocab] to -inf where the guide forbids a token, and bend the rest as it says."""
    if at.guide is None:
        return row
    if (allowed := at.guide.allowed()) is not None:
        row = np.where(allowed, row if at.forced is None else 0.0, -np.inf)  # forced, even where the row tells it not
        if at.guide.needed is None and not np.isfinite(row.max()):
            raise GuideError(f"the guide allows no token that the engine tells at position {at.position}; mend it")
    return at.guide.bent(row)
