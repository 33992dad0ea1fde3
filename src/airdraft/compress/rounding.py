"""Rounding of weights to codes of few bits in blocks, in formats of GGUF files: Q4_0 and Q8_0, and Q3_K and Q2_K.

What is no GGUF file in the end may have blocks of another length, with a scale each, in formats of our own.

Of Q2_K, whose blocks have a minimum each, one use is made: its four values lie evenly around zero, so that the step
tells the minimum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.models.imports.quants import FORMATS, blocked

Reals = NDArray[np.floating]
BLOCK = 32
"""Weights of a row that share a scale, in the usual formats."""
SUPER = 256
"""Weights of a row whose scales share one, in formats named _K."""
_SHARES = tuple(np.linspace(1.0, 0.5, 11))
"""Shares of a block's largest weight that are tried as its end, where bits are so few that it pays."""
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Width:
    """A number of bits for a weight, and the format that stores it."""

    bits: int
    format: str
    number: int
    """Of the format in GGUF files, or among our own."""
    block: int = BLOCK
    """Weights of a row that share a scale."""
    together: int = BLOCK
    """Weights of a row whose scales are stored together."""
    middle: float = 0.0
    """What a code of 0 stands for, in steps."""

    @property
    def least(self) -> int:
        """The smallest code."""
        return -(1 << self.bits - 1) if self.bits < 8 else -127

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.bits - 1) - 1


WIDTHS = {"W4": Width(4, "Q4_0", 2), "W8": Width(8, "Q8_0", 8)}
FEWEST = {"W3": Width(3, "Q3_K", 11, 16, SUPER), "W2": Width(2, "Q2_K", 10, 16, SUPER, 0.5)}
"""For matrices whose rows are whole supers."""
GROUPS = (16, 32, 64, 128)
"""Lengths of blocks in formats of our own, which the engine has kernels for."""
_FIRST = 1 << 16
_OWN = {
    _FIRST * bits + group: blocked(f"codes of {bits} bits in blocks of {group}", bits, group)
    for bits in (4, 8) for group in GROUPS
}  # fmt: skip
STORED = FORMATS | _OWN
"""Formats by their numbers. Files with our own are taken apart again before anyone else sees them."""


def grouped(width: Width, group: int) -> Width:
    """A width whose blocks are `group` long, one of `GROUPS`."""
    number = _FIRST * (8 if width.bits == 8 else 4) + group
    return replace(width, format=_OWN[number].name, number=number, block=group, together=group)


def steps(weights: Reals, width: Width, clip: float = 1.0) -> Reals:
    """The step between codes for each block, [..., blocks] of weights [..., columns], as it is stored.

    It is the block's largest weight over the code that is farthest from zero. That code is negative, so the step takes
    the sign that puts the largest weight there. With 3 and 2 bits it is the share of that with the smallest squared
    error. clip: a share of the largest weight, beyond which weights are cut off.
    """
    blocks = weights.reshape(*weights.shape[:-1], -1, width.block)
    place = np.abs(blocks).argmax(-1)
    largest = np.take_along_axis(blocks, place[..., None], -1)[..., 0]
    if width.bits == 8 or width.middle:
        largest = -np.abs(largest)
    step = clip * largest / (width.least + width.middle)
    if width.bits > 3:
        return _as_half(step)
    best, smallest = step, np.full(step.shape, np.inf)
    for share in _SHARES:
        tried = (share * step)[..., None]
        wrong = np.square(values(codes(blocks, tried, width), tried, width) - blocks).sum(-1)
        best, smallest = np.where(wrong < smallest, share * step, best), np.minimum(wrong, smallest)
    if width.together != SUPER:
        return _as_half(best)
    number, of_super = _of_super(best, width)
    return (number * of_super[..., None]).reshape(step.shape).astype(weights.dtype)


def _as_half(step: Reals) -> Reals:
    """Steps as half precision stores them."""
    found: Reals = np.clip(step, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16).astype(step.dtype)
    return found


