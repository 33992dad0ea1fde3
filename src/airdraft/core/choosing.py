"""The choice of a token under shared noise: argmax(log p + G), fast over large vocabularies.

To win, a token's noise must exceed the best sum known so far less its own score. For most tokens that is ruled out by
one comparison of integers, without a logarithm. Nor does top-p need sorting, or often all of the mass: the winner is in
the nucleus iff the tokens likelier than it have less than p of the mass, and a part of the mass may show that they do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from airdraft.core.noise import IntArray, gumbel, loud
from airdraft.core.sampling import SamplingParams, candidates

_BAND = 8.0
"""Tokens within so many nats of the highest score are the likely winners, with a bound of their own."""
_HEAD = 2048
"""Of these, as many give the first best sum; of so few candidates all noise is computed."""
_PLAIN = 8192
"""Rows of so many tokens are chosen from plainly, which is faster there."""
_LOWEST = float(np.finfo(np.float32).min)
_SLACK = 1e-3
"""Bounds on noise are lowered by more than rounding moves a score."""
_DOUBT = 1e-4
"""Share of the mass within which sums in single precision decide nothing."""
_LISTED, _SCALE, _OTHERS = 8, 1.2, math.exp(-3)
"""So many of the best sums of log-probability and noise are weighed, by the exponential of so many times each, beside
so much for all others. Fitted on the shipped pair at temperatures 0, 0.7 and 1."""


def choose(logits: np.ndarray, params: SamplingParams, seed: int, position: int) -> int:
    """Choose the token that (seed, position) draws from a row of logits [vocab]: argmax(log p + G).

    The target alone chooses this way, and every coupled text is a sequence of these choices.
    """
    greedy, few = params.temperature == 0, 0 < params.top_k < logits.size
    if greedy or few or logits.size <= _PLAIN:
        return plainly(logits, params, seed, position)
    row = logits if logits.dtype in (np.float32, np.float64) else logits.astype(np.float32)
    temperature, top = params.temperature, float(row.max())

    def within(nats: float) -> Any:
        """The lowest score of those within so many nats of the highest."""
        score = top - nats * temperature
        return row.dtype.type(max(score - 1e-6 * abs(score), _LOWEST))

    bar = within(_BAND)
    ids, near = None, np.flatnonzero(row >= bar)
    known = _mass(row.take(near), top, temperature)
    parts: list[Any] = [slice(None)]
    nats = -math.log(params.min_p) if params.min_p > 0 else math.inf
    least = top / temperature - nats
    if params.top_p < 1:  # as in `candidates`: p is reached without the tokens below
        nats = min(nats, -math.log(0.99 * (1 - params.top_p) * known / row.size))
    if nats < math.inf:
        ids = np.flatnonzero(row >= within(nats))
        bar, near = (bar, near) if nats > _BAND else (within(nats), ids)
        parts = [ids, *parts]
    while True:
        token = _winner(row, near, bar, ids, temperature, seed, position)
        ids = _likelier(row, near if row[token] >= bar else ids, token)
        kept = float(row[token]) / temperature >= least
        if kept and params.top_p < 1 and ids.size:
            mass = _mass(row.take(ids), top, temperature)
            # Of the whole mass a part may be enough to tell.
            while mass >= (1 - _DOUBT) * params.top_p * known and parts:
                known = _mass(row[parts.pop(0)], top, temperature)
            if abs(mass - params.top_p * known) < _DOUBT * params.top_p * known:
                return plainly(logits, params, seed, position)
            kept = mass < params.top_p * known
        if kept:
            return token
        near = _likelier(row, near, token)


def plainly(logits: np.ndarray, params: SamplingParams, seed: int, position: int) -> int:
    """Choose in the same way by computing every candidate's noise."""
    ids, scores = candidates(logits, params)
    if ids.size == 1:
        return int(ids[0])
    every = ids.size == logits.size
    return int(ids[np.argmax(scores + gumbel(seed, position, logits.size, None if every else ids))])


def likely(logits: np.ndarray, params: SamplingParams, seed: int, position: int, most: int) -> list[tuple[int, float]]:
    """List at most `most` tokens that a similar row would choose, each with the log of its chance, likeliest first.

    The other row differs a little, and the noise is the same. So the chance of a token is the softmax of the best sums
    of score and noise. It tells hits from misses better than the probability does, which knows nothing of the noise.
    """
    greedy = params.temperature == 0
    ids, scores = candidates(logits, SamplingParams() if greedy else params)
    if ids.size > _PLAIN:
        near = np.flatnonzero(scores >= scores.max() - _BAND)
        ids, scores = ids[near], scores[near]
    top = scores.max()
    sums = scores - top - math.log(np.exp(scores - top).sum())
    if not greedy:
        sums += gumbel(seed, position, logits.size, ids)
    best = np.argsort(-sums, kind="stable")[:_LISTED]
    logs = _SCALE * sums[best]
    logs -= math.log(np.exp(logs).sum() + _OTHERS)
    return list(zip(ids[best[:most]].tolist(), logs[:most].tolist(), strict=True))


def _winner(
    row: np.ndarray, near: IntArray, bar: float, ids: IntArray | None, temperature: float, seed: int, position: int
) -> int:
    """Return the token of `near`, whose scores are at least `bar`, and `ids` (all if None) with the highest sum of
    score and noise. `ids`, if given, are ascending and hold those of `near`."""

    def best_of(tokens: IntArray) -> tuple[float, int]:
        """The highest sum, and its token, negative, so that of equal sums that of the lowest token is the greatest."""
        sums = row.take(tokens).astype(np.float64)
        if temperature != 1:
            sums /= temperature
        sums += gumbel(seed, position, row.size, tokens)
        at = int(sums.argmax())
        return float(sums[at]), -int(tokens[at])

    def rivals(tokens: IntArray | None, best: float, most: float) -> IntArray:
        return loud(seed, position, row.size, tokens, best - _SLACK - float(most) / temperature)

    if ids is not None and ids.size <= _HEAD:
        return -best_of(ids)[1]
    best = best_of(near[:_HEAD])
    if near.size > _HEAD:
        others = rivals(near[_HEAD:], best[0], row.take(near[_HEAD:]).max())
        best = max(best, best_of(others)) if others.size else best
    others = rivals(ids, best[0], bar)
    return -(max(best, best_of(others)) if others.size else best)[1]


def _likelier(row: np.ndarray, ids: IntArray | None, token: int) -> IntArray:
    """Return the tokens of `ids` (all if None) that a cut keeps rather than this one."""
    scores, own = row if ids is None else row.take(ids), row[token]
    found = np.flatnonzero(scores >= own)
    ties = scores.take(found) == own
    found = found if ids is None else ids.take(found)
    return np.asarray(found[~ties | (found < token)])


def _mass(scores: np.ndarray, top: float, temperature: float) -> float:
    """Return the sum of the weights, of which the highest score's is 1."""
    weights = scores - scores.dtype.type(top)
    if temperature != 1:
        weights /= scores.dtype.type(temperature)
    return float(np.exp(weights, out=weights).sum())
