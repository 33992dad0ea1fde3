"""What a smaller model is worth: how often it would choose what the whole one chooses, and how well it predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from airdraft.compress.rounding import Reals
from airdraft.models.rows import log_probs, probs


@dataclass(frozen=True)
class Quality:
    """A smaller model beside the whole one, over the positions of texts that were not calibrated with."""

    positions: int
    perplexity: float
    """exp of the mean negative log-probability of the next token, at temperature 1."""
    whole_perplexity: float
    """The whole model's."""
    one_minus_tv: float
    """Mean of Σ min(p, q): the share of drafts that rejection sampling accepts."""
    coupled: float
    """Mean chance that both choose the same token with the same noise: the share that `coupled` accepts."""


@dataclass
class Comparison:
    """A comparison of rows that comes in pieces."""

    temperature: float
    _positions: int = 0
    _nats: float = 0.0
    _whole_nats: float = 0.0
    _overlap: float = 0.0
    _agreed: float = 0.0

    def add(self, whole: Reals, small: Reals, following: np.ndarray) -> None:
        """Add rows of logits [positions, vocabulary] of both models, and the tokens that follow, [positions]."""
        at = np.arange(len(following))
        self._positions += len(following)
        self._whole_nats -= float(log_probs(whole)[at, following].sum())
        self._nats -= float(log_probs(small)[at, following].sum())
        p, q = probs(whole, self.temperature), probs(small, self.temperature)
        self._overlap += float(np.minimum(p, q).sum())
        self._agreed += sum(agreement(*each) for each in zip(p, q, strict=True))

    def quality(self) -> Quality:
        """The means so far."""
        n = max(1, self._positions)
        return Quality(
            self._positions, float(np.exp(self._nats / n)), float(np.exp(self._whole_nats / n)), self._overlap / n,
            self._agreed / n,
        )  # fmt: skip


def agreement(p: Reals, q: Reals) -> float:
    """The chance that argmax(log p + G) and argmax(log q + G) are one token, for Gumbel noise G that both share.

    Token i wins in both with the chance 1 / Σ_j max(p_j / p_i, q_j / q_i). Sorted by p_j / q_j, the maxima on one
    side of i are the first of the two, on the other side the second, so all sums take one pass.
    """
    both = (p > 0) & (q > 0)
    only_p, only_q = p[~both].sum(), q[~both].sum()
    order = np.argsort(-(p[both] / q[both]))
    p, q = p[both][order], q[both][order]
    before = np.cumsum(p) + only_p
    after = q.sum() - np.cumsum(q) + only_q
    return float((1 / (before / p + after / q)).sum())