def _of_super(step: Reals, width: Width) -> tuple[Reals, Reals]:
    """Steps [..., blocks] as whole numbers [..., supers, blocks of one], and the steps of these, [..., supers]."""
    together = step.reshape(*step.shape[:-1], -1, width.together // width.block)
    most = 31 if width.bits == 3 else 15
    half = np.clip(np.abs(together).max(-1) / most, 0, _LARGEST_HALF / (1 + width.middle)).astype(np.float16)
    if width.middle:  # three of its halves are a half-precision number as well
        half = (half.view(np.uint16) & np.uint16(0xFFFC)).view(np.float16)
    of_super = half.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        number = np.where(of_super[..., None] == 0, 0.0, np.rint(together / of_super[..., None]))
    return np.clip(number, -most, most).astype(np.float32), of_super


def spread(step: Reals, width: Width) -> Reals:
    """The step of each weight, [..., columns]. step: [..., blocks]."""
    return np.repeat(step, width.block, -1)


def codes(weights: Reals, step: Reals, width: Width) -> NDArray[np.int8]:
    """The nearest code of each weight. step: of each weight, or one for several that broadcasts."""
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.where(step == 0, 0.0, weights / step)
    return np.clip(np.rint(near - width.middle), width.least, width.largest).astype(np.int8)


def values(found: NDArray[np.int8], step: Reals, width: Width) -> Reals:
    """What codes stand for. step: as in `codes`."""
    made: Reals = (found + np.float32(width.middle)) * step
    return made


def rounded(weights: Reals, width: Width, clip: float = 1.0) -> Reals:
    """Weights [..., columns] after rounding to the nearest (RTN)."""
    step = spread(steps(weights, width, clip), width)
    return values(codes(weights, step, width), step, width)


def packed(found: NDArray[np.int8], step: Reals, width: Width) -> NDArray[np.uint8]:
    """Codes and steps of a matrix as they are stored: bytes, [rows, bytes of a row]."""
    rows = len(found)
    if width.number in _OWN:
        return _blocked(found, step, width).reshape(rows, -1)
    if width.together == SUPER:
        return (_q3_k if width.bits == 3 else _q2_k)(found, *_of_super(step, width)).reshape(rows, -1)
    scales = _halves(step)
    body: NDArray[np.uint8] = found.reshape(-1, BLOCK).view(np.uint8)
    if width.bits == 4:
        low, high = (found.reshape(-1, 2, BLOCK // 2) + np.int8(8)).astype(np.uint8).swapaxes(0, 1)
        body = low | high << np.uint8(4)
    return np.concatenate([scales, body], 1).reshape(rows, -1)


def _blocked(found: NDArray[np.int8], step: Reals, width: Width) -> NDArray[np.uint8]:
    form = _OWN[width.number]
    if width.middle:  # no code lies in the middle: in halves of steps, codes are the odd numbers
        found, step = 2 * found + np.int8(1), step / 2
    code = (found.astype(np.int16) + form.zero).astype(np.uint8).reshape(-1, width.block)
    scales = np.ascontiguousarray(step.reshape(-1, 1), "<f4").view(np.uint8)
    return np.concatenate([scales, code if form.bits == 8 else code[:, ::2] | code[:, 1::2] << np.uint8(4)], 1)


def _halves(numbers: Reals) -> NDArray[np.uint8]:
    """Numbers in half precision, [n, 2] bytes."""
    return np.ascontiguousarray(numbers.reshape(-1).astype("<f2")).view(np.uint8).reshape(-1, 2)


def _fields(numbers: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """[n, fields, k] numbers of few bits to [n, k] bytes, the first in the lowest bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    made: NDArray[np.uint8] = np.bitwise_or.reduce(numbers << shifts, 1).astype(np.uint8)
    return made


def _q3_k(found: NDArray[np.int8], number: Reals, of_super: Reals) -> NDArray[np.uint8]:
    code = (found + np.int8(4)).astype(np.uint8).reshape(-1, SUPER)
    high = _fields((code >> 2).reshape(-1, 8, 32), 1)
    low = _fields((code & 3).reshape(-1, 4, 32), 2).reshape(-1, 64)
    six = (number + 32).astype(np.uint8).reshape(-1, 16)
    scales = [_fields((six & 15).reshape(-1, 2, 8), 4), _fields((six >> 4).reshape(-1, 4, 4), 2)]
    return np.concatenate([high, low, *scales, _halves(of_super)], 1)


def _q2_k(found: NDArray[np.int8], number: Reals, of_super: Reals) -> NDArray[np.uint8]:
    code = (found + np.int8(2)).astype(np.uint8).reshape(-1, SUPER)
    low = _fields(code.reshape(-1, 4, 32), 2).reshape(-1, 64)
    four = number.astype(np.uint8).reshape(-1, 16)
    return np.concatenate([four | four << np.uint8(4), low, _halves(of_super), _halves(1.5 * of_super)], 1)
