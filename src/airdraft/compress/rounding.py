"""Rounding of weights to codes of few bits in blocks of 32, in the formats Q4_0 and Q8_0 of GGUF files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating]
BLOCK = 32
"""Weights of a row that share a scale, in the usual formats."""
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Width:
    """A number of bits for a weight, and the format that stores it."""

    bits: int
    format: str
    number: int
    """Of the format in GGUF files."""
    block: int = BLOCK
    """Weights of a row that share a scale."""

    @property
    def least(self) -> int:
        """The smallest code."""
        return -(1 << self.bits - 1) if self.bits < 8 else -127

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.bits - 1) - 1


WIDTHS = {"W4": Width(4, "Q4_0", 2), "W8": Width(8, "Q8_0", 8)}


def steps(weights: Reals, width: Width, clip: float = 1.0) -> Reals:
    """The step between codes for each block, [..., blocks] of weights [..., columns], as it is stored.

    It is the block's largest weight over the code that is farthest from zero. That code is negative, so the step takes
    the sign that puts the largest weight there. clip: a share of the largest weight, beyond which weights are cut off.
    """
    blocks = weights.reshape(*weights.shape[:-1], -1, BLOCK)
    place = np.abs(blocks).argmax(-1)
    largest = np.take_along_axis(blocks, place[..., None], -1)[..., 0]
    if width.bits == 8:
        largest = -np.abs(largest)
    step = np.clip(clip * largest / width.least, -_LARGEST_HALF, _LARGEST_HALF)
    found: Reals = step.astype(np.float16).astype(weights.dtype)
    return found


def spread(step: Reals) -> Reals:
    """The step of each weight, [..., columns]. step: [..., blocks]."""
    return np.repeat(step, BLOCK, -1)


def codes(weights: Reals, step: Reals, width: Width) -> NDArray[np.int8]:
    """The nearest code of each weight. step: of each weight, or one for several that broadcasts."""
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.where(step == 0, 0.0, weights / step)
    return np.clip(np.rint(near), width.least, width.largest).astype(np.int8)


def rounded(weights: Reals, width: Width, clip: float = 1.0) -> Reals:
    """Weights [..., columns] after rounding to the nearest (RTN)."""
    step = spread(steps(weights, width, clip))
    found: Reals = codes(weights, step, width) * step
    return found


def packed(found: NDArray[np.int8], step: Reals, width: Width) -> NDArray[np.uint8]:
    """Codes and steps of a matrix as a GGUF file stores them: bytes, [rows, bytes of a row]."""
    rows = len(found)
    scales = np.ascontiguousarray(step.reshape(-1).astype("<f2")).view(np.uint8).reshape(-1, 2)
    body: NDArray[np.uint8] = found.reshape(-1, BLOCK).view(np.uint8)
    if width.bits == 4:
        low, high = (found.reshape(-1, 2, BLOCK // 2) + np.int8(8)).astype(np.uint8).swapaxes(0, 1)
        body = low | high << np.uint8(4)
    return np.concatenate([scales, body], 1).reshape(rows, -1)
