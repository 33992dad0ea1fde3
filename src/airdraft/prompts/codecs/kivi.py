"""Few bits a number after KIVI (arXiv 2402.02750): keys by channels, values by tokens.

Some channels of keys are large at all positions, so each channel of a block has a scale of its own; values have no
such channels, so each position of a head has one. KIVI takes groups of 32 numbers and keeps the last tokens whole; here
a group is a block's channel or a position's head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from airdraft.models.base import FloatArray
from airdraft.prompts.codecs.base import Field, Lossy
from airdraft.prompts.codecs.levels import packed, quantised, restored, unpacked


@dataclass(frozen=True)
class Kivi(Lossy):
    """Levels of `bits` bits."""

    bits: int

    @property
    def name(self) -> str:
        """See `Codec.name`."""
        return f"kivi{self.bits}"

    def fields(self, shape: tuple[int, int, int], keys: bool) -> Sequence[Field]:
        """See `Lossy.fields`."""
        heads, positions, width = shape
        groups = (heads, 1, width) if keys else (heads, positions, 1)
        return [("u1", (math.prod(shape) * self.bits // 8,)), ("<f2", groups), ("<f2", groups)]

    def encoded(self, x: FloatArray, keys: bool) -> Sequence[NDArray[Any]]:
        """See `Lossy.encoded`."""
        levels, low, step = quantised(x, self.bits, 1 if keys else 2)
        return [packed(levels, self.bits), low, step]

    def decoded(self, arrays: Sequence[NDArray[Any]], shape: tuple[int, int, int], keys: bool) -> FloatArray:
        """See `Lossy.decoded`."""
        levels, low, step = arrays
        return restored(unpacked(levels, self.bits, shape), low, step)
