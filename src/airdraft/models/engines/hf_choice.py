"""Tokens chosen by PyTorch, on whatever device the rows lie: those that `core/choosing.py` chooses, or none.

All is as there, in double precision, and most of it to the bit: words of noise are integers, quotients and comparisons
are rounded in one way only. Logarithms, exponentials and sums are not, so two sums of score and noise, or a mass and
top-p, may be too close to tell which is greater. Then the row itself is given, and whoever asked for the token decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from itertools import islice
from typing import Any

import numpy as np

from airdraft.core.noise import GAMMA, M1, M2, row_key
from airdraft.models.base import Choice, Chosen, FloatArray, Part

_DOUBT, _SHARE = 1e-12, 2.0**-50
"""Two sums are as good as equal if they are closer than this, and this share of them. A logarithm that is wrong by 8
units in the last place moves noise, which is at most 37, by 1.2e-13; a sum is rounded by 2^-53 of itself."""
_MASS_DOUBT = 1e-9
"""The same for masses, as shares of the whole: 1e6 weights added one after the other are wrong by 1e-10."""
_PIECE = 1 << 22
"""Numbers in a tensor of rows, at most; those of a call are gone through piece by piece, so that memory lasts."""


def rows_of(parts: Sequence[Part], scored: Sequence[Any]) -> list[FloatArray]:
    """The rows of all parts, each [rows, vocab], for NumPy."""
    return [each.to("cpu", import_module("torch").float32, copy=True).numpy() for each in scored]


def chosen(parts: Sequence[Part], scored: Sequence[Any]) -> list[Chosen | FloatArray]:
    """What each part asks for, its tokens or its rows, given the rows where they lie, each [rows, vocab]."""
    found: list[Chosen | FloatArray] = [[] for _ in parts]
    groups: dict[tuple[int, int], list[int]] = {}
    for i, part in enumerate(parts):
        if part.choice is None:
            found[i] = rows_of([part], [scored[i]])[0]
        else:
            groups.setdefault((part.choice.vocab_size, _kind(part.choice)), []).append(i)
    for (vocab_size, kind), members in groups.items():
        rows = import_module("torch").cat([scored[i][:, :vocab_size] for i in members])
        asked = [(choice, row) for i in members if (choice := parts[i].choice) for row in range(len(choice.positions))]
        tokens, step = list[int](), max(1, _PIECE // vocab_size)
        for at in range(0, len(asked), step):
            tokens += _tokens(rows[at : at + step], kind, asked[at : at + step])
        told = iter(zip(tokens, rows, strict=True))
        for i in members:
            found[i] = [
                token if token >= 0 else rows_of([parts[i]], [row])[0] for token, row in islice(told, parts[i].rows)
            ]
    return found


_GREEDY, _WHOLE = -1, 0


def _kind(choice: Choice) -> int:
    """What is done alike with all rows of a group: `_GREEDY`, `_WHOLE`, or the number of tokens that top-k keeps."""
    if choice.temperature == 0:
        return _GREEDY
    return choice.top_k if choice.top_k < choice.vocab_size else _WHOLE


def _tokens(rows: Any, kind: int, asked: Sequence[tuple[Choice, int]]) -> list[int]:
    """The token of each row [n, vocab], by a choice and the row's number in it; -1 where there is doubt."""
    torch, device, vocab_size = import_module("torch"), rows.device, rows.shape[1]

    def column(values: Sequence[float], dtype: Any = None) -> Any:
        return torch.tensor(values, dtype=dtype or torch.float64, device=device)[:, None]

    rows = rows.to(torch.float32)
    masks = [choice.allowed[row] if choice.allowed else None for choice, row in asked]
    if any(mask is not None for mask in masks):
        every = np.ones(vocab_size, np.bool_)
        allowed = torch.from_numpy(np.stack([every if mask is None else mask[:vocab_size] for mask in masks]))
        rows = rows.masked_fill(~allowed.to(device), -math.inf)
    top, first = rows.max(-1)  # of equal ones the first, which PyTorch promises
    sound = top.isfinite()  # a NaN anywhere is the greatest
    if kind == _GREEDY:
        return torch.where(sound, first, -1).tolist()  # type: ignore[no-any-return]
    rows = rows.masked_fill(~sound[:, None], 0)
    # Divided by a tensor: a number of Python's would be turned into a factor on a GPU, which rounds otherwise.
    scores = rows.to(torch.float64).div_(column([choice.temperature for choice, _ in asked]))
    ids = torch.arange(vocab_size, device=device).expand_as(scores)
    if kind != _WHOLE:
        ids = _top(scores, kind)
        scores = scores.gather(-1, ids)
    keys = column([_signed(row_key(choice.seed, choice.positions[row])) for choice, row in asked], torch.int64)
    words = _token_words(vocab_size, device)
    sums = _gumbel(keys, words if kind == _WHOLE else words[ids]).add_(scores)
    if any(choice.min_p > 0 for choice, _ in asked):
        lowest = column([math.log(choice.min_p) if choice.min_p > 0 else -math.inf for choice, _ in asked])
        sums.masked_fill_(scores < scores.amax(-1, keepdim=True) + lowest, -math.inf)
    at, sure = _winners(scores, sums, column([choice.top_p for choice, _ in asked]))
    return torch.where(sound & sure, ids.gather(-1, at)[:, 0], -1).tolist()  # type: ignore[no-any-return]


