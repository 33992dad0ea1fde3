"""What defines a target: equal weights are equal wherever they lie, any other byte is noticed, looking is cheap."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import ModelError
from airdraft.models.files import digest as module
from airdraft.models.files.digest import (
    BYTES,
    ROUNDING,
    STEPS,
    file_digest,
    files_digest,
    of_target,
    probe,
    same,
    words,
)
from airdraft.models.files.folder import shipped
from airdraft.models.files.weights import checkpoint_files, gguf_files
from airdraft.models.registry import ENGINES, load_target
from airdraft.models.text import Tokenizer

from ..pairs import copied

SECONDS_AGO = 60


@pytest.fixture(autouse=True)
def cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own; unless real models are read, parts of 100 bytes, and a note of each file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if "own" not in request.fixturenames:
        monkeypatch.setattr(module, "_PART_BYTES", 100)
        monkeypatch.setattr(module, "_WORTH_BYTES", 1)
    return tmp_path / "cache" / "airdraft" / "digests"


@pytest.mark.parametrize("size", [2, 99, 100, 101, 1000, 1050])
def test_every_byte_counts(size: int, tmp_path: Path) -> None:
    data = bytearray(np.random.default_rng(size).bytes(size))
    path = tmp_path / "file"
    seen = set()
    for at in [None, *{0, size // 2, size - 1}]:
        changed = bytearray(data)
        if at is not None:
            changed[at] ^= 1
        path.write_bytes(changed)
        seen.add(file_digest(path))
    for other in (data[:-1], data + b"\0", b""):
        path.write_bytes(other)
        seen.add(file_digest(path))
    assert len(seen) == 4 + len({0, size // 2, size - 1})


def test_parts_do_not_swap(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 100 + b"b" * 100)
    one = file_digest(path)
    path.write_bytes(b"b" * 100 + b"a" * 100)
    assert file_digest(path) != one


def aged(path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was written long ago, as far as the module knows."""
    path.write_bytes(data)
    now = time.time_ns()
    monkeypatch.setattr(module.time, "time_ns", lambda: now + SECONDS_AGO * 10**9)
    return path


def test_a_file_that_has_not_changed_is_not_read_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = aged(tmp_path / "file", b"x" * 250, monkeypatch)
    first = file_digest(path)
    (kept,) = cache.iterdir()
    assert kept.read_text() == first.hex()
    reads: list[int] = []
    monkeypatch.setattr(module, "_hashed", lambda *_: reads.append(1))
    assert file_digest(path) == first
    assert not reads


def test_a_copy_over_a_file_is_noticed_though_size_and_time_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = aged(tmp_path / "file", b"x" * 250, monkeypatch)
    first, before = file_digest(path), path.stat()
    path.write_bytes(b"y" * 250)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(path) != first


def test_too_new_a_file_is_not_noted(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    file_digest(tmp_path / "file")
    assert not cache.exists()


@pytest.mark.parametrize("note", ["", "zz", "00", "0" * 63, "\xff"])
def test_a_broken_note_is_written_again(
    note: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = aged(tmp_path / "file", b"x" * 250, monkeypatch)
    first = file_digest(path)
    (kept,) = cache.iterdir()
    kept.write_text(note, "latin-1")
    assert file_digest(path) == first
    assert kept.read_text() == first.hex()


def test_without_a_cache_folder_it_is_only_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    path = aged(tmp_path / "file", b"x" * 250, monkeypatch)
    assert file_digest(path) == file_digest(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing cannot be read \(No such file or directory\); fetch it again"):
        file_digest(tmp_path / "nothing")


def test_a_config_is_what_it_says(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name / "config.json" for name in ("one", "two", "other"))
    for path, text in (
        (one, '{"a": 1, "rope": {"b": 2, "c": 3}}'),
        (two, '{\n "rope": {"c": 3, "b": 2}, "a": 1, "transformers_version": "5.0", "_name_or_path": "x"}'),
        (other, '{"a": 1, "rope": {"b": 2, "c": 4}}'),
    ):
        path.parent.mkdir()
        path.write_text(text)
    assert files_digest([one]) == files_digest([two]) != files_digest([other])


@pytest.fixture(scope="module")
def own() -> bytes:
    return load_target("target")[0].info.digest


def test_a_copy_under_another_path_is_the_same_target(own: bytes, tmp_path: Path) -> None:
    folder = copied("target", tmp_path / "elsewhere")
    found = load_target(str(folder))[0].info
    assert len(own) == BYTES
    assert same(found.digest, own)
    assert found.name != "target"


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_one_other_byte_of_any_file_is_another_target(own: bytes, name: str, tmp_path: Path) -> None:
    folder = copied("target", tmp_path / "target")
    files = ENGINES["onnx"].weights(folder)
    data = bytearray((folder / name).read_bytes())
    data[-5] ^= 1
    (folder / name).write_bytes(data)
    tokenizer = Tokenizer(shipped("target")).digest
    assert of_target(b"", ENGINES["onnx"].weights(shipped("target")), tokenizer) == own
    assert of_target(b"", files, tokenizer) != own


def test_another_tokenizer_or_precision_is_another_target(own: bytes) -> None:
    files = ENGINES["onnx"].weights(shipped("target"))
    tokenizer = Tokenizer(shipped("target")).digest
    assert of_target(b"", files, bytes(16)) != own
    assert of_target(words("bfloat16"), files, tokenizer) not in (own, of_target(words("float32"), files, tokenizer))


def test_files_of_a_checkpoint(tmp_path: Path) -> None:
    def names() -> list[str]:
        return [file.name for file in checkpoint_files(tmp_path)]

    assert names() == ["config.json"]
    for made in ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "other.bin"):
        (tmp_path / made).touch()
    (tmp_path / "pytorch_model.bin.index.json").touch()
    assert names() == ["config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    (tmp_path / "model.safetensors").touch()
    assert names() == ["config.json", "model.safetensors"]


def test_files_of_a_gguf_in_parts(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    for file in [*parts, tmp_path / "m-00001-of-00002.gguf", tmp_path / "other.gguf"]:
        file.touch()
    assert gguf_files(parts[0]) == parts
    assert gguf_files(tmp_path / "other.gguf") == [tmp_path / "other.gguf"]


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=32), st.integers(0, 31), st.floats(-1, 1))
def test_a_probe_may_differ_by_rounding_and_no_more(values: list[float], which: int, by: float) -> None:
    which %= len(values)
    moved = [value + by * (i == which) for i, value in enumerate(values)]
    one, other = words("x") + probe(values), words("x") + probe(moved)
    steps = abs(round(moved[which] * STEPS) - round(values[which] * STEPS))
    assert same(one, other) == same(other, one) == (steps <= ROUNDING)
    assert not same(one, words("y") + probe(values))
    assert not same(one, one[:-2])


@pytest.mark.parametrize("said", [b"", b"x", bytes(15), bytes(17)])
def test_who_says_nothing_is_like_nobody(said: bytes) -> None:
    assert not same(said, said)


def test_probes_of_wild_values_are_bounded() -> None:
    assert probe([float("-inf"), -1e9, 1e9]) == probe([-128.0, -128.0, 127.999])
    assert len(json.dumps(probe([-1.0] * 32).hex())) == 2 * 64 + 2


def test_the_shipped_draft_is_not_the_shipped_target(own: bytes, tmp_path: Path) -> None:
    shutil.copytree(shipped("draft"), tmp_path / "target", dirs_exist_ok=True)
    shutil.copy(shipped("target") / "tokenizer.json", tmp_path / "target")
    assert not same(load_target(str(tmp_path / "target"))[0].info.digest, own)
