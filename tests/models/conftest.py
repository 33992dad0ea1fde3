"""The shipped pair, opened once, and a writer of the decoders that it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer


@pytest.fixture(scope="session")
def target() -> OnnxModel:
    return OnnxModel(shipped("target"))


@pytest.fixture(scope="session")
def draft() -> OnnxModel:
    return OnnxModel(shipped("draft"))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(shipped("target"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch has one thread: models this small are faster with one, and a busy machine does not hold it up."""
    torch = pytest.importorskip("torch", reason="the hf engine takes airdraft[hf]")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def decoder(tmp_path: Path) -> Callable[..., Path]:
    """`decoder(half=True, ...)` writes a small random decoder and returns its folder; see `graphs.Shape`."""
    pytest.importorskip("onnx", reason="writing ONNX files takes the onnx package")
    from .graphs import Shape, write_decoder

    def write(*, hub_layout: bool = False, **shape: Any) -> Path:
        folder = tmp_path / f"decoder{len(list(tmp_path.iterdir()))}"
        return write_decoder(folder, Shape(**shape), hub_layout=hub_layout)

    return write
