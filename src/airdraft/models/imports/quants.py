"""The number formats of GGUF tensors, taken apart into codes and scales, or made plain floats.

A quantised row is cut into blocks of 32 or 16 values. Each value is `scale * (code - zero) + minimum`: the code has 4
or 8 bits and `zero` is 8 or 128, scale and minimum belong to the block. Codes are the file's own bits, moved or shifted
by a constant, so nothing is rounded but a product or a sum of two scales. The layouts are those of ggml
(ggml-common.h and ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_SUPER = 256
"""Values that share the scales of the scales, in formats named _K."""
_NONLINEAR = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16
)  # kvalues_iq4nl


@dataclass(frozen=True)
class Codes:
    """Rows of a quantised matrix."""

    codes: Bytes
    """uint8 [rows, columns]."""
    scales: Floats
    """[rows, blocks]."""
    minima: Floats | None
    """[rows, blocks], of codes less their zero; None: all are 0."""


@dataclass(frozen=True)
class Format:
    """How a tensor's numbers are stored."""

    name: str
    values: int
    """Numbers in one piece."""
    size: int
    """Bytes of one piece."""
    floats: Callable[[Bytes], Floats] | None = None
    """Of plain numbers: bytes [rows, any] to floats [rows, columns]."""
    bits: int = 0
    """Of codes: 4 or 8."""
    block: int = 32
    """Values that share a scale."""
    minima: bool = False
    take: Callable[[Bytes], tuple[Any, ...]] | None = None
    """Of codes: pieces [n, size] to codes [n, values], scales [n, blocks] and, maybe, minima [n, blocks]."""

    @property
    def zero(self) -> int:
        """The code of 0."""
        return 1 << self.bits - 1

    @property
    def known(self) -> bool:
        """Whether its numbers can be read here."""
        return self.floats is not None or self.take is not None

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row."""
        return columns // self.values * self.size

    def split(self, raw: Bytes) -> Codes:
        """The codes of rows [rows, row_bytes]. For formats that have codes."""
        if self.take is None:
            raise TypeError(f"{self.name} has no codes")
        rows = len(raw)
        codes, scales, *minima = self.take(raw.reshape(-1, self.size))
        return Codes(
            codes.reshape(rows, -1),
            scales.reshape(rows, -1).astype(np.float32, copy=False),
            minima[0].reshape(rows, -1).astype(np.float32, copy=False) if minima else None,
        )

    def dense(self, raw: Bytes) -> Floats:
        """The numbers of rows [rows, row_bytes], in single precision."""
        if self.floats is not None:
            return self.floats(raw)
        parts = self.split(raw)
        blocks = (*parts.scales.shape, self.block)
        values = parts.codes.reshape(blocks).astype(np.float32) - np.float32(self.zero)
        values *= parts.scales[..., None]
        if parts.minima is not None:
            values += parts.minima[..., None]
        return values.reshape(len(raw), -1)


def blocked(name: str, bits: int, block: int, minima: bool = False) -> Format:
    """Pieces of one block: its scale, its minimum if it has one, and its codes. No GGUF file of others has it."""
    heads = 2 if minima else 1

    def take(p: Bytes) -> tuple[Any, ...]:
        body = p[:, 4 * heads :]
        codes = body if bits == 8 else np.stack([body & 15, body >> 4], -1).reshape(len(p), -1)
        return codes, *np.ascontiguousarray(p[:, : 4 * heads]).view("<f4").reshape(-1, heads, 1).swapaxes(0, 1)

    return Format(name, block, 4 * heads + block * bits // 8, bits=bits, block=block, minima=minima, take=take)


def _half(raw: Bytes) -> Floats:
    """Half-precision numbers, two bytes each, along the last axis."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """[n, k] bytes to [n, 2, k]: all lower halves, then all upper ones."""
    return np.stack([raw & 15, raw >> 4], 1)


def _bits(raw: Bytes, width: int) -> Bytes:
    """[n, k] bytes to [n, 8 / width, k]: fields of `width` bits, the lowest first."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    found: Bytes = raw[:, None] >> shifts & np.uint8((1 << width) - 1)
    return found


def _q4_0(p: Bytes) -> tuple[Any, ...]:
    return _nibbles(p[:, 2:]), _half(p[:, :2])


def _q4_1(p: Bytes) -> tuple[Any, ...]:
    scale = _half(p[:, :2])
    return _nibbles(p[:, 4:]), scale, _half(p[:, 2:4]) + 8 * scale


def _fifth(p: Bytes, at: int) -> Bytes:
    """Codes of five bits: a fifth bit each in 4 bytes, the other four after them."""
    high = np.unpackbits(p[:, at : at + 4], axis=1, bitorder="little")
    return _nibbles(p[:, at + 4 :]).reshape(-1, 32) | high << np.uint8(4)


def _q5_0(p: Bytes) -> tuple[Any, ...]:
    return _fifth(p, 2) + np.uint8(112), _half(p[:, :2])


def _q5_1(p: Bytes) -> tuple[Any, ...]:
    return _fifth(p, 4) | np.uint8(128), _half(p[:, :2]), _half(p[:, 2:4])


def _q8_0(p: Bytes) -> tuple[Any, ...]:
    return p[:, 2:] ^ np.uint8(128), _half(p[:, :2])


