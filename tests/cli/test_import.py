"""`airdraft import`: a folder that the onnx engine runs, or one line that says why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from airdraft.models.engines import load

pytest.importorskip("gguf", reason="writing the file takes the gguf package")

from ..models.imports.made import Made


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airdraft", "import", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_import_says_what_it_made(tmp_path: Path) -> None:
    file, out = Made(kind="Q4_1", embeddings="Q8_0").write(tmp_path / "a.gguf"), tmp_path / "new" / "folder"
    ran = run(str(file), str(out))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"{out}: llama, 2 layers, 266 tokens, context 64\ntensors: 5 F32, 14 Q4_1, 1 Q8_0; ")
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "model.onnx", "model.onnx_data", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert load(str(out))[0].vocab_size == 266
    again = run(str(file), str(out))
    assert again.returncode == 2
    assert again.stderr == f"airdraft: {out} is not empty; name a folder that does not exist yet\n"


def test_import_in_json(tmp_path: Path) -> None:
    file = Made(kind="F16").write(tmp_path / "a.gguf")
    made = json.loads(run(str(file), str(tmp_path / "out"), "--json").stdout)
    assert made["formats"] == {"F16": 15, "F32": 5}
    assert made["source_bytes"] == file.stat().st_size
    assert made["weight_bytes"] == (tmp_path / "out" / "model.onnx_data").stat().st_size


def test_import_of_what_is_no_model(tmp_path: Path) -> None:
    ran = run(str(tmp_path / "none.gguf"), str(tmp_path / "out"))
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"airdraft: {tmp_path}/none.gguf cannot be read (")
    assert ran.stderr.count("\n") == 1
