"""Codecs that lose nothing: numbers as they are, and with the byte of their exponents in fewer bits."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.models.base import Tensors
from airdraft.prompts.codecs.base import check_size


class Exact:
    """Writes numbers as they are, in the type of the engine's caches."""

    name, lossy = "exact", False

    def size(self, like: Tensors, positions: int) -> int:
        """See `Codec.size`."""
        return sum(each.shape[0] * positions * each.shape[2] * each.itemsize for each in like)

    def encode(self, layer: Tensors) -> bytes:
        """See `Codec.encode`."""
        return b"".join(np.asarray(each, each.dtype.newbyteorder("<")).tobytes() for each in layer)

    def decode(self, data: bytes, like: Tensors, positions: int) -> list[NDArray[Any]]:
        """See `Codec.decode`."""
        check_size(data, self.size(like, positions))
        found, at = list[NDArray[Any]](), 0
        for each in like:
            heads, _, width = each.shape
            flat = np.frombuffer(data, each.dtype.newbyteorder("<"), heads * positions * width, at)
            found.append(flat.astype(each.dtype, copy=False).reshape(heads, positions, width))
            at += flat.nbytes
        return found


class Packed:
    """Writes the last byte of each number, its sign and exponent, in a Huffman code; few of them are frequent.

    The other bytes are noise, which nothing makes shorter.
    """

    name, lossy = "packed", False

    def size(self, like: Tensors, positions: int) -> int:
        """See `Codec.size`. zlib stores what it cannot make shorter in blocks, each with a few bytes before it."""
        whole = EXACT.size(like, positions)
        return whole + whole // 1024 + 64

    def encode(self, layer: Tensors) -> bytes:
        """See `Codec.encode`."""
        numbers = np.frombuffer(EXACT.encode(layer), np.uint8).reshape(-1, layer[0].itemsize)
        code = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
        return numbers[:, :-1].tobytes() + code.compress(numbers[:, -1].tobytes()) + code.flush()

    def decode(self, data: bytes, like: Tensors, positions: int) -> list[NDArray[Any]]:
        """See `Codec.decode`."""
        width = like[0].itemsize
        count = EXACT.size(like, positions) // width
        plain, code = data[: count * (width - 1)], zlib.decompressobj()
        try:
            last = code.decompress(data[count * (width - 1) :], count + 1)
        except zlib.error as problem:
            raise ValueError(str(problem)) from problem
        check_size(plain, count * (width - 1))
        check_size(last, count)
        if not code.eof or code.unused_data:
            raise ValueError("its code does not end where it does")
        numbers = np.empty((count, width), np.uint8)
        numbers[:, :-1] = np.frombuffer(plain, np.uint8).reshape(count, width - 1)
        numbers[:, -1] = np.frombuffer(last, np.uint8)
        return EXACT.decode(numbers.tobytes(), like, positions)


EXACT = Exact()
