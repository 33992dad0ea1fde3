"""The table of engines: what derives from it, and whose files a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from airdraft.errors import ModelError
from airdraft.models import engines
from airdraft.models.engines import ENGINES, HERE, REMOTE, load, load_target, resolve


def test_the_names_in_the_order_of_the_help_texts() -> None:
    assert HERE == ("onnx", "hf", "llamacpp")
    assert REMOTE == ("vllm", "sglang", "llamaserver")


@pytest.mark.parametrize(
    ("files", "engine"),
    [
        (["model.onnx"], "onnx"),
        (["onnx/model_q4.onnx"], "onnx"),
        (["model.onnx", "model.safetensors"], "onnx"),
        (["model.onnx", "model.gguf"], "onnx"),
        (["model.gguf", "model.safetensors"], "llamacpp"),
        (["model.gguf"], "llamacpp"),
        (["model.safetensors"], "hf"),
        (["pytorch_model-00001-of-00002.bin"], "hf"),
    ],
)
def test_whose_files_are_there(tmp_path: Path, files: Sequence[str], engine: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert engines._engine_of(tmp_path) == engine


def test_a_file_is_imported_unless_llama_cpp_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"nothing")
    assert resolve(str(file), "llamacpp") == file
    for engine in (None, "onnx"):
        with pytest.raises(ModelError, match="is no GGUF file"):
            resolve(str(file), engine)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"holds no model; it needs a model\.onnx, a \.gguf file or a checkpoint in safetensors$"
    ):
        load(str(tmp_path))


def test_names_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match=r"^no engine 'mlx'; .* of onnx, hf, llamacpp, vllm, sglang, llamaserver$"):
        load("draft", engine="mlx")
    with pytest.raises(ModelError, match=r"^vllm serves targets; a model here runs on onnx, hf, llamacpp$"):
        load("draft", engine="vllm")
    with pytest.raises(ModelError, match=r"^sglang runs elsewhere; name where it is, --url"):
        load_target("target", engine="sglang")
    with pytest.raises(ModelError, match=r"^a URL is for the engines vllm, sglang, llamaserver; name one"):
        load_target("target", engine="onnx", urls=["http://127.0.0.1:1"])


def test_what_each_takes_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("airdraft.models.folder.huggingface_hub.snapshot_download", download)
    (tmp_path / "model.onnx").write_bytes(b"\n\x08location\x12\x05w.bin")
    for name in ENGINES:
        assert resolve("some/model", name) == tmp_path
    always, onnx = ["*.json", "*.jinja"], ["model.onnx*", "onnx/model.onnx*"]
    assert asked == [
        [*always, *onnx], [*always, *onnx, "w.bin"],  # weights under a name of their own
        [*always, "*.safetensors"], [*always, "*.gguf"], always, always, always,
    ]  # fmt: skip
