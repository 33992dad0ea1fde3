"""Tokens chosen by PyTorch, on whatever device the rows lie: those that `core/choosing.py` chooses, or none.

So are drafts that are accepted by their probability (`core/schemes/rejection.py`), and log-probabilities.

All is as there, in double precision, and most of it to the bit: words of noise are integers, quotients and comparisons
are rounded in one way only. Logarithms, exponentials and sums are not, so two sums of score and noise, or a mass and
top-p, may be too close to tell which is greater. Then the row itself is given, and whoever asked for the token decides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from airdraft.core.noise import GAMMA, M1, M2, row_key
from airdraft.models.base import Choice, Chosen, FloatArray, Part, TokenLogprob

_DOUBT, _SHARE = 1e-12, 2.0**-50
"""Two sums are as good as equal if they are closer than this, and this share of them. A logarithm that is wrong by 8
units in the last place moves noise, which is at most 37, by 1.2e-13; a sum is rounded by 2^-53 of itself."""
_MASS_DOUBT = 1e-9
"""The same for masses, as shares of the whole: 1e6 weights added one after the other are wrong by 1e-10."""
_LOG_DOUBT = 1e-12
"""The same for log-probabilities, as shares of them: both sides add up in blocks, no number goes through more than a
thousand additions."""
_PIECE = 1 << 22
"""Numbers in a tensor of rows, at most; those of a call are gone through piece by piece, so that memory lasts."""


def rows_of(parts: Sequence[Part], scored: Sequence[Any]) -> list[FloatArray]:
    """The rows of all parts, each [rows, vocab], for NumPy."""
    return [each.to("cpu", import_module("torch").float32, copy=True).numpy() for each in scored]


def chosen(parts: Sequence[Part], scored: Sequence[Any]) -> list[Chosen | FloatArray]:
    """What each part asks for, its tokens or its rows, given the rows where they lie, each [rows, vocab]."""
    found: list[Chosen | FloatArray] = [[] for _ in parts]
    groups: dict[tuple[int, int, bool, tuple[int, float] | None], list[int]] = {}
    for i, part in enumerate(parts):
        if (choice := part.choice) is None:
            found[i] = rows_of([part], [scored[i]])[0]
        else:
            group = choice.vocab_size, _kind(choice), bool(choice.bars), choice.logprobs
            groups.setdefault(group, []).append(i)
    for (vocab_size, kind, barred, logprobs), members in groups.items():
        rows = import_module("torch").cat([scored[i][:, :vocab_size] for i in members])
        asked = [(choice, row) for i in members if (choice := parts[i].choice) for row in range(len(choice.positions))]
        answers, step = list[int | TokenLogprob](), max(1, _PIECE // vocab_size)
        for at in range(0, len(asked), step):
            piece, of = rows[at : at + step].to(import_module("torch").float32), asked[at : at + step]
            tokens: list[int] = (_passed if barred else _tokens)(piece, kind, of)
            answers += tokens if logprobs is None else _told(piece, tokens, *logprobs)
        ends = list(itertools.accumulate(parts[i].rows for i in members))
        for start, end in zip([0, *ends], ends, strict=False):
            answers[start:end] = _until_rejected(answers[start:end])
        lacking = [at for at, each in enumerate(answers) if each in (_DOUBTED, _REJECTED)]
        given = dict(zip(lacking, rows_of([], [rows[lacking]])[0] if lacking else (), strict=True))
        for i, end in zip(members, ends, strict=True):
            found[i] = [given.get(at, answers[at]) for at in range(end - parts[i].rows, end)]
    return found


def _until_rejected(answers: list[int | TokenLogprob]) -> list[int | TokenLogprob]:
    """Those of a part. Behind the first draft that is surely rejected nobody looks."""
    end = next((at for at, each in enumerate(answers, 1) if each == _REJECTED), len(answers))
    return answers[:end] + [0] * (len(answers) - end)


_GREEDY, _WHOLE = -1, 0
_DOUBTED, _REJECTED = -1, -2
"""Instead of a token: rounding might decide, or a draft does not exceed its bar."""


def _kind(choice: Choice) -> int:
    """What is done alike with all rows of a group: `_GREEDY`, `_WHOLE`, or the number of tokens that top-k keeps."""
    if choice.temperature == 0:
        return _GREEDY
    return choice.top_k if choice.top_k < choice.vocab_size else _WHOLE


def _column(rows: Any, values: Sequence[float], dtype: Any = None) -> Any:
    """A number for each row, [n, 1]."""
    torch = import_module("torch")
    return torch.tensor(values, dtype=dtype or torch.float64, device=rows.device)[:, None]


def _masked(rows: Any, asked: Sequence[tuple[Choice, int]]) -> Any:
    """Rows [n, vocab] without what is not allowed."""
    torch, vocab_size = import_module("torch"), rows.shape[1]
    masks = [choice.allowed[row] if choice.allowed else None for choice, row in asked]
    if all(mask is None for mask in masks):
        return rows
    every = np.ones(vocab_size, np.bool_)
    allowed = torch.from_numpy(np.stack([every if mask is None else mask[:vocab_size] for mask in masks]))
    return rows.masked_fill(~allowed.to(rows.device), -math.inf)


def _scores(rows: Any, kind: int, asked: Sequence[tuple[Choice, int]]) -> tuple[Any, Any, Any]:
    """The scores that top-k keeps of rows [n, vocab], float64 [n, m], their tokens [n, m], and whether rows are sound
    [n]."""
    torch = import_module("torch")
    sound = rows.amax(-1).isfinite()  # a NaN anywhere is the greatest
    rows = rows.masked_fill(~sound[:, None], 0)
    # Divided by a tensor: a number of Python's would be turned into a factor on a GPU, which rounds otherwise.
    scores = rows.to(torch.float64).div_(_column(rows, [choice.temperature for choice, _ in asked]))
    if kind == _WHOLE:
        return scores, torch.arange(rows.shape[1], device=rows.device).expand_as(scores), sound
    ids = _top(scores, kind)
    return scores.gather(-1, ids), ids, sound


def _tokens(rows: Any, kind: int, asked: Sequence[tuple[Choice, int]]) -> list[int]:
    """The token of each row [n, vocab], by a choice and the row's number in it; `_DOUBTED` where there is doubt."""
    torch, rows = import_module("torch"), _masked(rows, asked)
    if kind == _GREEDY:
        top, first = rows.max(-1)  # of equal ones the first, which PyTorch promises
        return torch.where(top.isfinite(), first, _DOUBTED).tolist()  # type: ignore[no-any-return]
    scores, ids, sound = _scores(rows, kind, asked)
    keys = _column(rows, [_signed(row_key(choice.seed, choice.positions[row])) for choice, row in asked], torch.int64)
    words = _token_words(rows.shape[1], rows.device)
    sums = _gumbel(keys, words if kind == _WHOLE else words[ids]).add_(scores)
    if any(choice.min_p > 0 for choice, _ in asked):
        sums.masked_fill_(scores < _least(scores, asked), -math.inf)
    at, sure = _winners(scores, sums, _column(rows, [choice.top_p for choice, _ in asked]))
    return torch.where(sound & sure, ids.gather(-1, at)[:, 0], _DOUBTED).tolist()  # type: ignore[no-any-return]


