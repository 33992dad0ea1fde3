"""Which files make a model: a graph and others beside it, a checkpoint, a GGUF file and its parts, and their folder."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# In the protobuf, an external tensor says {key: "location", value: file name}. Reading just these spares the
# default install the onnx package.
_LOCATION = b"\n\x08location\x12"
_CHECKPOINTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers looks for them, each whole before in parts."""
_FIRST_PART = re.compile(r"(.*)-00001(-of-\d{5}\.gguf)")


def visible(folder: Path, pattern: str) -> Iterator[Path]:
    """Paths below a folder that fit a pattern, except what is hidden: what is still being written has a dot before its
    name, and so has what systems and tools leave behind (`._model.gguf`, `.git`)."""
    for path in folder.glob(pattern):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file's: by its name, or by how it begins, since stores call theirs otherwise."""
    if path.suffix == ".gguf":
        return True
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def model_folder(path: Path) -> Path:
    """The folder of config and tokenizer of the model at `path`: itself, or that of a graph, which may lie below it."""
    if not path.is_file():
        return path
    above = path.parent.parent
    return above if not (path.parent / "config.json").is_file() and (above / "config.json").is_file() else path.parent


def external_files(graph: Path) -> list[str]:
    """Names, relative to the graph's folder, of the files that hold its weights; none if it holds them itself."""
    if graph.stat().st_size == 0:
        return []  # which cannot be mapped
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        return sorted({name.decode(errors="replace") for name in _locations(raw)})


def _locations(raw: mmap.mmap) -> Iterator[bytes]:
    at = raw.find(_LOCATION)
    while at >= 0:
        start = at + len(_LOCATION)
        # The name's length is 7 bits a byte, the lowest first; names of two such bytes are as long as any file's.
        head = raw[start : start + 2]
        if len(head) == 2 and head[0] & 0x80:
            length, start = head[0] & 0x7F | head[1] << 7, start + 2
        else:
            length, start = (head[0], start + 1) if head else (0, start)
        yield raw[start : start + length]
        at = raw.find(_LOCATION, start)


def weight_bytes(graph: Path) -> int:
    """Size of the graph and of the files that hold its weights, those that exist."""
    return sum(file.stat().st_size for file in graph_files(graph) if file.is_file())


def graph_files(graph: Path) -> list[Path]:
    """The graph, and the files that hold its weights."""
    return [graph, *(graph.parent / name for name in external_files(graph))]


def checkpoint(names: Iterable[str]) -> list[str]:
    """The files of the checkpoint that transformers would load, of those in a folder: whole or in parts.

    Names with a `/` lie below the folder, and do not count.
    """
    here = {name for name in names if "/" not in name}
    for whole in _CHECKPOINTS:
        stem, _, suffix = whole.rpartition(".")
        if whole in here:
            return [whole]
        if f"{whole}.index.json" in here:
            return sorted(name for name in here if name.startswith(f"{stem}-") and name.endswith(f".{suffix}"))
    return []


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of the checkpoint in `folder`, see `checkpoint`, and its config.json, which shapes it."""
    names = (path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else ()
    return [folder / "config.json", *(folder / name for name in checkpoint(names))]


def gguf_files(file: Path) -> list[Path]:
    """A GGUF file with the parts after it, if it is the first of several."""
    first = _FIRST_PART.fullmatch(file.name)
    if first is None:
        return [file]
    later = (each for each in file.parent.iterdir() if each.name.startswith(f"{first[1]}-"))
    return sorted(each for each in later if each.name.endswith(first[2]))
