"""What `airdraft gguf` writes has, read back, the rows of the original: by the definition, and by llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from airdraft.models.base import Part
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.gguf import write_gguf

pytest.importorskip("gguf", reason="needs the package gguf")
pytest.importorskip("safetensors", reason="needs the package safetensors")

from ..suites import mostly_slow
from .llamas import VARIANTS, VOCAB, checkpoint_rows, gguf_rows, write_llama

TOKENS = [0, *(int(i) for i in np.random.default_rng(1).integers(1, VOCAB, 99))]
CLOSE = 2e-3
"""Of rows with a standard deviation of some 7, from forwards in single and in double precision."""


@pytest.fixture(params=mostly_slow(VARIANTS, often=("plain", "grouped heads", "all at once")))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_llama(tmp_path / "llama", **VARIANTS[request.param])


def test_by_the_definition(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "out" / "model.gguf")
    own = checkpoint_rows(folder, TOKENS)
    np.testing.assert_allclose(gguf_rows(tmp_path / "out" / "model.gguf", TOKENS), own, rtol=0, atol=CLOSE)


def test_by_llama_cpp(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    from airdraft.models.engines.llamacpp import LlamaCppModel

    write_gguf(folder, tmp_path / "out" / "model.gguf")
    model = LlamaCppModel(tmp_path / "out" / "model.gguf", sequences=1)
    (rows,) = model.verify([Part(model.new_cache(), 0, TOKENS, len(TOKENS))])
    assert isinstance(rows, np.ndarray)
    np.testing.assert_allclose(rows, checkpoint_rows(folder, TOKENS), rtol=0, atol=CLOSE)
    assert model.eos_ids == (0,)


def test_the_definition_is_that_of_transformers(folder: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    from airdraft.models.engines.hf import HfModel

    model = HfModel(folder)
    rows = model.forward(model.new_cache(), 0, TOKENS, len(TOKENS))
    np.testing.assert_allclose(rows, checkpoint_rows(folder, TOKENS), rtol=0, atol=CLOSE)


def test_variants_differ(tmp_path: Path) -> None:
    """Else a variant that is written as another one would pass."""
    plain = checkpoint_rows(write_llama(tmp_path / "plain"), TOKENS)
    for i, (name, changes) in enumerate(VARIANTS.items()):
        if name == "plain" or "heads" in name or "tied" in name or changes.get("dtype"):
            continue  # other shapes, or nearly the same numbers
        other = checkpoint_rows(write_llama(tmp_path / str(i), **changes), TOKENS)
        assert np.abs(other - plain).max() > 50 * CLOSE, name


@pytest.mark.parametrize("which", ["target", "draft"])
def test_the_shipped_pair(which: str, tmp_path: Path) -> None:
    source = shipped(which)  # type: ignore[arg-type]
    write_gguf(source, tmp_path / "model.gguf")
    model = OnnxModel(source)
    rows = model.forward(model.new_cache(), 0, TOKENS, len(TOKENS))
    np.testing.assert_allclose(gguf_rows(tmp_path / "model.gguf", TOKENS), rows, rtol=0, atol=CLOSE)