def _least(scores: Any, asked: Sequence[tuple[Choice, int]]) -> Any:
    """The lowest score that min-p keeps of each row, [n, 1]."""
    return scores.amax(-1, keepdim=True) + _column(
        scores, [math.log(choice.min_p) if choice.min_p > 0 else -math.inf for choice, _ in asked]
    )


def _passed(rows: Any, kind: int, asked: Sequence[tuple[Choice, int]]) -> list[int]:
    """The token of each row [n, vocab] whose probability exceeds its bar, `_REJECTED` where it does not, `_DOUBTED`."""
    torch, rows = import_module("torch"), _masked(rows, asked)
    drafts = _column(rows, [choice.bars[row][0] for choice, row in asked], torch.int64)
    bars = _column(rows, [choice.bars[row][1] for choice, row in asked])[:, 0]
    if kind == _GREEDY:
        top, first = rows.max(-1)
        chance, sure = (first == drafts[:, 0]).to(torch.float64), top.isfinite()
    else:
        scores, ids, sure = _scores(rows, kind, asked)
        weights = (scores - scores.amax(-1, keepdim=True)).exp_()
        kept, clear = _nucleus(scores, weights, _column(rows, [choice.top_p for choice, _ in asked]))
        weights *= kept & (scores >= _least(scores, asked))
        chance = (weights * (ids == drafts)).sum(-1) / weights.sum(-1)
        # A chance that is nearly nothing is no share of what rounding leaves of it.
        sure &= clear & ((chance - bars).abs() > _MASS_DOUBT * chance.clamp(min=_MASS_DOUBT))
    answers = torch.where(chance > bars, drafts[:, 0], _REJECTED)
    return torch.where(sure, answers, _DOUBTED).tolist()  # type: ignore[no-any-return]


