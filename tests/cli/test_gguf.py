"""`airdraft gguf`: a file that llama.cpp runs, or one line that says why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from airdraft.cli.gguf import gguf
from airdraft.errors import ModelError
from airdraft.models.text import Tokenizer

pytest.importorskip("gguf", reason="needs the extra llamacpp")
pytest.importorskip("safetensors", reason="needs the extra llamacpp")


def say(*words: str) -> str:
    """Standard output of `airdraft gguf`. Raises what the command raises."""
    app = typer.Typer()
    app.command()(gguf)
    ended = CliRunner().invoke(app, list(words))
    if isinstance(ended.exception, ModelError):
        raise ended.exception
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_it_writes_a_folder_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "new" / "draft.gguf"
    assert say("draft", str(out), "--type", "q8_0") == f"{out}: 1.8 MB, q8_0\n"
    assert Tokenizer(out.parent).vocab_size == 4096
    pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    from airdraft.models.engines.llamacpp import LlamaCppModel

    model = LlamaCppModel(out.parent)
    assert model.forward(model.new_cache(), 0, [0, 1, 2], 1).shape == (1, 4096)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder 'nowhere'; name 'target', 'draft' or the folder of a checkpoint"):
        say("nowhere", str(tmp_path / "model.gguf"))


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "from pathlib import Path\n"
        "from airdraft.cli.gguf import gguf\n"
        "from airdraft.errors import ModelError\n"
        "try: gguf('draft', Path(sys.argv[1]))\n"
        "except ModelError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.gguf")], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "writing GGUF needs the package gguf; install it, `pip install gguf`\n"
