"""Where the weights of a graph lie, read without the onnx package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from airdraft.models.files.folder import shipped
from airdraft.models.files.weights import external_files, weight_bytes


def test_the_shipped_pair_keeps_them_beside_the_graph() -> None:
    graph = shipped("draft") / "model.onnx"
    assert external_files(graph) == ["model.safetensors"]
    assert weight_bytes(graph) == graph.stat().st_size + (graph.parent / "model.safetensors").stat().st_size


def test_a_graph_that_holds_them_itself(decoder: Callable[..., Path]) -> None:
    graph = decoder() / "model.onnx"
    assert external_files(graph) == []
    assert weight_bytes(graph) == graph.stat().st_size
