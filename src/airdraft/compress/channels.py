"""Matrices in whole numbers: rows rounded, channels split, clipped and made up for, as MergeQuant does.

MergeQuant (arXiv 2503.07654) names four parts beside the fold: reconstruction of the dimension, adaptive clipping, rows
of 4 bits, and compensation of a low rank. Its equations could not be had, so each is reconstructed from the abstract:

- A channel whose column is large after the fold, which is step times weight, is split: its code stands there several
  times, and its weights are whole numbers shared out among the copies. Theirs keeps the dimension, merging or dropping
  as many; here it grows, since dropping cost more than splitting gained where it was measured.
- The step of each channel is a share of the largest activation's, the one with the smallest error. With fewer bits than
  8 channels are shifted first, as in OutlierTune by the same first author: without, splitting gained less than that.
- Rows are rounded by GPTQ, with a step and a window of codes for each row.
- What is left of the error is projected to a low rank, and added in floats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from airdraft.compress.gptq import column_by_column
from airdraft.compress.rounding import Reals

SHARES = tuple(np.linspace(1.0, 0.5, 11))
"""Shares of the largest value that are tried as the end of a range."""
GROWTH = 0.05
"""Channels that are added, at most, as a share of all."""
RANK = 1 / 32
"""Of the compensation, as a share of the channels."""
SYMMETRIC = 127
"""From so many levels on, windows of codes lie around zero, as kernels for 8 bits take them."""
Parts = NDArray[np.int64]


def layer_error(wrong: Reals, gram: Reals) -> float:
    """The squared error of what a matrix computes. wrong: what its weights are off by, [rows, channels]."""
    return float(((wrong @ gram) * wrong).sum())


def activation_codes(x: Reals, levels: int) -> Reals:
    """Activations in steps, as codes: the nearest from -levels - 1 to levels, the range that vLLM has as well."""
    found: Reals = np.clip(np.rint(x), -levels - 1, levels)
    return found


def clipped(step: Reals, sample: Reals, levels: int) -> Reals:
    """The step of each channel's codes, made smaller where that lowers the squared error of `sample`.

    step: that of the largest activation, [channels]. sample: activations, [positions, channels].
    """
    best, least = step, np.full(len(step), np.inf)
    for share in SHARES:
        tried = step * np.float32(share)
        wrong = np.square(activation_codes(sample / tried, levels) * tried - sample).sum(0)
        best, least = np.where(wrong < least, tried, best), np.minimum(wrong, least)
    return best


def clipped_share(sample: Reals, levels: int) -> float:
    """The share of each token's largest activation at which codes end, with the smallest squared error of `sample`."""
    largest = np.abs(sample).max(-1, keepdims=True)
    step = np.where(largest == 0, 1, largest) / levels

    def wrong(share: float) -> float:
        tried = step * share
        return float(np.square(activation_codes(sample / tried, levels) * tried - sample).sum())

    return float(min(SHARES, key=wrong))


def even_parts(size: Reals) -> Parts:
    """Into how many parts each of [channels] is cut, so that the largest part is as small as `GROWTH` allows."""
    room = int(GROWTH * len(size))
    every = (np.maximum(np.ceil(size / most), 1).astype(np.int64) for most in np.sort(size[size > 0]))
    return next((parts for parts in every if (parts - 1).sum() <= room), np.ones(len(size), np.int64))


def parts_of(weights: Reals) -> Parts:
    """Into how many parts each channel is split, [channels], the largest columns first.

    weights: after the fold, [rows, channels].
    """
    rows = np.sqrt(np.square(weights).mean(1, keepdims=True))
    return even_parts((np.abs(weights) / np.where(rows == 0, 1, rows)).max(0))


def split_rows(weights: Reals, gram: Reals, levels: int) -> tuple[Reals, Reals, Parts | None]:
    """Rows rounded with channels split, or without where that is better.

    Returns: as `rounded_rows`, and the parts. The error of the layer is never larger than without.
    """
    plain = rounded_rows(weights, gram, levels)
    parts = parts_of(weights)
    cut = rounded_rows(weights, gram, levels, parts)
    plain_error, cut_error = (layer_error(codes * step - weights, gram) for codes, step in (plain, cut))
    return (*cut, parts) if cut_error < plain_error else (*plain, None)


def rounded_rows(weights: Reals, gram: Reals, levels: int, parts: Parts | None = None) -> tuple[Reals, Reals]:
    """GPTQ with a step for each row. Returns: codes, [rows, channels], and steps, [rows, 1].

    A row's codes lie in a window of 2 · levels + 2 of them that holds 0, and so around it with 8 bits. Of a channel in
    n parts the code is the sum of n codes.
    """
    parts = np.ones(weights.shape[1], np.int64) if parts is None else parts
    each = weights / parts
    least, most = np.minimum(each.min(1, keepdims=True), 0), np.maximum(each.max(1, keepdims=True), 0)
    if levels >= SYMMETRIC:
        most = np.maximum(most, -least)
        whole, low = most / levels, np.full(most.shape, -levels)
        width = 2 * levels
    else:
        width = 2 * levels + 1
        whole = (most - least) / width
        low = -np.rint(-least / np.where(whole == 0, 1, whole))
    whole = np.where(whole == 0, 1, whole)
    step, smallest = whole, np.full(whole.shape, np.inf)
    matters = np.diag(gram)
    for share in SHARES:
        tried = whole * share
        codes = np.clip(np.rint(weights / tried), low * parts, (low + width) * parts)
        wrong = (np.square(codes * tried - weights) * matters).sum(1, keepdims=True)
        step, smallest = np.where(wrong < smallest, tried, step), np.minimum(wrong, smallest)
    step = step.astype(np.float32)

    def choose(at: int, left: Reals) -> tuple[Reals, Reals]:
        codes = np.clip(np.rint(left[:, :1] / step), low * parts[at], (low + width) * parts[at])
        return codes[:, 0], codes[:, 0] * step[:, 0]

    return column_by_column(weights, gram, choose), step


def shared_out(codes: Reals, parts: Parts) -> Reals:
    """Codes of channels in parts, [rows, channels], as codes of each part, [rows, Σ parts]: whole, and nearly alike."""
    take = np.repeat(np.arange(len(parts)), parts)
    number = np.arange(len(take)) - np.repeat(np.cumsum(parts) - parts, parts)
    found: Reals = (codes[:, take] + number) // parts[take]
    return found


def compensation(wrong: Reals, gram: Reals) -> tuple[Reals, Reals]:
    """The matrices [rows, rank] and [rank, channels] whose product takes away the most of the error of a layer.

    wrong: what its weights lack, [rows, channels].
    """
    channels = len(gram)
    rank = max(1, int(RANK * channels))
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    root = np.sqrt(np.maximum(values, 1e-9 * max(float(values[-1]), 1e-30)))
    left, sizes, right = np.linalg.svd(wrong @ (vectors * root), full_matrices=False)
    up, down = left[:, :rank] * sizes[:rank], (right[:rank] / root) @ vectors.T
    return up.astype(np.float32), down.astype(np.float32)
