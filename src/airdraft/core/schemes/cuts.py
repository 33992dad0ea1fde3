"""How many tokens of a draft's distribution travel: always K, as many as hold a share, or as conformal prediction says.

By `mass` it is the fewest likely tokens that hold this share of the probability (TSLT, arXiv 2512.16273), in every
distribution. By `conformal` it is those above a threshold, which is lowered after each distribution that lost more than
the rest, 1 - mass, and raised after each that lost less: threshold += STEP * (1 - mass - lost). So whatever the rows
are, the share lost in n of them exceeds 1 - mass by at most (FIRST + STEP) / (STEP * n) in the mean, unless K is too
few (online conformal prediction, as in C-SQS, arXiv 2510.09942).

A session's threshold begins anew: a resumed text is distributed as the target's, but not the same as without the cut.
A cut may know rows of the past, and must know nothing of tokens that were drafted and are not in the text: the random
numbers of their positions are met again.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from airdraft.core.law import Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray, IntArray
from airdraft.errors import BadParameterError

CUTS = ("mass", "conformal")
"""What `SchemeSpec.mass` is to be true of: every distribution, or their mean."""
FIRST, STEP = 0.01, 0.05
"""The first threshold, a probability, and how much it moves for a distribution that lost everything."""


class Cut(Protocol):
    """A rule for the number of tokens, below the most that may travel."""

    def size(self, probs: FloatArray, at: Place) -> int:
        """Return the number of likely tokens to keep of the distribution [vocab] at a place, at least 1."""
        ...


class ByMass:
    """The fewest tokens that hold a share of the probability, and no more than `most`."""

    def __init__(self, most: int, mass: float) -> None:
        self._most, self._mass = most, mass

    def size(self, probs: FloatArray, at: Place) -> int:
        """See `Cut.size`."""
        likely = -np.sort(-probs[top(probs, self._most)])
        enough = 1 + int(np.searchsorted(np.cumsum(likely), self._mass))
        return min(self._most, enough, int(np.count_nonzero(likely)))


class Conformal:
    """The tokens above a threshold, and no more than `most`."""

    def __init__(self, most: int, mass: float) -> None:
        self._most, self._lose = most, 1 - mass
        self._after: list[tuple[int, float]] = []
        """The positions met on the way to the present one, each with the threshold after it."""

    def size(self, probs: FloatArray, at: Place) -> int:
        """See `Cut.size`. What was drafted at this position before, or beyond, is forgotten."""
        while self._after and self._after[-1][0] >= at.position:
            self._after.pop()
        threshold = self._after[-1][1] if self._after else FIRST
        kept = probs[(probs >= threshold) & (probs > 0)]
        size = min(max(1, kept.size), self._most)
        lost = 1 - float(probs[top(probs, size)].sum())
        threshold = min(max(threshold + STEP * (self._lose - lost), -STEP), 1 + STEP)
        self._after.append((at.position, threshold))
        return size


def cut_of(spec: SchemeSpec, most: int) -> Cut | None:
    """Make the rule that options ask for. None: always `most` tokens."""
    if spec.mass == 1:
        return None
    return ByMass(most, spec.mass) if spec.cut == "mass" else Conformal(most, spec.mass)


def top(probs: FloatArray, size: int) -> IntArray:
    """Return the ids of the `size` most likely tokens, of equals the lower ids, ascending. int64 [size]."""
    kth = np.partition(probs, -size)[-size]
    above, ties = np.flatnonzero(probs > kth), np.flatnonzero(probs == kth)
    return np.sort(np.concatenate([above, ties[: size - above.size]]))


def check_cut(spec: SchemeSpec) -> None:
    """Raise `BadParameterError` if options describe no cut."""
    if not 0 < spec.mass <= 1:
        raise BadParameterError(
            f"mass is {spec.mass}; give the share of the probability to transmit, above 0 and at most 1", field="mass"
        )
    if spec.cut not in CUTS:
        raise BadParameterError(f"cut is {spec.cut!r}; choose mass or conformal", field="cut")
    if spec.cut == "conformal" and spec.mass == 1:
        raise BadParameterError("mass is 1, which leaves conformal prediction nothing to choose; give less", "mass")
