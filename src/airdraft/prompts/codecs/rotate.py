"""Few bits a number after a rotation, after RotateKV (arXiv 2501.16383): a Hadamard matrix spreads what sticks out.

The mean of each channel is taken out, and the channels of all heads are dealt to groups by their size, so that each
group gets its share of the large ones. A Hadamard matrix turns each group: what one channel had too much of, all have a
little of. Then each position of a group has a scale. The position that lies farthest from the others is written in half
precision: in a prompt's first block this is the sink, to which all later tokens attend. RotateKV turns keys before the
position is turned into them; a cache holds them after that, so here they are turned as they are, and the means take
care of channels that turn slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.models.base import FloatArray
from airdraft.prompts.codecs.base import Field, Lossy, of_rows, places, rows_of
from airdraft.prompts.codecs.levels import packed, quantised, restored, unpacked

MOST = 64
"""Channels of a group."""


@dataclass(frozen=True)
class Rotated(Lossy):
    """Levels of `bits` bits."""

    bits: int

    @property
    def name(self) -> str:
        """See `Codec.name`."""
        return f"rotate{self.bits}"

    def fields(self, shape: tuple[int, int, int], keys: bool) -> Sequence[Field]:
        """See `Lossy.fields`."""
        heads, positions, width = shape
        channels = heads * width
        scales = positions, channels // group(channels), 1
        return [
            ("<f2", (channels,)), (places(channels), (channels,)),
            ("u1", (positions * channels * self.bits // 8,)), ("<f2", scales), ("<f2", scales),
            (places(positions), ()), ("<f2", (channels,)),
        ]  # fmt: skip

    def encoded(self, x: FloatArray, keys: bool) -> Sequence[NDArray[Any]]:
        """See `Lossy.encoded`."""
        rows = rows_of(x)
        apart = np.square(rows - np.median(rows, axis=0)).sum(axis=1)
        sink = int(apart.argmax())
        others = np.delete(rows, sink, axis=0) if len(rows) > 1 else rows
        mean = others.mean(axis=0).astype(np.float16)
        order = dealt(others - mean)
        levels, low, step = quantised(turned((rows - mean)[:, order]), self.bits, 2)
        return [mean, order, packed(levels, self.bits), low, step, np.array(sink), rows[sink]]

    def decoded(self, arrays: Sequence[NDArray[Any]], shape: tuple[int, int, int], keys: bool) -> FloatArray:
        """See `Lossy.decoded`."""
        mean, order, levels, low, step, sink, row = arrays
        heads, positions, width = shape
        channels = heads * width
        if not np.array_equal(np.sort(order), np.arange(channels)) or sink >= positions:
            raise ValueError("its channels or positions are not those of a block")
        grouped = unpacked(levels, self.bits, (positions, channels // group(channels), group(channels)))
        rows = np.empty((positions, channels), np.float32)
        rows[:, order] = turned(restored(grouped, low, step).reshape(positions, channels)).reshape(positions, channels)
        rows += mean
        rows[int(sink)] = row
        return of_rows(rows, shape)


def group(channels: int) -> int:
    """Channels that are turned together: a power of two, of which there are Hadamard matrices of any size."""
    return min(channels & -channels, MOST)


def turned(rows: FloatArray) -> FloatArray:
    """Rows [n, channels], turned group by group: [n, groups, group]. The same turn leads back."""
    size = group(rows.shape[1])
    found: FloatArray = rows.reshape(len(rows), -1, size) @ _turn(size)
    return found


@cache
def _turn(size: int) -> FloatArray:
    from scipy.linalg import hadamard  # noqa: PLC0415  it takes as long to import as all the rest of a command

    found: FloatArray = (hadamard(size) / math.sqrt(size)).astype(np.float32)
    return found


def dealt(rows: FloatArray) -> NDArray[np.intp]:
    """The order of channels in which each group has its share of the large ones."""
    channels = rows.shape[1]
    by_size = np.argsort(-np.abs(rows).max(axis=0), kind="stable")
    return by_size.reshape(group(channels), -1).T.ravel()
