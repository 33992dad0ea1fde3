"""Rejection sampling, the exact rule of every scheme that sends probabilities.

A draft token x, drawn from draft_probs, is accepted with probability min(1, target_probs[x] / draft_probs[x]). If it is
rejected, a draw from the normalised residual max(0, target_probs - draft_probs) replaces it. The result is distributed
as target_probs, whatever draft_probs is (Leviathan, Kalman, Matias 2023, Theorem 1; Chen et al. 2023).

Drafts are judged token by token, or, where the edge knows the whole distribution and the option `verify` says so, as a
block (`block.py`). With several candidates for a position, a rejection leaves it to the next one (`candidates.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from airdraft.core.bits import id_width
from airdraft.core.law import Needs, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray, IntArray
from airdraft.core.sampling import draw
from airdraft.core.schemes.base import Context, Drafted, Drafts, EdgeDraws, Guess, Ruling, Traits
from airdraft.core.schemes.block import prefixes
from airdraft.core.schemes.candidates import replaced, without_replacement
from airdraft.errors import BadParameterError, LocalProtocolError

VERIFY = ("token", "block")
"""Ways to judge drafts."""


class Rejection(EdgeDraws, ABC):
    """A scheme whose edge knows the draft's distribution, or at least the drafted token's probability."""

    traits: ClassVar[Traits]
    race = "off"
    draft_bits: int
    candidates = 1
    """Most candidates for a position."""

    def __init__(self, context: Context) -> None:
        self._law = context.law
        self._vocab_size = context.law.vocab_size
        self._id_width = id_width(self._vocab_size)
        self._coins = context.coins
        self._by_block = context.spec.verify == "block" and "verify" in self.traits.options
        self._start: int | None = None  # on the device, the position of a round's first draft
        self._rng: np.random.Generator  # for the current position

    @staticmethod
    @abstractmethod
    def check(spec: SchemeSpec) -> None:
        """See `Scheme.check`."""

    @abstractmethod
    def pack(self, drafts: Drafts) -> bytes:
        """Do what `Scheme.encode` says."""

    @abstractmethod
    def decode(self, count: int, body: bytes) -> Drafts:
        """See `Scheme.decode`."""

    @abstractmethod
    def quantise(self, probs: FloatArray, at: Place) -> tuple[IntArray, IntArray | FloatArray]:
        """Round the draft's distribution [vocab] at a place to (ids, weights), both [m], as the edge will know it."""

    def draw(self, guess: Guess, at: Place) -> Drafted:
        """Quantise, then draw from the distribution that the edge decodes. A believed token is a point mass."""
        if isinstance(guess, np.ndarray):
            probs = self._law.probs(guess, at)
        else:
            probs = np.zeros(self._vocab_size)
            probs[guess] = 1.0
        ids, weights = self.quantise(probs, at)
        total = float(weights.sum())
        self._rng = self._coins(at, self._use(at))
        token, *others = ids[without_replacement(weights / total, self.candidates, self._rng)].tolist()
        return Drafted(token, ids, weights, total, tuple(others))

    def _use(self, at: Place) -> int:
        """A block's verdict depends on all of its drafts, so the next round must not draw rejected ones again: the
        random numbers belong to the round too."""
        if not self._by_block:
            return 0
        self._start = at.position if self._start is None else self._start
        return 2 + self._start

    def encode(self, drafts: Drafts) -> bytes:
        """See `Scheme.encode`. It ends the round."""
        self._start = None
        return self.pack(drafts)

    def needs(self, drafts: Drafts, at: Place) -> Needs | None:
        """See `Scheme.needs`. A block, or a tree, is judged by all of its rows."""
        if self._by_block or drafts.parents is not None:
            return None
        return Needs(self._law, at, lambda i: self._coins(Place(at.position + i)).random() * drafts.said[i].prob())

    def verify(self, drafts: Drafts, rows: np.ndarray, at: Place) -> Ruling:
        """See `Scheme.verify`. The edge draws from the residual."""
        if drafts.parents is not None and self.candidates == 1:
            raise LocalProtocolError("a tree of drafts was given to a scheme that verifies chains only")
        if self._by_block:
            return self._verify_block(drafts, rows, at)
        for node, draft in enumerate(drafts.said[: drafts.trunk]):
            if not isinstance(rows[node], int):  # else the engine says that it is accepted
                target_probs = self._law.probs(rows[node], at)
                self._rng = self._coins(at)
                if not self.accepts(target_probs, draft):
                    return self._beyond(self.replace(tuple(range(node)), target_probs, draft), drafts, rows, at)
            at = at.then(draft.token)
        self._rng = self._coins(at)
        return Ruling(tuple(range(drafts.trunk)), draw(self._law.probs(rows[drafts.trunk], at), self._rng))

    def _beyond(self, ruling: Ruling, drafts: Drafts, rows: np.ndarray, at: Place) -> Ruling:
        """Add the token behind a further candidate that was accepted at a place, if the candidate has a row."""
        if drafts.parents is None or ruling.token is None:
            return ruling
        leaf = drafts.child(len(ruling.path) - 1, ruling.token)
        if leaf is None:
            return ruling
        at = at.then(ruling.token)
        self._rng = self._coins(at)
        return Ruling((*ruling.path, leaf), draw(self._law.probs(rows[leaf + 1], at), self._rng))

    def _verify_block(self, drafts: Drafts, rows: np.ndarray, at: Place) -> Ruling:
        self._rng = self._coins(at)
        accepted, after = 0, np.empty(0)  # the empty prefix always passes
        for length, (chance, following) in enumerate(prefixes(self._law, drafts, rows, at)):
            if self._rng.random() < chance:
                accepted, after = length, following
        return Ruling(tuple(range(accepted)), draw(after, self._rng))

    def accepts(self, target_probs: FloatArray, draft: Drafted) -> bool:
        """Decide at random whether to accept a draft."""
        return bool(self._rng.random() * draft.prob() < target_probs[draft.token])

    def replace(self, path: tuple[int, ...], target_probs: FloatArray, draft: Drafted) -> Ruling:
        """Rule on a draft rejected after `path`."""
        return Ruling(path, replaced(target_probs, draft, self._rng)[0])

    def likely(self, guess: Guess, at: Place, most: int) -> Sequence[tuple[int, float]]:
        """Refuse: both sides toss coins of their own."""
        raise LocalProtocolError("a tree is drafted under shared noise only")


def check_verify(spec: SchemeSpec) -> None:
    """Raise `BadParameterError` if `spec.verify` names no way to judge drafts."""
    if spec.verify not in VERIFY:
        raise BadParameterError(f"verify is {spec.verify!r}; choose token or block", field="verify")


def draw_residual(residual: FloatArray, target_probs: FloatArray, rng: np.random.Generator) -> int:
    """Draw from the residual [vocab]. If rounding leaves it empty, the two distributions were equal."""
    return draw(residual if residual.any() else target_probs, rng)
