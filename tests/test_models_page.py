"""docs/models.md: every command on it is run, against models that the test puts where the page says they are."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from airdraft.models.imports.write import import_gguf

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from .e2e.processes import command
from .models import stores
from .models.hub_server import environment
from .models.imports.made import Made
from .models.imports.packed import Packed

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with two models, one larger than the other, in every place of the page."""
    home = tmp_path_factory.mktemp("home")
    models = home / "models"
    models.mkdir()
    big = Made(kind="Q4_K", layers=3).write(models / "big.Q4_K_M.gguf").read_bytes()
    small = Made(kind="Q8_0", layers=1).write(models / "small.Q8_0.gguf").read_bytes()
    import_gguf(models / "small.Q8_0.gguf", home / "made")
    Packed("awq").write(home / "Qwen2.5-7B-Instruct-AWQ")
    packed = Packed("gptq")
    packed.write(home / "Qwen2.5-0.5B-Instruct-GPTQ-Int4")
    packed.write_plain(home / "Qwen2.5-7B-Instruct")
    hub = home / "hf" / "hub"
    stores.cached(
        hub, "Qwen/Qwen2.5-1.5B-Instruct-GGUF", {"qwen2.5-1.5b-instruct-q4_k_m.gguf": big, "x-q8_0.gguf": big}
    )
    stores.cached(hub, "bartowski/Llama-3.2-3B-Instruct-GGUF", {"Llama-3.2-3B-Instruct-Q4_K_M.gguf": big})
    folder = {path.name: path.read_bytes() for path in (home / "made").iterdir()}
    graphs = ("onnx/model.onnx", "onnx/model_q4.onnx")
    files = {name: raw for name, raw in folder.items() if name.endswith(".json")}
    stores.cached(hub, "onnx-community/Qwen2.5-0.5B-Instruct", files | dict.fromkeys(graphs, folder["model.onnx"]) |
                  {"onnx/model.onnx_data": folder["model.onnx_data"]})  # fmt: skip
    for tag, raw in (("3b", big), ("1b", small)):
        stores.ollama(home / ".ollama" / "models", "llama3.2", raw, tag=tag)
    studio = home / ".lmstudio" / "models" / "lmstudio-community" / "Qwen2.5-7B-Instruct-GGUF"
    studio.mkdir(parents=True)
    (studio / "Qwen2.5-7B-Instruct-Q4_K_M.gguf").write_bytes(big)
    cpp = home / "cache" / "llama.cpp"
    cpp.mkdir(parents=True)
    (cpp / "bartowski_Qwen2.5-0.5B-Instruct-GGUF_Qwen2.5-0.5B-Instruct-Q4_K_M.gguf").write_bytes(small)
    return home


def test_there_are_five_ways() -> None:
    assert len(COMMANDS) >= 12
    assert all(line.startswith("airdraft ") for line in COMMANDS)
    named = {word.split(":")[0] for line in COMMANDS for word in shlex.split(line) if ":" in word}
    assert {"ollama", "lmstudio", "llamacpp", "Qwen/Qwen2.5-1.5B-Instruct-GGUF"} <= named


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page(line: str, home: Path) -> None:
    words = shlex.split(line)[1:]
    run = environment(home, None) | {"PYTHONWARNINGS": "error", "COLUMNS": "80"}
    if words[0] == "edge":
        with subprocess.Popen(
            command(*words, "--port", "0", "--json"), cwd=home, env=run, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                said: Any = json.loads(process.stdout.readline())
                assert said["event"] == "listening"
            finally:
                process.kill()
        return
    if words[0] == "run":
        words += ["--max-tokens", "6", "--seed", "1", "--json"]
    done = subprocess.run(command(*words), cwd=home, env=run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    if words[0] == "run":
        assert json.loads(done.stdout.splitlines()[-1])
    elif "--json" in words:
        told = json.loads(done.stdout)
        assert os.path.join("models", "big.Q4_K_M.gguf") in {each["name"] for each in told["models"]}
        assert any({"ollama:llama3.2:1b", "ollama:llama3.2:3b"} <= set(pair) for pair in told["pairs"])
    elif words[0] == "models":
        assert "ollama:llama3.2:3b" in done.stdout
    else:
        assert (home / words[-1] / "model.onnx").is_file()