def _q2_k(p: Bytes) -> tuple[Any, ...]:
    scales, least = (p[:, :16] & 15) * _half(p[:, 80:82]), (p[:, :16] >> 4) * _half(p[:, 82:84])
    codes = _bits(p[:, 16:80].reshape(-1, 32), 2)
    return codes | np.uint8(8), scales, -least


def _q3_k(p: Bytes) -> tuple[Any, ...]:
    low = _bits(p[:, 32:96].reshape(-1, 32), 2).reshape(-1, _SUPER)
    high = _bits(p[:, :32], 1).reshape(-1, _SUPER)
    packed = p[:, 96:108]
    # Sixteen scales of six bits: four bits each in the first eight bytes, two in the last four.
    six = _nibbles(packed[:, :8]).reshape(-1, 16) | _bits(packed[:, 8:], 2).reshape(-1, 16) << 4
    return (low | high << 2) + np.uint8(4), (six.astype(np.float32) - 32) * _half(p[:, 108:])


def _six_bits(p: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of six bits in twelve bytes."""
    first, second, rest = p[:, :4], p[:, 4:8], p[:, 8:]
    scales = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], 1)
    return scales, np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], 1)


def _q4_k(p: Bytes) -> tuple[Any, ...]:
    scales, least = _six_bits(p[:, 4:16])
    scales_f, least_f = scales * _half(p[:, :2]), least * _half(p[:, 2:4])
    return _nibbles(p[:, 16:].reshape(-1, 32)), scales_f, 8 * scales_f - least_f


def _q5_k(p: Bytes) -> tuple[Any, ...]:
    scales, least = _six_bits(p[:, 4:16])
    high = _bits(p[:, 16:48], 1).reshape(-1, _SUPER)
    low = _nibbles(p[:, 48:].reshape(-1, 32)).reshape(-1, _SUPER)
    return low | high << 4 | np.uint8(128), scales * _half(p[:, :2]), -(least * _half(p[:, 2:4]))


def _q6_k(p: Bytes) -> tuple[Any, ...]:
    low = _nibbles(p[:, :128].reshape(-1, 64)).reshape(-1, _SUPER)
    high = _bits(p[:, 128:192].reshape(-1, 32), 2).reshape(-1, _SUPER)
    return (low | high << 4) + np.uint8(96), p[:, 192:208].view(np.int8) * _half(p[:, 208:])


def _nonlinear(nibbles: Bytes) -> Bytes:
    return (_NONLINEAR + 128).astype(np.uint8)[nibbles]


def _iq4_nl(p: Bytes) -> tuple[Any, ...]:
    return _nonlinear(_nibbles(p[:, 2:])), _half(p[:, :2])


def _iq4_xs(p: Bytes) -> tuple[Any, ...]:
    # Four bits of each scale lie in bytes of two, in order; two more bits of each in the two bytes before.
    low = np.stack([p[:, 4:8] & 15, p[:, 4:8] >> 4], 2).reshape(-1, 8)
    high = np.ascontiguousarray(np.swapaxes(_bits(p[:, 2:4], 2), 1, 2)).reshape(-1, 8)
    scales = (low | high << 4).astype(np.float32) - 32
    return _nonlinear(_nibbles(p[:, 8:].reshape(-1, 16))), scales * _half(p[:, :2])


def _bf16(raw: Bytes) -> Floats:
    return (np.ascontiguousarray(raw).view("<u2").astype(np.uint32) << 16).view(np.float32)


def _f32(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view("<f4").astype(np.float32, copy=False)


FORMATS: dict[int, Format] = {
    0: Format("F32", 1, 4, _f32),
    1: Format("F16", 1, 2, _half),
    2: Format("Q4_0", 32, 18, bits=4, take=_q4_0),
    3: Format("Q4_1", 32, 20, bits=4, minima=True, take=_q4_1),
    6: Format("Q5_0", 32, 22, bits=8, take=_q5_0),
    7: Format("Q5_1", 32, 24, bits=8, minima=True, take=_q5_1),
    8: Format("Q8_0", 32, 34, bits=8, take=_q8_0),
    10: Format("Q2_K", _SUPER, 84, bits=4, block=16, minima=True, take=_q2_k),
    11: Format("Q3_K", _SUPER, 110, bits=4, block=16, take=_q3_k),
    12: Format("Q4_K", _SUPER, 144, bits=4, minima=True, take=_q4_k),
    13: Format("Q5_K", _SUPER, 176, bits=8, minima=True, take=_q5_k),
    14: Format("Q6_K", _SUPER, 210, bits=8, block=16, take=_q6_k),
    20: Format("IQ4_NL", 32, 18, bits=8, take=_iq4_nl),
    23: Format("IQ4_XS", _SUPER, 136, bits=8, take=_iq4_xs),
    30: Format("BF16", 1, 2, _bf16),
}
"""By ggml's number."""
OTHERS = {
    number: Format(name, values, size)
    for number, name, values, size in (
        (9, "Q8_1", 32, 36), (15, "Q8_K", 256, 292), (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98), (19, "IQ1_S", 256, 50), (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82),
        (24, "I8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4), (27, "I64", 1, 8), (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56), (34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66), (39, "MXFP4", 32, 17),
    )
}  # fmt: skip
"""Formats that are not taken apart here: of them, a file's header can be checked."""
