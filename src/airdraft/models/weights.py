"""Which files hold the weights of an ONNX graph: the graph itself, or others beside it that it names."""

from __future__ import annotations

import re
from pathlib import Path

# In the protobuf, an external tensor says {key: "location", value: file name}. Reading just these spares the
# default install the onnx package.
_LOCATION = re.compile(rb"\n\x08location\x12([\x01-\x7f])", re.DOTALL)
_MOST_GRAPH_BYTES = 256_000_000
"""A graph this large holds its weights itself, and is not worth searching."""


def external_files(graph: Path) -> list[str]:
    """Names, relative to the graph's folder, of the files that hold its weights; none if it holds them itself."""
    if graph.stat().st_size > _MOST_GRAPH_BYTES:
        return []
    raw = graph.read_bytes()
    found = (raw[hit.end() : hit.end() + hit[1][0]] for hit in _LOCATION.finditer(raw))
    return sorted({name.decode(errors="replace") for name in found})


def weight_bytes(graph: Path) -> int:
    """Size of the graph and of the files that hold its weights, those that exist."""
    files = [graph, *(graph.parent / name for name in external_files(graph))]
    return sum(file.stat().st_size for file in files if file.is_file())