def _nucleus(scores: Any, weights: Any, top_p: Any) -> tuple[Any, Any]:
    """Which scores of each row [n, m] top-p keeps, and whether that is sure [n]."""
    torch = import_module("torch")
    kept = torch.ones_like(scores, dtype=torch.bool)
    clear = kept[:, 0].clone()
    at = (top_p[:, 0] < 1).nonzero()[:, 0]
    if len(at):
        order = scores[at].argsort(dim=-1, descending=True, stable=True)  # of equal ones the lower tokens first
        each = weights[at].gather(-1, order)
        sums = each.cumsum(-1)
        before, whole = sums - each, sums[:, -1:]
        bar = top_p[at] * whole
        kept[at] = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, before < bar)
        clear[at] = ((before - bar).abs() > _MASS_DOUBT * whole).all(-1)
    return kept, clear


def _told(rows: Any, tokens: Sequence[int], most: int, lowest: float) -> list[int | TokenLogprob]:
    """Tokens with log-probabilities, as `core/logprobs.py` computes them from rows [n, vocab]; `_DOUBTED` where
    rounding might change a bit, or what is no token as it is.

    A value is minus a sum of two numbers that are not negative, so it is wrong by as small a share as they are.
    """
    torch, answers = import_module("torch"), list[int | TokenLogprob](tokens)
    at = [i for i, token in enumerate(tokens) if token >= 0]
    if not at:
        return answers
    top, first = (rows := rows[at]).max(-1, keepdim=True)
    sure = top.isfinite()[:, 0]
    logs = rows.masked_fill(~sure[:, None], 0).to(torch.float64)
    logs -= logs.gather(-1, first)
    logs -= logs.exp().scatter_(-1, first, 0).sum(-1, keepdim=True).log1p_()
    low, values, high = (
        (share * logs).clamp(lowest, 0).to(torch.float32) for share in (1 + _LOG_DOUBT, 1, 1 - _LOG_DOUBT)
    )
    ids = _column(rows, [tokens[i] for i in at], torch.int64)
    if most := min(most, rows.shape[1]):
        least = values.topk(most, -1).values[:, -1:]
        likely = _top(values, most)
        likely = likely.gather(-1, values.gather(-1, likely).argsort(dim=-1, descending=True, stable=True))
        sure &= (((high >= least) == (values >= least)) & ((high > least) == (values > least))).all(-1)
        ids = torch.cat([ids, likely], -1)
    sure &= (low.gather(-1, ids) == high.gather(-1, ids)).all(-1)
    told = zip(at, sure.tolist(), ids.tolist(), values.gather(-1, ids).tolist(), strict=True)
    for i, is_sure, (token, *likely), (own, *others) in told:
        answers[i] = TokenLogprob(token, own, tuple(zip(likely, others, strict=True))) if is_sure else _DOUBTED
    return answers


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
