"""The models on a machine: what each header tells, who shares a vocabulary, and what cannot be read."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.engines.llamacpp import gguf_file
from airdraft.models.engines.onnx import graph_path
from airdraft.models.files.folder import shipped
from airdraft.models.files.shelf import Shelved, found, shared
from airdraft.models.imports.cache import imported
from airdraft.models.imports.read import GgufFile, Unread
from airdraft.models.registry import resolve, text_files, weights_of
from airdraft.models.text import Tokenizer

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from ..pairs import copied
from . import stores
from .imports.made import Made, _words

WORDS = Made().tokens


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def named(models: list[Shelved]) -> dict[str, Shelved]:
    return {each.name: each for each in models}


def test_a_machine_without_models() -> None:
    every = found([])
    assert [each.name for each in every] == ["target", "draft", "chat-draft", "chat-target"]
    assert all(each.usable for each in every)
    assert "98 MB are fetched" in every[-1].note
    [pair] = shared(every)
    assert [each.name for each in pair] == ["draft", "target"]
    target = Tokenizer(shipped("target"))
    assert pair[1].vocabulary is not None
    assert (pair[1].vocabulary.tokens, pair[1].vocabulary.digest) == (target.vocab_size, target.digest.hex())
    assert (pair[1].context, pair[1].engine) == (1024, "onnx")


def test_every_place(home: Path) -> None:
    """Each name is one that a command takes, and leads to the file of the row."""
    big = Made(kind="Q4_0", layers=3).write(home / "big.gguf").read_bytes()
    other = Made(kind="Q8_0", tokens=[*WORDS, "more"]).write(home / "other.gguf").read_bytes()
    stores.ollama(home / ".ollama" / "models", "llama3.2", big, tag="1b")
    studio = home / ".lmstudio" / "models" / "org" / "Repo"
    studio.mkdir(parents=True)
    (studio / "Repo-Q8_0.gguf").write_bytes(other)
    cpp = home / ".cache" / "llama.cpp"
    cpp.mkdir(parents=True)
    (cpp / "org_repo_repo-q4_0.gguf").write_bytes(big)
    import_of_big = imported(home / "big.gguf")
    hub = home / "hub"
    files = {path.name: path.read_bytes() for path in import_of_big.iterdir()}
    stores.cached(hub, "org/both", {"a-Q4_0.gguf": big, "a-Q8_0.gguf": other, "b/c.gguf": other})
    stores.cached(hub, "org/graphs", files | {"onnx/model_q4.onnx": files["model.onnx"],
                                               "onnx/model.onnx_data": files["model.onnx_data"]})  # fmt: skip
    draft = copied("draft", home / "copy")
    plain = {name: (draft / name).read_bytes() for name in ("config.json", "tokenizer.json", "model.safetensors")}
    stores.cached(hub, "org/plain", plain)
    stores.cached(hub, "org/tokenizer", {"tokenizer.json": plain["tokenizer.json"]})
    folder = home / "mine"
    shutil.copytree(draft, folder / "pair")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "x.gguf").write_bytes(big)
    rows = named(found([folder]))
    expected = {
        "ollama:llama3.2:1b": ("Ollama", "onnx", "Q4_0"),
        "lmstudio:org/Repo:Q8_0": ("LM Studio", "onnx", "Q8_0"),
        "llamacpp:org_repo_repo-q4_0.gguf": ("llama.cpp", "onnx", "Q4_0"),
        "org/both:Q4_0": ("hub cache", "onnx", "Q4_0"),
        "org/both:Q8_0": ("hub cache", "onnx", "Q8_0"),
        "org/both/b/c.gguf": ("hub cache", "onnx", "Q8_0"),
        "org/graphs": ("hub cache", "onnx", "onnx"),
        "org/graphs/onnx/model_q4.onnx": ("hub cache", "onnx", "onnx"),
        "org/plain": ("hub cache", "hf", "safetensors float32"),
        str(import_of_big): ("imported", "onnx", "onnx"),
        str(folder / "pair"): ("folder", "onnx", "onnx"),
        str(folder / "deep" / "er" / "x.gguf"): ("folder", "onnx", "Q4_0"),
    }
    assert {name: (row.place, row.engine, row.format) for name, row in list(rows.items())[4:]} == expected
    assert rows["ollama:llama3.2:1b"].size_bytes == len(big)
    assert rows["ollama:llama3.2:1b"].context == 64
    groups = [{each.name for each in group} for group in shared(list(rows.values()))]
    assert {"draft", "target", str(folder / "pair"), "org/plain"} in groups
    assert {"lmstudio:org/Repo:Q8_0", "org/both:Q8_0", "org/both/b/c.gguf"} in groups
    for name, row in rows.items():
        assert row.usable, row.note
        if name == "chat-target":
            continue
        tokenizer = Tokenizer(text_files(name))
        assert row.vocabulary is not None
        assert (row.vocabulary.tokens, row.vocabulary.digest) == (tokenizer.vocab_size, tokenizer.digest.hex())
        if row.engine == "onnx":
            resolve(name)


def test_padding_is_no_vocabulary(home: Path) -> None:
    """A file whose tokens are padded shares the vocabulary of one whose tokens are not."""
    for name, more in (("plain", []), ("padded", [f"[PAD{len(WORDS) + i}]" for i in range(7)])):
        tokens = [*WORDS, *more]
        types = [5 if token.startswith("[PAD") else 3 if token.startswith("<|") else 1 for token in tokens]
        Made(tokens=tokens, facts={"tokenizer.ggml.token_type": types}).write(home / f"{name}.gguf")
    rows = named(found([home]))
    one, two = rows[str(home / "plain.gguf")].vocabulary, rows[str(home / "padded.gguf")].vocabulary
    assert one is not None
    assert one == two
    assert one.tokens == len(WORDS)
    assert one.digest == Tokenizer(text_files(str(home / "padded.gguf"))).digest.hex()


def test_what_cannot_be_read(home: Path) -> None:
    """A line each, and the others are there all the same."""
    folder = home / "models"
    folder.mkdir()
    whole = Made(kind="Q4_0").write(folder / "whole.gguf").read_bytes()
    broken = {
        "cut.gguf": (whole[:-1], "was cut off"), "empty.gguf": (b"", "cannot be read"),
        "header.gguf": (whole[:100], "ends within its header"), "none.gguf": (b"<html>" * 100, "is no GGUF file"),
    }  # fmt: skip
    for name, (raw, _) in broken.items():
        (folder / name).write_bytes(raw)
    Made(family="gemma9").write(folder / "new.gguf")
    Made(facts={"tokenizer.ggml.pre": "new-one"}).write(folder / "cuts.gguf")
    Made(facts={"tokenizer.ggml.tokens": None, "tokenizer.ggml.token_type": None}).write(folder / "mute.gguf")
    for name in ("no-config", "shards", "odd", "words"):
        shutil.copytree(copied("draft", home / name), folder / name)
    (folder / "no-config" / "config.json").write_text('{"vocab_size": "many"}')
    (folder / "shards" / "model.onnx").unlink()
    (folder / "shards" / "model.safetensors").rename(folder / "shards" / "model-00001-of-00002.safetensors")
    (folder / "shards" / "model.safetensors.index.json").write_text("{}")
    (folder / "odd" / "tokenizer.json").write_text("{")
    (folder / "light").mkdir()
    for path in imported(folder / "whole.gguf").iterdir():
        if path.suffix != ".onnx_data":
            shutil.copy(path, folder / "light")
    (folder / "words" / "config.json").write_text("[" * 100_000)
    stores.ollama(home / ".ollama" / "models", "lost", whole, digest="sha256:" + "0" * 64)
    (home / "hub" / "models--org--half").mkdir(parents=True)
    rows = named(found([folder]))
    for name, (_, said) in broken.items():
        row = rows[str(folder / name)]
        assert not row.usable
        assert said in row.note
    assert "says vocab_size = 'many'" in rows[str(folder / "no-config")].note
    assert "has 1 of the 2 parts of model.safetensors; fetch it again" in rows[str(folder / "shards")].note
    assert "model.onnx_data, which holds weights of it; fetch it again" in rows[str(folder / "light")].note
    assert "is no tokenizer" in rows[str(folder / "odd")].note
    assert "cannot be read" in rows[str(folder / "words")].note
    assert "lacks " in rows["ollama:lost:latest"].note
    assert "holds no whole state" in rows["org/half"].note
    assert rows[str(folder / "whole.gguf")].usable
    new, mute = rows[str(folder / "new.gguf")], rows[str(folder / "mute.gguf")]
    assert (new.usable, new.engine) == (True, "llamacpp")
    assert "is a 'gemma9' model, which the onnx engine does not run" in new.note
    assert "cuts its texts by 'new-one'" in rows[str(folder / "cuts.gguf")].note
    assert rows[str(folder / "cuts.gguf")].engine == "llamacpp"
    assert (mute.usable, mute.vocabulary) == (True, None)
    assert all("\n" not in row.note for row in rows.values())


@pytest.mark.slow
def test_a_hundred_files(home: Path) -> None:
    """With the vocabulary of a large model in each: the lists are skipped, and read once for all of them."""
    folder = home / "models"
    folder.mkdir()
    tokens = [*WORDS, *(f"word{i}" for i in range(60_000))]
    merges = [f"a{i} b{i}" for i in range(60_000)]
    first = Made(tokens=tokens, width=64, heads=1, kv_heads=1, hidden=64, facts={"tokenizer.ggml.merges": merges})
    first.kind = "Q8_0"
    first.write(folder / "0.gguf")
    for i in range(1, 100):
        (folder / f"{i}.gguf").symlink_to(folder / "0.gguf")
    started = time.process_time()
    rows = found([folder])
    assert time.process_time() - started < 20
    assert len(rows) == 104
    assert len({row.vocabulary for row in rows[4:]}) == 1
    assert len(list((home / ".cache" / "airdraft" / "vocabularies").iterdir())) == 3


def test_lists_that_are_skipped(home: Path) -> None:
    path = Made(tokens=[*WORDS, *(f"word{i}" for i in range(2000))]).write(home / "m.gguf")
    whole, skipped = GgufFile(path), GgufFile(path, lists=False)
    assert skipped.tensors == whole.tensors
    for key, value in whole.metadata.items():
        other = skipped.metadata[key]
        if isinstance(other, Unread):
            assert other.count == len(value)
            if isinstance(value[0], int):
                raw = np.array(value, "<i4").tobytes()
            else:
                raw = b"".join(len(each.encode()).to_bytes(8, "little") + each.encode() for each in value)
            assert skipped.bytes_of(other) == raw
        else:
            assert other == value
    assert _words()[0] in whole.metadata["tokenizer.ggml.tokens"]
    unread = {key for key, value in skipped.metadata.items() if isinstance(value, Unread)}
    assert unread == {f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges")}


def test_what_is_hidden_is_no_model(home: Path) -> None:
    """What is still being written, and what systems leave beside files, is neither listed nor in the way."""
    (home / "mine").mkdir()
    file = Made(layers=3).write(home / "mine" / "m.gguf")
    made = imported(file)
    graph = home / "mine" / "graph"
    shutil.copytree(made, graph)
    (graph / "model.onnx").rename(graph / "mine.onnx")
    studio = home / ".lmstudio" / "models" / "org" / "Repo"
    stores.cached(home / "hub", "org/repo", {"a.gguf": file.read_bytes(), ".b.gguf": b"half"})
    before = named(found([home / "mine"]))
    for folder in (made.parent, home / "mine", studio):
        shutil.copytree(made, folder / ".half")
        shutil.copyfile(file, folder / ".half" / "m.gguf")
        (folder / "._m.gguf").write_bytes(b"left")
    (graph / "._mine.onnx").write_bytes(b"left")
    assert named(found([home / "mine"])) == before
    assert list(before)[4:] == ["org/repo/a.gguf", str(made), str(file), str(graph)]
    assert gguf_file(file.parent) == file
    assert graph_path(graph) == graph / "mine.onnx"
    file.unlink()
    with pytest.raises(ModelError, match="holds no model"):
        weights_of(str(file.parent))


def test_a_vocabulary_that_was_kept_badly(home: Path) -> None:
    right = named(found([]))["target"].vocabulary
    for kept in ("{", "[]", '{"tokens": 5}', '{"tokens": "x", "digest": "00"}', "[" * 900):
        for path in (home / ".cache" / "airdraft" / "vocabularies").iterdir():
            path.write_text(kept)
        assert named(found([]))["target"].vocabulary == right, kept
        assert all(json.loads(path.read_text()) for path in (home / ".cache" / "airdraft" / "vocabularies").iterdir())
