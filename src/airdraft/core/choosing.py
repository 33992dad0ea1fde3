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

_BAND, _LEAD, _HEAD, _PARTS = 8.0, 3.0, 2048, 16
"""Tokens within `_BAND` nats of the highest score have most of the mass, in most rows. Those within `_LEAD` are the
likely winners, with a bound of their own; `_HEAD` of them give the first best sum. Whether no more than that are rivals
is guessed from one of so many parts of a row."""
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
    if params.temperature == 0 or 0 < params.top_k < logits.size or logits.size <= _PLAIN:
        return plainly(logits, params, seed, position)
    row = logits if logits.dtype in (np.float32, np.float64) else logits.astype(np.float32)
    temperature, top = params.temperature, float(row.max())

    def within(nats: float) -> Any:
        """The lowest score of those within so many nats of the highest."""
        score = top - nats * temperature
        return row.dtype.type(max(score - 1e-6 * abs(score), _LOWEST))

    def needless(mass: float) -> float:
        """Nats below the highest score from which on p is reached without the tokens there, as in `candidates`."""
        return math.inf if params.top_p == 1 else -math.log(0.99 * (1 - params.top_p) * mass / row.size)

    known, nats, lead = 1.0, -math.log(params.min_p) if params.min_p > 0 else math.inf, within(_LEAD)
    least, nats = top / temperature - nats, min(nats, needless(known))
    few = _PARTS * np.count_nonzero(row[: row.size // _PARTS] >= within(nats)) <= _HEAD
    first = nats if few else min(nats, _BAND)
    near = np.flatnonzero(row >= within(first))
    if nats == math.inf:
        return _winner(row, near, lead, None, temperature, seed, position)
    if first < nats and params.top_p < 1:
        nats = min(nats, needless(known := _mass(row.take(near), top, temperature)))
    ids = near if nats == first else np.flatnonzero(row >= within(nats))
    bar, near = (within(first), near) if nats > first else (within(nats), ids)
    parts: list[Any] = [ids, slice(None)]  # of the whole mass, of which one may be enough to tell
    while True:
        token = _winner(row, near, lead, ids, temperature, seed, position)
        ids = _likelier(row, near if row[token] >= bar else ids, token)
        kept = float(row[token]) / temperature >= least
        if kept and params.top_p < 1 and ids.size:
            mass = _mass(row.take(ids), top, temperature)
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
    row: np.ndarray, near: IntArray, lead: float, ids: IntArray | None, temperature: float, seed: int, position: int
) -> int:
    """Return the token of `ids` (all if None) with the highest sum of score and noise.

    `ids`, if given, are ascending and hold those of `near`, in which are all whose scores are at least `lead`.
    """

    def best_of(tokens: IntArray) -> tuple[float, int]:
        """The highest sum, and its token, negative, so that of equal sums that of the lowest token is the greatest."""
        sums = row.take(tokens).astype(np.float64)
        if temperature != 1:
            sums /= temperature
        sums += gumbel(seed, position, row.size, tokens)
        at = int(sums.argmax())
        return float(sums[at]), -int(tokens[at])

    def better(best: tuple[float, int], tokens: IntArray | None, most: float) -> tuple[float, int]:
        """The best of `tokens`, whose scores are at most `most`, and of what was best before."""
        rivals = loud(seed, position, row.size, tokens, best[0] - _SLACK - most / temperature)
        return max(best, best_of(rivals)) if rivals.size else best

    if ids is not None and ids.size <= _HEAD:
        return -best_of(ids)[1]
    leaders = near.take(np.flatnonzero(row.take(near) >= lead))
    best = best_of(leaders[:_HEAD])
    if leaders.size > _HEAD:
        best = better(best, leaders[_HEAD:], float(row.take(leaders).max()))
    return -better(best, ids, float(lead))[1]


def _likelier(row: np.ndarray, ids: IntArray, token: int) -> IntArray:
    """Return the tokens of `ids` that a cut keeps rather than this one."""
    scores, own = row.take(ids), row[token]
    at = np.flatnonzero(scores >= own)
    found, ties = ids.take(at), scores.take(at) == own
    return np.asarray(found[~ties | (found < token)])


def _mass(scores: np.ndarray, top: float, temperature: float) -> float:
    """Return the sum of the weights, of which the highest score's is 1."""
    weights = scores - scores.dtype.type(top)
    if temperature != 1:
        weights /= scores.dtype.type(temperature)
    return float(np.exp(weights, out=weights).sum())
