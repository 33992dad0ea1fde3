"""Bit-packed integers of any width, and distributions rounded to integers.

A device rounds a distribution to integers, samples from those and sends them. So decode(encode(x)) == x to the bit,
and rounding cannot bias the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from airdraft.core.noise import FloatArray, IntArray
from airdraft.errors import Code, RemoteProtocolError


def id_width(vocab_size: int) -> int:
    """Number of bits that hold any token id."""
    return max(1, (vocab_size - 1).bit_length())


class BitWriter:
    """Packs runs of integers, most significant bit first; the last byte is padded with zeros."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint8]] = []

    def write(self, values: np.ndarray | Sequence[int], width: int) -> None:
        """Append `values`, whole numbers with 0 <= value < 2**width and width <= 32."""
        octets = np.asarray(values, dtype=">u4").reshape(-1, 1).view(np.uint8)
        self._runs.append(np.unpackbits(octets, axis=1)[:, 32 - width :].reshape(-1))

    def bytes(self) -> bytes:
        """Return everything written so far."""
        return np.packbits(np.concatenate(self._runs)).tobytes() if self._runs else b""


class BitReader:
    """Reads what a `BitWriter` packed. A body that is too short or too long is the peer's fault."""

    def __init__(self, data: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self._at = 0

    def read(self, count: int, width: int) -> IntArray:
        """Read the next `count` integers of `width` bits. int64 [count]."""
        end = self._at + count * width
        if end > self._bits.size:
            raise RemoteProtocolError(
                Code.GARBAGE, f"a body ends after {self._bits.size} bits where {end} were announced"
            )
        wide = np.zeros((count, 32), np.uint8)
        wide[:, 32 - width :] = self._bits[self._at : end].reshape(count, width)
        self._at = end
        return np.packbits(wide, axis=1).reshape(-1).view(">u4").astype(np.int64)

    def finish(self) -> None:
        """Check that only padding is left."""
        left = self._bits[self._at :]
        if left.size >= 8 or left.any():
            raise RemoteProtocolError(Code.GARBAGE, f"a body has {left.size} bits more than were announced")


def lattice(probs: FloatArray, total: int) -> IntArray:
    """Round a distribution to integers that sum to `total`, by largest remainder, ties to the lower index.

    Args: probs: float64 [m], summing to 1.
    Returns: int64 [m], non-negative. The nearest lattice point in L1 (QS: quantise-and-sample).
    """
    exact = probs * total
    counts = np.floor(exact).astype(np.int64)
    short = total - int(counts.sum())
    if short > 0:
        counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    elif short < 0:  # rounding of probs * total alone pushed the floors past the total
        counts[int(np.argmax(counts))] += short
    return counts
