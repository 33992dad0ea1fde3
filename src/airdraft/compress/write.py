"""A GGUF file like another, with tensors in other formats."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from airdraft.compress.rounding import STORED
from airdraft.models.imports.read import GgufFile

_ALIGNMENT = 32
_FILE_TYPE = struct.pack("<Q", len(b"general.file_type")) + b"general.file_type" + struct.pack("<I", 4)
"""The key that says in one number what most tensors of a file are, before its value."""


class GgufCopy:
    """A file that is being written: the metadata of `source`, and its tensors in the `formats` told by name.

    Formats are numbers of `rounding.STORED`. Tensors may come in any order.
    """

    def __init__(
        self, source: GgufFile, formats: Mapping[str, int], out: Path, file_type: int, begun: bool = False
    ) -> None:
        """file_type: what most tensors are, by llama.cpp's count. begun: whether `out` has some of them already."""
        self._out, self._begun = out, begun
        self._places: dict[str, tuple[int, int]] = {}
        lines, offset = [], 0
        for name, number in formats.items():
            shape = source.tensors[name].shape
            size = STORED[number].row_bytes(shape[-1]) * math.prod(shape[:-1])
            dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
            lines.append(_string(name) + dims + struct.pack("<IQ", number, offset))
            self._places[name] = (offset, size)
            offset += -(-size // _ALIGNMENT) * _ALIGNMENT
        count, keys = source.metadata_bytes()
        at = keys.find(_FILE_TYPE) + len(_FILE_TYPE)
        if at >= len(_FILE_TYPE):
            keys = keys[:at] + struct.pack("<I", file_type) + keys[at + 4 :]
        self._head = b"GGUF" + struct.pack("<IQQ", 3, len(formats), count) + keys + b"".join(lines)
        self._start = -(-len(self._head) // _ALIGNMENT) * _ALIGNMENT
        self.size = self._start + offset
        """Bytes of the whole file."""

    def __enter__(self) -> GgufCopy:
        """Raises: `OSError`, as `add` does, if the file cannot be written."""
        self._file = self._out.open("r+b" if self._begun else "w+b")
        self._file.write(self._head)
        self._file.truncate(self.size)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, name: str, pieces: Iterable[NDArray[np.uint8]]) -> None:
        """Write a tensor's bytes, piece after piece."""
        offset, left = self._places.pop(name)
        self._file.seek(self._start + offset)
        for raw in pieces:
            left -= raw.size
            self._file.write(np.ascontiguousarray(raw).data)
        self._file.flush()
        if left:
            raise ValueError(f"{name} has another size than its format says")


def plain_bytes(found: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A tensor in single precision, as a GGUF file stores it."""
    return np.ascontiguousarray(found, "<f4").view(np.uint8)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
