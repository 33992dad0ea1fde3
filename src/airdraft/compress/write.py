"""A GGUF file like another, with tensors in other formats, which appears when it is complete."""

from __future__ import annotations

import math
import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import ModelError, first_line
from airdraft.models.imports.quants import FORMATS
from airdraft.models.imports.read import GgufFile

_ALIGNMENT = 32
_FILE_TYPE = struct.pack("<Q", len(b"general.file_type")) + b"general.file_type" + struct.pack("<I", 4)
"""The key that says in one number what most tensors of a file are, before its value."""


class GgufCopy:
    """A file that is being written: the metadata of `source`, and its tensors in the `formats` told by name.

    Formats are numbers of `quants.FORMATS`. Tensors may come in any order.
    """

    def __init__(self, source: GgufFile, formats: Mapping[str, int], out: Path, file_type: int) -> None:
        """file_type: what most tensors are, by llama.cpp's count. Raises: `ModelError` if `out` cannot be written."""
        self._out = out
        self._places: dict[str, tuple[int, int]] = {}
        lines, offset = [], 0
        for name, number in formats.items():
            shape = source.tensors[name].shape
            size = FORMATS[number].row_bytes(shape[-1]) * math.prod(shape[:-1])
            dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
            lines.append(_string(name) + dims + struct.pack("<IQ", number, offset))
            self._places[name] = (offset, size)
            offset += -(-size // _ALIGNMENT) * _ALIGNMENT
        count, keys = source.metadata_bytes()
        at = keys.find(_FILE_TYPE) + len(_FILE_TYPE)
        if at >= len(_FILE_TYPE):
            keys = keys[:at] + struct.pack("<I", file_type) + keys[at + 4 :]
        head = b"GGUF" + struct.pack("<IQQ", 3, len(formats), count) + keys + b"".join(lines)
        self._start = -(-len(head) // _ALIGNMENT) * _ALIGNMENT
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            handle, self._part = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
            self._file = os.fdopen(handle, "wb")
            self._file.write(head)
            self._file.truncate(self._start + offset)
        except OSError as problem:
            raise self._unwritable(problem) from problem

    def __enter__(self) -> GgufCopy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Put the file in its place, or take away what there is of it."""
        try:
            self._file.close()
            if error is None:
                os.chmod(self._part, 0o644)
                os.replace(self._part, self._out)
        except OSError as problem:
            raise self._unwritable(problem) from problem
        finally:
            Path(self._part).unlink(missing_ok=True)

    def add(self, name: str, raw: NDArray[np.uint8]) -> None:
        """Write a tensor's bytes, of the size that its format takes. Raises: `ModelError` if there is no room."""
        offset, size = self._places.pop(name)
        if raw.size != size:
            raise ValueError(f"{name} takes {size} bytes, not {raw.size}")
        try:
            self._file.seek(self._start + offset)
            self._file.write(np.ascontiguousarray(raw).data)
        except OSError as problem:
            raise self._unwritable(problem) from problem

    def _unwritable(self, problem: OSError) -> ModelError:
        return ModelError(f"{self._out} cannot be written ({first_line(problem)}); choose another place")


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
