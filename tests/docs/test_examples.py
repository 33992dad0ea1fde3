"""The examples: each is run as a reader would run it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..e2e.processes import ENVIRONMENT, announced, started

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def edge() -> Iterator[str]:
    with started("edge", "--port", "0", "--json") as process:
        yield announced(process)["url"]


def said(name: str, *words: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        input=stdin, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_every_example_is_on_the_page_and_run_here() -> None:
    page, here = (EXAMPLES / "README.md").read_text("utf-8"), Path(__file__).read_text("utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f"({path.name})" in page
        assert f'"{path.name}"' in here


def test_chat() -> None:
    with started("edge", "--target", "chat-target", "--port", "0", "--json") as process:
        url = announced(process)["url"]
        answers = said("chat.py", url, stdin="Name a colour.\nName another.\n")
    assert len(answers.splitlines()) >= 2


def test_tunnel(edge: str) -> None:
    """The edge ends in the middle of the text, and is started again once the draft has gone on alone."""
    plain = said("tunnel.py", edge)
    shown, serving = "", ("edge", "--profile", "phone-8b", "--json", "--port")
    with started(*serving, "0") as first:
        url = announced(first)["url"]
        words = [sys.executable, str(EXAMPLES / "tunnel.py"), url]
        utf8 = {**ENVIRONMENT, "PYTHONIOENCODING": "utf-8"}
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=utf8, encoding="utf-8") as process:
            assert process.stdout is not None
            try:
                for piece in iter(lambda: process.stdout.read(1), ""):
                    shown += piece
                    if len(shown) == 60:
                        first.kill()
                    if "›" in shown:
                        break
                with started(*serving, url.rpartition(":")[2]):
                    shown += process.stdout.read()
                    assert process.wait(60) == 0
            finally:
                process.kill()
    assert re.sub("‹.*?›|«.*?»", "", shown, flags=re.DOTALL) == plain


def test_scheme() -> None:
    assert said("scheme.py").endswith(": exact\n")


def test_drafter(edge: str) -> None:
    assert said("drafter.py", edge).rstrip().endswith("the same text: True")


def test_sweep() -> None:
    assert len(said("sweep.py").splitlines()) == 6


def test_web(edge: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(EXAMPLES / "web.py"), edge, str(port)]
    with subprocess.Popen(words, env=ENVIRONMENT) as process:
        try:
            where = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    page = urllib.request.urlopen(where, timeout=10).read()
                    break
                except urllib.error.URLError:
                    time.sleep(0.1)
            assert b"EventSource" in page
            query = urllib.parse.urlencode({"q": "def area(r):"})
            with urllib.request.urlopen(f"{where}/write?{query}", timeout=60) as answer:  # noqa: S310
                events = answer.read().decode().split("\n\n")
            assert events[0].startswith('data: "')
        finally:
            process.kill()
