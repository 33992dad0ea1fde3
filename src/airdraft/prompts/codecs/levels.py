"""Numbers in a few bits: levels of equal steps between the least and the most of a group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.models.base import FloatArray

Halves = NDArray[np.float16]


def quantised(x: FloatArray, bits: int, axis: int) -> tuple[NDArray[np.uint8], Halves, Halves]:
    """Numbers up to 65504 as levels 0 to 2^bits - 1, with the lowest number and the step of each group along `axis`.

    Both are rounded outwards, so that no number of the group lies outside its levels: it differs from its level by
    half a step at most.
    """
    most = (1 << bits) - 1
    low = _half(x.min(axis, keepdims=True), up=False)
    wide = low.astype(np.float32)
    step = _half((x.max(axis, keepdims=True) - wide) / most, up=True)
    levels = np.rint((x - wide) / np.where(step > 0, step, 1).astype(np.float32)).clip(0, most)
    return levels.astype(np.uint8), low, step


def restored(levels: NDArray[np.uint8], low: Halves, step: Halves) -> FloatArray:
    """The numbers that levels stand for."""
    found: FloatArray = low.astype(np.float32) + levels * step.astype(np.float32)
    return found


def packed(levels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Levels of 2 or 4 bits, a multiple of 8 of them, as bytes."""
    each = levels.reshape(-1, 8 // bits) << np.arange(0, 8, bits, dtype=np.uint8)
    found: NDArray[np.uint8] = np.bitwise_or.reduce(each, axis=1)
    return found


def unpacked(data: NDArray[np.uint8], bits: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The reverse of `packed`."""
    each = data[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)
    return (each & np.uint8((1 << bits) - 1)).reshape(shape)


def _half(x: FloatArray, *, up: bool) -> Halves:
    """In half precision, no less than `x` if `up`, else no more."""
    found = x.astype(np.float16)
    wrong = found < x if up else found > x
    beyond: Any = np.float16(np.inf if up else -np.inf)
    return np.where(wrong, np.nextafter(found, beyond), found)
