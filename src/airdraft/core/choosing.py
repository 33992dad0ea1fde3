"""The choice of a token under shared noise: argmax(log p + G), fast over large vocabularies.

To win, a token's noise must exceed the best sum known so far less its own score. For most tokens that is ruled out by
one comparison of integers, without a logarithm. Nor does top-p need sorting: the winner is in the nucleus iff the
tokens likelier than it have less than p of the mass.
"""

from __future__ import annotations

import math

import numpy as np

from airdraft.core.noise import FloatArray, IntArray, gumbel, loud
from airdraft.core.sampling import SamplingParams, candidates

_BAND = 5.0
"""Tokens within so many nats of the highest score are the likely winners, with a bound of their own."""
_PLAIN = 8192
"""Rows of so many tokens are chosen from plainly, which is faster there."""
_HEAD = 512
"""Of these, as many give the first best sum."""
_SLACK = 1e-3
"""Bounds on noise are lowered by more than rounding moves a score."""
_DOUBT = 1e-4
"""Share of the mass within which sums in single precision decide nothing."""


def choose(logits: np.ndarray, params: SamplingParams, seed: int, position: int) -> int:
    """Choose the token that (seed, position) draws from a row of logits [vocab]: argmax(log p + G).

    The target alone chooses this way, and every coupled text is a sequence of these choices.
    """
    greedy, few = params.temperature == 0, 0 < params.top_k < logits.size
    if greedy or few or logits.size <= _PLAIN:
        return plainly(logits, params, seed, position)
    row = logits if logits.dtype in (np.float32, np.float64) else logits.astype(np.float32)
    temperature, top = params.temperature, float(row.max())
    least = top / temperature + math.log(params.min_p) if params.min_p > 0 else -math.inf
    weights, goal, ids = None, 0.0, None
    if params.top_p < 1:
        weights = np.exp((row - row.dtype.type(top)) / row.dtype.type(temperature))
        total = weights.sum()
        goal = params.top_p * float(total)
        # As in `candidates`: p is reached without the tokens below.
        ids = np.flatnonzero(weights >= 0.99 * (1 - params.top_p) * total / row.size)
    elif params.min_p > 0:
        cut = least * temperature
        ids = np.flatnonzero(row >= cut - 1e-6 * abs(cut))
    while True:
        token = _winner(row, ids, temperature, seed, position)
        before = row > row[token]  # the tokens that a cut keeps rather than this one
        before[:token] |= row[:token] == row[token]
        kept = float(row[token]) / temperature >= least
        if kept and weights is not None:
            mass = float(weights[before].sum())
            if abs(mass - goal) < _DOUBT * goal:
                return plainly(logits, params, seed, position)
            kept = mass < goal
        if kept:
            return token
        ids = np.flatnonzero(before)


def plainly(logits: np.ndarray, params: SamplingParams, seed: int, position: int) -> int:
    """Choose in the same way by computing every candidate's noise."""
    ids, scores = candidates(logits, params)
    if ids.size == 1:
        return int(ids[0])
    every = ids.size == logits.size
    return int(ids[np.argmax(scores + gumbel(seed, position, logits.size, None if every else ids))])


def _winner(row: np.ndarray, ids: IntArray | None, temperature: float, seed: int, position: int) -> int:
    """Return the token of `ids` (all if None) with the highest sum of score and noise."""
    scores = row if ids is None else row[ids]
    top = scores.max()
    near = scores >= top - _BAND * temperature
    rest = float(np.max(scores, where=~near, initial=-np.inf))
    head = np.flatnonzero(near)[:_HEAD]

    def sums(tokens: IntArray) -> FloatArray:
        noise = gumbel(seed, position, row.size, tokens)
        return np.asarray(row[tokens].astype(np.float64) / temperature + noise)

    best = float(sums(head if ids is None else ids[head]).max()) - _SLACK
    bounds = best - float(top) / temperature, best - rest / temperature
    tokens = loud(seed, position, row.size, ids, near, bounds)
    return int(tokens[np.argmax(sums(tokens))])
