"""A GGUF file named as MODEL is imported once, into the cache, and is all that a command needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from airdraft.api.recommended import recommended
from airdraft.errors import ModelError
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.kept import cache_folder
from airdraft.models.fit import Fit
from airdraft.models.imports.cache import FORM, imported, text_folder
from airdraft.models.registry import load, load_helping, load_target, resolve
from airdraft.models.text import Tokenizer

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from .made import Made


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "airdraft"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return Made(kind="Q4_0").write(folder / "model.gguf")


def test_once_whatever_it_is_called(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = imported(file)
    assert capfd.readouterr().err == f"airdraft: importing {file}\n"
    other = file.rename(file.with_name("other.gguf"))
    written = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert imported(other) == imported(other) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == written
    assert capfd.readouterr().err == ""


def test_the_sampling_that_a_file_recommends(file: Path) -> None:
    assert not (imported(file) / "generation_config.json").exists()
    said = {"temp": 0.6, "top_k": 20, "top_p": 0.95, "penalty_repeat": 1.5, "mirostat": 0}
    Made(kind="Q4_0", facts={f"general.sampling.{name}": value for name, value in said.items()}).write(file)
    for folder in (imported(file), text_folder(file)):
        found = recommended(folder)
        assert found.values == {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
        assert found.undone is not None
        assert "repetition_penalty 1.5" in found.undone


def test_other_weights_at_the_same_path(file: Path) -> None:
    first = imported(file)
    Made(kind="Q4_0", seed=1).write(file)
    assert imported(file) != first


def test_two_processes_at_once(file: Path, cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from airdraft.models.imports.cache import imported; "
        "print(imported(Path(sys.argv[1])))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = {process.communicate(timeout=60)[0] for process in both}
    assert len(said) == 1
    assert [process.returncode for process in both] == [0, 0]
    assert [path.name for path in (cache / "gguf").iterdir()] == [Path(said.pop().strip()).name]


def test_a_cache_that_cannot_be_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(file / "below"))
    for make in (imported, text_folder):
        with pytest.raises(ModelError, match="set XDG_CACHE_HOME"):
            make(file)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/airdraft")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/airdraft").expanduser()


@pytest.mark.parametrize("named", ["file", "folder"])
@pytest.mark.parametrize("engine", [None, "onnx"])
def test_engines_take_a_bare_file(named: str, engine: str | None, file: Path) -> None:
    if (named, engine) == ("folder", "onnx"):
        pytest.skip("an engine that is named looks for its own files in a folder")
    name = str(file if named == "file" else file.parent)
    model, tokenizer = load(name, engine=engine)
    target, _ = load_target(name, engine=engine)
    assert isinstance(model, OnnxModel)
    assert model.name == target.info.name == ("model" if named == "file" else "models")
    assert model.max_context == 64
    assert model.eos_ids == (256,)
    assert tokenizer.decode(tokenizer.encode("in the")) == "in the"
    assert resolve(name, engine) == imported(file)


@pytest.mark.slow
def test_a_text_of_a_bare_file(file: Path) -> None:
    """The whole way: an edge process and a device, with the file alone."""
    command = [sys.executable, "-m", "airdraft", "run", "in the", "--target", str(file), "--draft", "none",
               "--max-tokens", "8", "--temperature", "0"]  # fmt: skip
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env=dict(os.environ))
    assert ran.returncode == 0, ran.stderr
    assert f"airdraft: importing {file}" in ran.stderr  # not in the edge's process, which nobody sees
    model, tokenizer = load(str(file))
    ids, written = tokenizer.encode("in the"), []
    for _ in range(8):
        written.append(int(model.forward(model.new_cache(), 0, [*ids, *written], 1).argmax()))
        if written[-1] in model.eos_ids:
            break
    assert tokenizer.decode(written) in ran.stdout


def test_a_row_does_not_depend_on_its_company_in_a_forward(file: Path) -> None:
    """From two tokens on: a product of one row alone may round otherwise, see `OnnxModel`."""
    model, _ = load(str(file))
    tokens = list(range(3, 43))
    whole = model.forward(model.new_cache(), 0, tokens, 40)
    for width in (2, 4, 5, 8, 20):
        cache = model.new_cache()
        parts = [model.forward(cache, i, tokens[i : i + width], width) for i in range(0, 40, width)]
        assert np.array_equal(np.concatenate(parts), whole), width


def test_a_file_is_refused_before_its_weights_are_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> bytes:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("airdraft.models.imports.cache.file_digest", read)
    with pytest.raises(AssertionError):
        imported(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match="was cut off"):
        imported(file)
    for broken in ({"family": "gemma3"}, {"facts": {"tokenizer.ggml.pre": "new-one"}}):
        Made(**broken).write(file)
        with pytest.raises(ModelError):
            imported(file)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (Fit(context=65), r"model\.gguf has up to 64; give 1 to 64"),
        (Fit(kv_type="q8_0"), "kv-type is not for the engine onnx"),
        (Fit(context=64), r"with the weights of .*model\.gguf, and this machine has 0\.0 GB"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_weights_are_read(
    fit: Fit, message: str, file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name that the user gave, whoever loads it."""
    monkeypatch.setattr("airdraft.models.fit.memory_bytes", lambda: 1000)
    for make in (load, load_target, partial(load_helping, target=Tokenizer(text_folder(file)))):
        with pytest.raises(ModelError, match=message):
            make(str(file), fit=fit)
    assert not (cache / "gguf").exists()


def test_what_an_older_version_imported_is_deleted(file: Path, cache: Path) -> None:
    """Of the same file, and nothing else: a newer version may be installed as well."""
    first = imported(file)
    digest, newer = first.name.removesuffix(f"-{FORM}"), str(int(FORM) + 1)
    kept = [cache / "gguf" / name for name in (f"{digest}-{newer}", f"{'0' * 32}-1")]
    old = [cache / "gguf" / f"{digest}-{form}" for form in ("1", str(int(FORM) - 1))]
    for folder in (*kept, *old):
        shutil.copytree(first, folder)
    shutil.rmtree(first)
    assert imported(file) == first
    assert sorted((cache / "gguf").iterdir()) == sorted([first, *kept])


def test_a_tokenizer_of_an_unknown_kind(file: Path) -> None:
    """The remedy that the error names is one: with the original tokenizer.json beside it, llama.cpp runs the file."""
    Made(facts={"tokenizer.ggml.pre": "new-one"}).write(file)
    remedy = r"; put the original tokenizer\.json beside the file, and use --engine llamacpp$"
    for engine in (None, "onnx", "llamacpp"):
        with pytest.raises(ModelError, match=remedy):
            load(str(file), engine=engine)
    (file.parent / "tokenizer.json").write_text("{}")
    assert text_folder(file) == file.parent
    assert resolve(str(file), "llamacpp") == file