def _top(scores: Any, k: int) -> Any:
    """The ids of the k highest of each row [n, vocab], ascending [n, k]; of equal ones the lower ids."""
    least = scores.topk(k, -1).values[:, -1:]
    kept, ties = scores > least, scores == least
    kept |= ties & (ties.cumsum(-1) <= k - kept.sum(-1, keepdim=True))
    return kept.nonzero()[:, 1].view(-1, k)


def _winners(scores: Any, sums: Any, top_p: Any) -> tuple[Any, Any]:
    """Where each row's highest sum is that top-p keeps [n, 1], and whether that is sure [n].

    As in `core/choosing.py` nothing is sorted: the winner is kept if the tokens before it have less than p of the mass.
    Else it, and all that come after it, are out, and the winner of the others is looked at.
    scores: [n, m]. sums: of these and noise, [n, m].
    """
    torch = import_module("torch")
    at, sure = _highest(sums)
    left = (top_p[:, 0] < 1).nonzero()[:, 0]
    if not len(left):
        return at, sure
    places = torch.arange(scores.shape[1], device=scores.device)
    scores, sums, top_p = scores[left], sums[left], top_p[left]
    weights = (scores - scores.amax(-1, keepdim=True)).exp_()
    whole = weights.sum(-1, keepdim=True)
    while True:
        own = scores.gather(-1, at[left])
        ahead = (scores > own) | ((scores == own) & (places < at[left]))
        mass = torch.where(ahead, weights, 0).sum(-1, keepdim=True)
        bar = top_p * whole
        sure[left] &= ((mass - bar).abs() > _MASS_DOUBT * whole)[:, 0]
        out = (sure[left] & (mass > bar)[:, 0]).nonzero()[:, 0]
        if not len(out):
            return at, sure
        left, scores, weights, whole, top_p = left[out], scores[out], weights[out], whole[out], top_p[out]
        sums = sums[out].masked_fill_(~ahead[out], -math.inf)
        at[left], sure[left] = _highest(sums)


def _highest(sums: Any) -> tuple[Any, Any]:
    """Where the highest sum of each row [n, m] is [n, 1], and whether it surely is the highest [n]."""
    best, at = sums.max(-1, keepdim=True)
    second = sums.scatter(-1, at, -math.inf).amax(-1, keepdim=True)
    return at, (best.isfinite() & (best - second > _DOUBT + _SHARE * best.abs()))[:, 0]


def _signed(word: int) -> int:
    """The integer of the same 64 bits that PyTorch has."""
    return word - (1 << 64) if word >> 63 else word


def _mixed(z: Any) -> Any:
    """SplitMix64's finaliser, as `core/noise.py` has it, of a tensor that it may overwrite."""
    z ^= _shifted(z, 30)
    z *= _signed(M1)
    z ^= _shifted(z, 27)
    z *= _signed(M2)
    z ^= _shifted(z, 31)
    return z


def _shifted(z: Any, bits: int) -> Any:
    """All to the right, with zeros on the left."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


@lru_cache(maxsize=8)
def _token_words(vocab_size: int, device: Any) -> Any:
    """The part of every row's words that is its tokens', int64 [vocab]."""
    return _mixed(import_module("torch").arange(1, vocab_size + 1, device=device).mul_(_signed(GAMMA)))


def _gumbel(keys: Any, words: Any) -> Any:
    """The noise under `keys` [n, 1] of tokens whose words are [n, m] or [m]. float64 [n, m]."""
    bits = _shifted(_mixed(keys ^ words), 12).bitwise_or_(0x3FF0000000000000)
    return bits.view(import_module("torch").float64).sub_(1.0 - 2.0**-53).log_().neg_().log_().neg_()
