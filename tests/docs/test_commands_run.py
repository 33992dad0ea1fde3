"""The tutorial and the how-tos: all that stands in their blocks is run, in order, in an empty folder.

A block marked `sh` is for a shell, one marked `python` a program. `airdraft edge` and `airdraft device` go on in the
background until the page ends, on ports that are free here.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from airdraft.sim import together

from ..e2e.processes import ENVIRONMENT, announced

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SERVER = re.compile(r"airdraft (?:edge|device) .*--port (\d+)")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder but for what a reader has: `airdraft` as a command, and a text to calibrate with."""
    command = tmp_path / "bin" / "airdraft"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m airdraft "$@"\n')
    command.chmod(0o755)
    (tmp_path / "code.txt").write_text(inspect.getsource(together) * 4)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_stands_on_a_page_works(page: Path, folder: Path) -> None:
    environment = ENVIRONMENT | {"PATH": f"{folder / 'bin'}:{ENVIRONMENT['PATH']}"}
    ports: dict[str, str] = {}
    blocks = BLOCK.findall(page.read_text("utf-8"))
    assert blocks or page.stem == "vllm"  # whose commands need a vLLM; its tests are those of the engine
    with contextlib.ExitStack() as background:
        for kind, block in blocks:
            said = block
            for port, here in ports.items():
                said = said.replace(port, here)
            server = SERVER.match(said)
            if server:
                words = [*shlex.split(said.replace(f"--port {server[1]}", "--port 0")), "--json"]
                process = background.enter_context(
                    subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE)
                )
                background.callback(process.kill)
                ports[server[1]] = announced(process)["url"].split(":")[2].split("/")[0]
                continue
            line = ["bash", "-ec", said] if kind == "sh" else [sys.executable, "-c", said]
            done = subprocess.run(
                line, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False
            )
            assert done.returncode == 0, f"{said}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr
