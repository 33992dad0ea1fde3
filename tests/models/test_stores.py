"""Models of Ollama, LM Studio and llama.cpp, found in stores that the tests build as these programs do."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.files.folder import name_of
from airdraft.models.files.stores import STORES
from airdraft.models.imports.cache import imported
from airdraft.models.registry import load, resolve, text_files

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from . import stores
from .imports.made import Made


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Made(kind="Q4_0").write(tmp_path_factory.mktemp("made") / "m.gguf").read_bytes()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user who has nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(params=["usual", "elsewhere"])
def ollama(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "usual":
        return home / ".ollama" / "models"
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "elsewhere"))
    return home / "elsewhere"


def refused(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    said = str(caught.value)
    assert "; " in said
    assert "\n" not in said
    return said


def test_a_model_of_ollama(ollama: Path, content: bytes) -> None:
    stores.ollama(ollama, "llama3.2", content)
    stores.ollama(ollama, "llama3.2", content, tag="1b")
    stores.ollama(ollama, "hf.co/org/Repo-GGUF", content, tag="Q4_K_M")
    for name, shown in [("llama3.2", "llama3.2"), ("llama3.2:1b", "llama3.2:1b"), ("llama3.2:latest",) * 2,
                        ("hf.co/org/Repo-GGUF:Q4_K_M",) * 2]:  # fmt: skip
        blob = resolve(f"ollama:{name}", "llamacpp") if _has("llama_cpp") else STORES["ollama"].find(name)
        assert blob.parent == ollama / "blobs"
        assert resolve(f"ollama:{name}") == imported(blob)
        assert name_of(f"ollama:{name}") == shown
    model, tokenizer = load("ollama:llama3.2")
    assert tokenizer.decode(tokenizer.encode("in the")) == "in the"
    assert np.isfinite(model.forward(model.new_cache(), 0, [1, 2], 1)).all()
    assert (text_files("ollama:llama3.2") / "tokenizer.json").is_file()


def _has(library: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(library) is not None


def test_what_ollama_does_not_have(home: Path, ollama: Path, content: bytes) -> None:
    assert "which does not exist or cannot be looked into; fetch it, `ollama pull llama3.2`" in refused(
        "ollama:llama3.2"
    )
    stores.ollama(ollama, "llama3.2", content, tag="1b")
    stores.ollama(ollama, "qwen2.5", content)
    said = refused("ollama:llama3.2")
    assert str(ollama) in said
    assert "which has llama3.2:1b; fetch it, `ollama pull llama3.2`" in said
    assert "which has llama3.2:1b; " in refused("ollama:lama3.2:1b")
    for name in ("", "../x", "x/" * 260 + "x", "a\nb", "a/../../b"):
        assert "no name of a model of Ollama" in refused(f"ollama:{name}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digest": "sha256:../../../etc/passwd"}, "says digest = 'sha256:../../../etc/passwd', which is none"),
        ({"digest": "sha256:" + "A" * 64}, "which is none"),
        ({"digest": "sha256:" + "0" * 65}, "which is none"),
        ({"digest": 5}, "says digest = 5, which is none"),
        ({"digest": "sha256:" + "f" * 64}, "lacks "),
        ({"size": 5}, "bytes of 5"),
        ({"mediaType": "application/vnd.ollama.image.adapter"}, "an adapter to it"),
        ({"mediaType": "application/vnd.ollama.image.tensor"}, "consists of no GGUF file"),
    ],
)
def test_manifests_that_lie(home: Path, content: bytes, changes: dict[str, object], said: str) -> None:
    stores.ollama(home / ".ollama" / "models", "m", content, **changes)
    assert said in refused("ollama:m")


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"{}", b'{"layers": 5}', b'{"layers": [5]}', b"[" * 100_000, b'{"layers": ' + b"[" * 5000,
     b'{"layers": [' + b"{}," * 2000 + b"{}]}", b" " * (1 << 22) + b"{}", b"\xff\xfe"],
)  # fmt: skip
def test_manifests_that_are_none(home: Path, content: bytes, raw: bytes) -> None:
    stores.ollama(home / ".ollama" / "models", "m", content).write_bytes(raw)
    started = time.process_time()
    assert len(refused("ollama:m")) < 700
    assert time.process_time() - started < 2


def test_a_link_out_of_the_store_is_followed_but_no_name_leads_out(home: Path, content: bytes) -> None:
    """A user may keep blobs elsewhere; a manifest or a name may not."""
    root = home / ".ollama" / "models"
    manifest = stores.ollama(root, "m", content)
    blob = next((root / "blobs").iterdir())
    blob.rename(home / "kept")
    blob.symlink_to(home / "kept")
    assert STORES["ollama"].find("m") == blob
    outside = home / "manifests"
    manifest.parent.parent.rename(outside)
    assert "has no model" in refused("ollama:m")


@pytest.mark.parametrize("place", [".lmstudio/models", ".cache/lm-studio/models", "pointer/models", "moved"])
def test_a_model_of_lm_studio(home: Path, content: bytes, place: str) -> None:
    if place == "pointer/models":
        (home / ".lmstudio-home-pointer").write_text(f"{home / 'pointer'}\n")
    if place == "moved":
        (home / ".lmstudio").mkdir()
        (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(home / "moved")}))
    folder = home / place / "org" / "Repo-GGUF"
    folder.mkdir(parents=True)
    for name in ("repo-Q4_0.gguf", "repo-Q8_0.gguf", "mmproj-repo-f16.gguf"):
        (folder / name).write_bytes(content)
    store = STORES["lmstudio"]
    for name in ("org/Repo-GGUF:Q4_0", "org/repo-gguf:q4_0", "org/Repo-GGUF/repo-Q4_0.gguf"):
        assert store.find(name) == folder / "repo-Q4_0.gguf"
    assert "has several files of org/Repo-GGUF; name one: " in refused("lmstudio:org/Repo-GGUF")
    assert "it has Q4_0, Q8_0" in refused("lmstudio:org/Repo-GGUF:Q2_K")
    assert "has no model 'org/Rep' in " in refused("lmstudio:org/Rep")
    assert "which has org/Repo-GGUF/repo-Q" in refused("lmstudio:org/Repo-GGU")
    assert resolve("lmstudio:org/Repo-GGUF:Q8_0") == imported(folder / "repo-Q8_0.gguf")
    (folder / "repo-Q8_0.gguf").unlink()
    assert store.find("org/Repo-GGUF") == folder / "repo-Q4_0.gguf"


@pytest.mark.parametrize("named", [False, True])
def test_a_model_of_llama_cpp(home: Path, content: bytes, named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / ".cache" / "llama.cpp"
    if named:
        folder = home / "elsewhere"
        monkeypatch.setenv("LLAMA_CACHE", str(folder))
    folder.mkdir(parents=True)
    flat = folder / "ggml-org_Repo-GGUF_repo-q4_0.gguf"
    flat.write_bytes(content)
    (folder / "ggml-org_Repo-GGUF_mmproj-repo-f16.gguf").write_bytes(content)
    newer = stores.cached(folder, "org/new", {"new-Q8_0.gguf": content})
    hub = stores.cached(home / "hub", "org/hub", {"hub-Q4_0.gguf": content})
    store = STORES["llamacpp"]
    for name in ("ggml-org/Repo-GGUF", "ggml-org/Repo-GGUF:Q4_0", flat.name):
        assert store.find(name) == flat
    assert store.find("org/new:Q8_0") == newer / "new-Q8_0.gguf"
    assert store.find("org/hub") == hub / "hub-Q4_0.gguf"
    assert str(folder) in refused("llamacpp:org/none")
    assert "`llama-server -hf org/none`" in refused("llamacpp:org/none")


def test_parts_are_named(home: Path, content: bytes) -> None:
    folder = home / ".lmstudio" / "models" / "org" / "big"
    folder.mkdir(parents=True)
    for part in (1, 2):
        (folder / f"big-Q8_0-0000{part}-of-00002.gguf").write_bytes(content)
    assert "is one of 2 parts" in refused("lmstudio:org/big")
    assert "in several parts; name the first" in refused("lmstudio:org/big:Q8_0")


def test_a_file_that_is_no_model(home: Path, content: bytes) -> None:
    """A store's file is checked like any other, before its weights are read."""
    stores.ollama(home / ".ollama" / "models", "m", content[:-1000])
    assert "was cut off" in refused("ollama:m")
    stores.ollama(home / ".ollama" / "models", "n", b"GGML" + content)
    assert "is no GGUF file" in refused("ollama:n")


def test_a_store_that_may_not_be_looked_into(home: Path, content: bytes) -> None:
    """As that of Ollama's service may be, whose files belong to a user of its own: no reason to fail."""
    root = home / ".ollama" / "models"
    stores.ollama(root, "m", content)
    home.chmod(0o755)
    for closed in (root / "manifests", root, root.parent):
        closed.chmod(0)
        try:
            with as_nobody():
                said = refused("ollama:m")
                held = STORES["ollama"].held()
        finally:
            closed.chmod(0o755)
        assert "Ollama has no model 'm' in " in said
        assert held == []


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, if these tests have them."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
