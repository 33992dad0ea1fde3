"""Rejection sampling, the exact rule behind every scheme that sends probabilities.

A draft token x, drawn from draft_probs, is accepted with probability min(1, target_probs[x] / draft_probs[x]); a
rejected one is replaced by a draw from the residual max(0, target_probs - draft_probs), normalised. The result is
distributed as target_probs, whatever draft_probs is (Leviathan, Kalman, Matias 2023, Theorem 1; Chen et al. 2023).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from airdraft.core.bits import id_width
from airdraft.core.noise import FloatArray, IntArray
from airdraft.core.sampling import distribution, draw
from airdraft.core.schemes.base import Context, Drafted, Ruling
from airdraft.errors import RemoteProtocolError


class Rejection(ABC):
    """A scheme whose edge knows the draft's distribution, or at least its probability of the drafted token."""

    rounds = True
    race = "off"
    draft_bits: int

    def __init__(self, context: Context) -> None:
        self._params = context.params
        self._vocab_size = context.vocab_size
        self._id_width = id_width(context.vocab_size)
        self._coins = context.coins
        self._rng: np.random.Generator  # of the position under way

    @abstractmethod
    def encode(self, drafts: Sequence[Drafted]) -> bytes:
        """See `Scheme.encode`."""

    @abstractmethod
    def decode(self, count: int, body: bytes) -> list[Drafted]:
        """See `Scheme.decode`."""

    @abstractmethod
    def quantise(self, probs: FloatArray) -> tuple[IntArray, IntArray | FloatArray]:
        """Round the draft's distribution [vocab] to (ids, weights), both [m], as the edge will know it."""

    def propose(self, logits: np.ndarray, position: int) -> Drafted:
        """Quantise, then draw: the token comes from the distribution the edge decodes."""
        ids, weights = self.quantise(distribution(logits, self._params))
        total = float(weights.sum())
        self._rng = self._coins(position)
        return Drafted(int(ids[draw(weights / total, self._rng)]), ids, weights, total)

    def verify(self, drafts: Sequence[Drafted], logits: np.ndarray, position: int) -> Ruling:
        """See `Scheme.verify`. The residual is drawn at the edge."""
        for accepted, draft in enumerate(drafts):
            target_probs = distribution(logits[accepted], self._params)
            self._rng = self._coins(position + accepted)
            if not self.accepts(target_probs, draft):
                return self.replace(accepted, target_probs, draft)
        self._rng = self._coins(position + len(drafts))
        return Ruling(len(drafts), draw(distribution(logits[len(drafts)], self._params), self._rng))

    def accepts(self, target_probs: FloatArray, draft: Drafted) -> bool:
        """Toss the edge's coin for one draft."""
        return bool(self._rng.random() * draft.prob() < target_probs[draft.token])

    def replace(self, accepted: int, target_probs: FloatArray, draft: Drafted) -> Ruling:
        """Rule on a rejected draft."""
        residual = target_probs.copy()
        residual[draft.ids] -= draft.probs()
        return Ruling(accepted, draw_residual(np.maximum(residual, 0.0), target_probs, self._rng))

    def recover(self, draft: Drafted, extra: bytes, position: int) -> int | None:
        """Only `split` leaves this to the device."""
        raise RemoteProtocolError("state", "the edge left a token to the device, which this scheme never does")

    def more(self) -> bytes:
        """Only `split` has more to give."""
        raise RemoteProtocolError("state", "the device asked for candidates, which this scheme never sends")


def draw_residual(residual: FloatArray, target_probs: FloatArray, rng: np.random.Generator) -> int:
    """A draw from the residual [vocab]. Where rounding leaves it empty the two distributions were equal."""
    return draw(residual if residual.any() else target_probs, rng)
