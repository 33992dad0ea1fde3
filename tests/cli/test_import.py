"""`airdraft import`: a folder that the onnx engine runs, or one line that says why not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airdraft import cli
from airdraft.models.registry import load

pytest.importorskip("gguf", reason="writing the file takes the gguf package")

from ..models.imports.made import Made

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error of `airdraft import`."""

    def importing(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["airdraft", "import", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capfd.readouterr()

    return importing


def test_import_says_what_it_made(run: Run, tmp_path: Path) -> None:
    file, out = Made(kind="Q4_1", embeddings="Q8_0").write(tmp_path / "a.gguf"), tmp_path / "new" / "folder"
    code, said, errors = run(str(file), str(out))
    assert (code, errors) == (0, "")
    assert said.startswith(f"{out}: llama, 2 layers, 266 tokens, context 64\ntensors: 5 F32, 14 Q4_1, 1 Q8_0; ")
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "model.onnx", "model.onnx_data", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert load(str(out))[0].vocab_size == 266
    code, _, errors = run(str(file), str(out))
    assert code == 2
    assert errors == f"airdraft: {out} is not empty; name a folder that does not exist yet\n"


def test_import_in_json(run: Run, tmp_path: Path) -> None:
    file = Made(kind="F16").write(tmp_path / "a.gguf")
    made = json.loads(run(str(file), str(tmp_path / "out"), "--json")[1])
    assert made["formats"] == {"F16": 15, "F32": 5}
    assert made["source_bytes"] == file.stat().st_size
    assert made["weight_bytes"] == (tmp_path / "out" / "model.onnx_data").stat().st_size


def test_import_of_what_is_no_model(run: Run, tmp_path: Path) -> None:
    code, _, errors = run(str(tmp_path / "none.gguf"), str(tmp_path / "out"))
    assert code == 2
    assert errors.startswith(f"airdraft: no model '{tmp_path}/none.gguf'; name ")
    assert errors.count("\n") == 1
