"""The table of engines: what derives from it, and whose files a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from airdraft.errors import ModelError
from airdraft.models import registry as engines
from airdraft.models.files.config import read_config
from airdraft.models.files.variants import CHECKPOINT, CODES, GGUF, ONNX
from airdraft.models.registry import ENGINES, HERE, REMOTE, load, load_target, resolve


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


def test_every_format_of_the_hub_has_an_engine() -> None:
    assert [form for name in HERE for form in ENGINES[name].formats] == [ONNX, GGUF, CODES, CHECKPOINT, GGUF]
    assert not any(ENGINES[name].formats for name in REMOTE)


def test_a_file_that_was_cut_off_is_refused_whatever_runs_it(tmp_path: Path) -> None:
    """Before llama.cpp, torch or a server are asked for anything."""
    pytest.importorskip("gguf", reason="writing the file takes the gguf package")
    from .imports.made import Made

    file = Made(kind="Q4_0").write(tmp_path / "m.gguf")
    file.write_bytes(file.read_bytes()[:-1])
    for engine in (None, "onnx", "llamacpp"):
        with pytest.raises(ModelError, match=r"was cut off: .*; fetch it again"):
            load(str(file), engine=engine)
    with pytest.raises(ModelError, match="is a file for the llamacpp engine; leave hf out"):
        load(str(file), engine="hf")
    for engine in REMOTE:
        with pytest.raises(ModelError, match=r"was cut off: .*; fetch it again"):
            load_target(str(file), engine=engine, urls=["http://127.0.0.1:9"])


def test_a_file_describes_what_a_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header has all that is asked of a folder beside an engine behind HTTP."""
    pytest.importorskip("gguf", reason="writing the file takes the gguf package")
    from .imports.made import Made

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Made(kind="Q4_0")
    file = made.write(tmp_path / "m.gguf")
    for name in (str(file), str(tmp_path)):
        folder = resolve(name, "llamaserver")
        config = read_config(folder)
        assert (config.vocab_size, config.max_context, config.eos_ids) == (len(made.tokens), 64, (256,))
        assert (folder / "tokenizer.json").is_file()
