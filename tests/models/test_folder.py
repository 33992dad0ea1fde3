"""Models by name: the shipped pair, folders, and the hub as far as it can be had offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airdraft.errors import ModelError
from airdraft.models.files.folder import name_of, shipped
from airdraft.models.registry import load, resolve

from ..pairs import copied

REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_the_shipped_pair() -> None:
    assert resolve("target") == shipped("target")
    assert resolve("draft") == shipped("draft")
    assert shipped("draft").parts[-2:] == ("pair", "draft")


def test_load() -> None:
    model, tokenizer = load("draft")
    row = model.forward(model.new_cache(), 0, tokenizer.encode("def "), 1)
    assert row.shape == (1, model.vocab_size)
    assert model.name == "draft"


def test_a_folder(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["/no/such/folder", "nothing", "../nothing", "a/b/c", "", "org/"])
def test_neither_a_folder_nor_an_id(name: str) -> None:
    with pytest.raises(
        ModelError,
        match=r"no model '.*'; name 'target', 'draft', 'chat-target', 'chat-draft', a folder, .* a hub id org/name or ",
    ):
        resolve(name)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("GGML")
    with pytest.raises(ModelError, match=r"model\.txt is neither a GGUF file nor a graph; name one, or the folder"):
        resolve(str(tmp_path / "model.txt"))


def test_one_graph_of_several(tmp_path: Path) -> None:
    """A folder with two graphs and no model.onnx is refused; one of them, named, is the model."""
    folder = copied("draft", tmp_path / "two")
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "one.onnx")
    (folder / "onnx" / "other.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"has no model\.onnx but one\.onnx, onnx/other\.onnx; name the one you mean"):
        load(str(folder))
    model, tokenizer = load(str(folder / "one.onnx"))
    assert (model.name, tokenizer.vocab_size) == ("two", 4096)
    assert model.forward(model.new_cache(), 0, [1], 1).shape == (1, 4096)
    with pytest.raises(ModelError, match=r"other\.onnx cannot be loaded"):
        load(str(folder / "onnx" / "other.onnx"))
    for engine in ("hf", "llamacpp"):
        with pytest.raises(ModelError, match=f"is a file for the onnx engine; leave {engine} out"):
            load(str(folder / "one.onnx"), engine=engine)


def test_a_tokenizer_larger_than_the_model(tmp_path: Path) -> None:
    folder = copied("draft", tmp_path / "mixed")
    table = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    table["model"]["vocab"]["never seen before"] = 4096
    (folder / "tokenizer.json").write_text(json.dumps(table), "utf-8")
    with pytest.raises(ModelError, match="has 4097 tokens and the model scores 4096; take both from one model"):
        load(str(folder))


def test_a_special_token_without_a_row_is_none(tmp_path: Path) -> None:
    """The smallest Gemma 3 has one more in its tokenizer than its siblings see in their models' rows."""
    folder = copied("draft", tmp_path / "more")
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text("utf-8"))
    like = table["added_tokens"][0]
    table["added_tokens"] += [like | {"id": 4096 + i, "content": f"<image {i}>", "special": True} for i in range(2)]
    path.write_text(json.dumps(table), "utf-8")
    tokenizer, plain = load(str(folder))[1], load("draft")[1]
    assert (tokenizer.vocab_size, tokenizer.digest) == (4096, plain.digest)
    assert tokenizer.encode("def f(x):") == plain.encode("def f(x):")
    with pytest.raises(ModelError, match="the text holds <image 0>, <image 1>, which the model does not know"):
        tokenizer.encode("see <image 1> and <image 0>")


def _offline(home: Path, name: str) -> str:
    """What a fresh, offline process says of `name`: the hub's settings are read when it is imported."""
    script = (
        "import sys\n"
        "from airdraft.errors import ModelError\n"
        "from airdraft.models.registry import load\n"
        "try:\n"
        "    model, _ = load(sys.argv[1])\n"
        "    print('loaded', model.name, model.forward(model.new_cache(), 0, [1], 1).shape)\n"
        "except ModelError as problem:\n"
        "    print(problem)\n"
    )
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(source)}
    for name_of_cache in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name_of_cache, None)
    done = subprocess.run(
        [sys.executable, "-c", script, name], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_a_hub_model_from_the_cache(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--some--pair"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(REVISION)
    snapshot, blobs = cached / "snapshots" / REVISION, cached / "blobs"
    snapshot.mkdir(parents=True)
    copied("draft", blobs)
    for blob in blobs.iterdir():  # as the hub's own cache does it; the weights must be found through the links
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    assert _offline(tmp_path, "some/pair") == "loaded some/pair (1, 4096)"


def test_a_hub_model_that_cannot_be_had(tmp_path: Path) -> None:
    said = _offline(tmp_path, "some/nothing")
    assert said.startswith("some/nothing is not, or not whole, in the hub's cache ")
    assert said.endswith("(HF_HUB_OFFLINE is set); unset it, or check the path or the id")
    assert "\n" not in said


def test_no_name_that_others_are_told_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "secret" / "my-model"
    folder.mkdir(parents=True)
    (folder / "a.Q4_1.gguf").touch()
    monkeypatch.chdir(folder)
    for name in (str(folder), f"{folder}/", ".", "../my-model"):
        assert name_of(name) == "my-model"
    assert name_of("a.Q4_1.gguf") == "a.Q4_1"
    for name in ("target", "draft", "org/name", "org/name:Q4_K_M", "org/name/onnx/model_q4.onnx"):
        assert name_of(name) == name
    assert name_of("ollama:llama3.2:1b") == "llama3.2:1b"
