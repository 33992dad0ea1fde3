"""Every engine there is, each serving the shipped target in fp32; what is not installed is skipped, and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airdraft.models.base import TargetEngine
from airdraft.models.engines import load, load_target
from airdraft.models.folder import shipped
from airdraft.models.onnx import OnnxModel

from ..models.vllm_server import python_with_vllm, vllm_server

Tmp = pytest.TempPathFactory


def _onnx(tmp: Tmp) -> Iterator[TargetEngine]:
    yield load_target("target")[0]


def _hf(tmp: Tmp) -> Iterator[TargetEngine]:
    torch = pytest.importorskip("torch", reason="needs the extra hf")
    pytest.importorskip("transformers", reason="needs the extra hf")
    torch.set_num_threads(1)
    yield load_target("target", engine="hf")[0]


def _llamacpp(tmp: Tmp) -> Iterator[TargetEngine]:
    pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    from airdraft.models.gguf import write_gguf

    file: Path = tmp.mktemp("gguf") / "target.gguf"
    write_gguf(shipped("target"), file)
    yield load_target(str(file))[0]


def _vllm(tmp: Tmp) -> Iterator[TargetEngine]:
    with vllm_server(python_with_vllm(), shipped("target")) as server:
        yield load_target("target", engine="vllm", urls=[server.url])[0]


ENGINES: dict[str, Callable[[Tmp], Iterator[TargetEngine]]] = {
    "onnx": _onnx,
    "hf": _hf,
    "llamacpp": _llamacpp,
    "vllm": _vllm,
}


@pytest.fixture(scope="session", params=list(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path_factory: Tmp) -> Iterator[TargetEngine]:
    yield from ENGINES[request.param](tmp_path_factory)


@pytest.fixture(scope="session")
def oracle() -> OnnxModel:
    """One sequence at a time, in fp32."""
    return OnnxModel(shipped("target"))


@pytest.fixture(scope="session")
def draft() -> object:
    return load("draft")
