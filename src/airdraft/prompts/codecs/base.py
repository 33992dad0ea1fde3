"""The interface of codecs, and the base of those that lose something."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, Tensors

LARGEST = 2048.0
"""Of the numbers that codecs write which lose something: their scales are in half precision, and sums of a hundred
turned numbers stay within it."""
Field = tuple[str, tuple[int, ...]]
"""Type, in little endian, and shape of one of the arrays that a tensor is written as."""


class Codec(Protocol):
    """A way to write the keys and values of one layer of a block as bytes."""

    @property
    def name(self) -> str:
        """Part of the names of blocks, so it stands for these very bytes."""
        ...

    @property
    def lossy(self) -> bool:
        """Whether other numbers come back than were written."""
        ...

    def size(self, like: Tensors, positions: int) -> int:
        """Most bytes of so many positions. `like`: keys and values of no position, as an engine's cache gives them."""
        ...

    def encode(self, layer: Tensors) -> bytes:
        """Keys and values as bytes. Raises: `ModelError` for numbers that this codec cannot write."""
        ...

    def decode(self, data: bytes, like: Tensors, positions: int) -> list[NDArray[Any]]:
        """Keys and values, in arrays like those that were written.

        Raises: `ValueError` for bytes that no layer is written as, before they take more memory than a layer.
        """
        ...


class Lossy(ABC):
    """Base of codecs that lose something: each tensor of numbers becomes a few arrays of known types and shapes."""

    lossy = True

    @property
    @abstractmethod
    def name(self) -> str:
        """See `Codec.name`."""

    @abstractmethod
    def fields(self, shape: tuple[int, int, int], keys: bool) -> Sequence[Field]:
        """The arrays of a tensor [kv_heads, positions, head_dim]. `keys`: whether it holds keys, or else values."""

    @abstractmethod
    def encoded(self, x: FloatArray, keys: bool) -> Sequence[NDArray[Any]]:
        """A tensor as these arrays."""

    @abstractmethod
    def decoded(self, arrays: Sequence[NDArray[Any]], shape: tuple[int, int, int], keys: bool) -> FloatArray:
        """The tensor that these arrays stand for. Raises: `ValueError` if they stand for none."""

    def size(self, like: Tensors, positions: int) -> int:
        """See `Codec.size`."""
        return sum(_bytes(field) for fields in self._whole(like, positions) for field in fields)

    def encode(self, layer: Tensors) -> bytes:
        """See `Codec.encode`."""
        found = list[bytes]()
        for index, tensor in enumerate(layer):
            x = floats(tensor)
            if not np.abs(x).max(initial=0.0) <= LARGEST:  # NaN lands here too
                raise ModelError(
                    f"keys and values are beyond ±{LARGEST:g}, which the codec {self.name} cannot write; take exact"
                )
            fields, arrays = self.fields(_shape(x), index == 0), self.encoded(x, index == 0)
            found += [np.asarray(each, kind).tobytes() for (kind, _), each in zip(fields, arrays, strict=True)]
        return b"".join(found)

    def decode(self, data: bytes, like: Tensors, positions: int) -> list[NDArray[Any]]:
        """See `Codec.decode`. No number comes back that is not finite."""
        check_size(data, self.size(like, positions))
        found, at = list[NDArray[Any]](), 0
        for index, (tensor, fields) in enumerate(zip(like, self._whole(like, positions), strict=True)):
            arrays = []
            for field in fields:
                kind, shape = field
                arrays.append(np.frombuffer(data, kind, math.prod(shape), at).reshape(shape))
                at += _bytes(field)
            with np.errstate(over="ignore", invalid="ignore"):
                x = self.decoded(arrays, (tensor.shape[0], positions, tensor.shape[2]), index == 0)
                numbers = rounded(x, tensor.dtype)
            if not np.isfinite(floats(numbers)).all():
                raise ValueError("it stands for numbers that are not finite")
            found.append(numbers)
        return found

    def _whole(self, like: Tensors, positions: int) -> list[Sequence[Field]]:
        return [self.fields((each.shape[0], positions, each.shape[2]), index == 0) for index, each in enumerate(like)]


def places(count: int) -> str:
    """The type of a number below `count`."""
    return "<u2" if count <= 1 << 16 else "<u4"


def check_size(data: bytes, size: int) -> None:
    """Raises: `ValueError` for another number of bytes."""
    if len(data) != size:
        raise ValueError(f"it has {len(data)} bytes, not {size}")


def floats(x: NDArray[Any]) -> FloatArray:
    """Numbers of a cache in single precision. Integers are bfloat16 by its bits, which NumPy has no type for."""
    if x.dtype.kind == "f":
        return x.astype(np.float32)
    return (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def rounded(x: FloatArray, kind: np.dtype[Any]) -> NDArray[Any]:
    """Numbers in single precision in the type of a cache; the reverse of `floats`."""
    if kind.kind == "f":
        return x.astype(kind)
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(kind)


def rows_of(x: FloatArray) -> FloatArray:
    """A tensor [kv_heads, positions, head_dim] as a matrix [positions, kv_heads * head_dim]."""
    heads, positions, width = x.shape
    return x.transpose(1, 0, 2).reshape(positions, heads * width)


def of_rows(rows: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
    """The reverse of `rows_of`."""
    heads, positions, width = shape
    return rows.reshape(positions, heads, width).transpose(1, 0, 2)


def _shape(x: FloatArray) -> tuple[int, int, int]:
    heads, positions, width = x.shape
    return heads, positions, width


def _bytes(field: Field) -> int:
    kind, shape = field
    return np.dtype(kind).itemsize * math.prod(shape)
