"""`airdraft models`: a table for people, JSON for machines, and what to do where there is nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from airdraft import cli

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from ..models import stores
from ..models.imports.made import Made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def command(*words: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["airdraft", "models", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) == code
        out, err = capfd.readouterr()
        return out, err

    return command


def test_nothing_here(run) -> None:  # type: ignore[no-untyped-def]
    out, _ = run("--no-color")
    assert "No other model is here. To get one:" in out
    assert "A: one vocabulary, so any of these drafts for a larger one: draft, target" in out


def test_a_table(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    raw = Made(kind="Q4_0").write(tmp_path / "m.gguf").read_bytes()
    stores.ollama(tmp_path / ".ollama" / "models", "llama3.2", raw, tag="1b")
    long = tmp_path / "models" / ("very-long-name-" * 10)
    long.mkdir(parents=True)
    (long / "[red]x\x1b[31m.gguf").write_bytes(raw)
    (long / "cut.gguf").write_bytes(raw[:-9])
    out, _ = run(str(tmp_path / "models"), "--no-color")
    lines = out.splitlines()
    [row] = [line for line in lines if line.startswith(" ollama:llama3.2:1b ")]
    assert row.split()[1:5] == ["Ollama", "onnx", "Q4_0", f"{len(raw) / 1e6:.1f}"]
    assert str(long / "[red]x") in out
    assert "\x1b" not in out
    [said] = [line for line in lines if line.startswith(f"{long / 'cut.gguf'}: ")]
    assert "was cut off" in said
    assert any(": one vocabulary" in line and "ollama:llama3.2:1b" in line for line in lines)
    assert "To get one" not in out


def test_json(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    raw = Made(kind="Q4_0").write(tmp_path / "m.gguf").read_bytes()
    stores.ollama(tmp_path / ".ollama" / "models", "llama3.2", raw)
    stores.ollama(tmp_path / ".ollama" / "models", "bad", raw, digest="none")
    out, err = run("--json")
    assert err == ""
    told = json.loads(out)
    rows = {row["name"]: row for row in told["models"]}
    assert rows["ollama:llama3.2:latest"]["size_bytes"] == len(raw)
    assert rows["ollama:llama3.2:latest"]["vocabulary"]["tokens"] > 256
    assert not rows["ollama:bad:latest"]["usable"]
    assert ["draft", "target"] in told["pairs"]


def test_a_folder_that_is_none(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, err = run(str(tmp_path / "none"), code=2)
    assert err == f"airdraft: {tmp_path / 'none'} is no folder, or cannot be looked into; name one that holds models\n"


def test_the_help_teaches(run) -> None:  # type: ignore[no-untyped-def]
    out, _ = run("--help")
    for word in ("Ollama", "LM Studio", "llama.cpp", "Hugging Face", "share one vocabulary", "MODEL"):
        assert word in out
