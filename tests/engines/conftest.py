"""Every engine there is, each serving the shipped target in fp32; what is not installed is skipped, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airdraft.models.base import TargetEngine
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.fit import Fit
from airdraft.models.registry import ENGINES, load, load_target

from ..models.llama_server import llama_server

Tmp = pytest.TempPathFactory


@contextmanager
def _one_thread(tmp: Tmp) -> Iterator[TargetEngine]:
    import torch

    torch.set_num_threads(1)
    yield load_target("target", engine="hf")[0]


@contextmanager
def _file(tmp: Tmp) -> Iterator[TargetEngine]:
    """llama.cpp reads files of its own."""
    from airdraft.models.gguf import write_gguf

    file: Path = tmp.mktemp("gguf") / "target.gguf"
    write_gguf(shipped("target"), file)
    yield load_target(str(file), engine="llamacpp")[0]


@contextmanager
def _llama_server(tmp: Tmp) -> Iterator[TargetEngine]:
    """A real llama-server with four slots."""
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, which holds a llama-server")
    pytest.importorskip("gguf", reason="needs the extra llamacpp")
    from airdraft.models.gguf import write_gguf

    file: Path = tmp.mktemp("gguf") / "target.gguf"
    write_gguf(shipped("target"), file)
    with llama_server(file) as url:
        yield load_target("target", engine="llamaserver", urls=[url])[0]


@contextmanager
def _spliced(tmp: Tmp) -> Iterator[TargetEngine]:
    """onnx, whose texts share what they begin with."""
    yield load_target("target", fit=Fit(1, splice=True))[0]


OTHERWISE = {
    "hf": _one_thread, "llamacpp": _file, "llamaserver": _llama_server, "splice": _spliced,
}  # fmt: skip
"""Engines that need more than the name of the shipped target."""
ABSENT = {"sglang"}
"""Engines that nothing here can run: SGLang needs a GPU."""


@pytest.fixture(scope="session", params=[
    *(name for name in ENGINES if name not in ABSENT), pytest.param("splice", marks=pytest.mark.slow)
])  # fmt: skip
def engine(request: pytest.FixtureRequest, tmp_path_factory: Tmp) -> Iterator[TargetEngine]:
    name = request.param
    for library in ENGINES[name].libraries if name in ENGINES else ():
        pytest.importorskip(library, reason=f"needs the extra {name}")
    if name == "vllm":  # which other tests use, too
        yield load_target("target", engine=name, urls=[request.getfixturevalue("vllm_url")])[0]
    elif name in OTHERWISE:
        with OTHERWISE[name](tmp_path_factory) as found:
            yield found
    else:
        yield load_target("target", engine=name)[0]


@pytest.fixture(scope="session")
def oracle() -> OnnxModel:
    """One sequence at a time, in fp32."""
    return OnnxModel(shipped("target"))


@pytest.fixture(scope="session")
def draft() -> object:
    return load("draft")
