"""Every page of the documentation: its links lead somewhere, its commands are commands, and it becomes a site."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from airdraft.cli import app
from bench import site

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `airdraft ...` in a block: the page's name, and the words of the command."""
    for page in site.pages():
        for kind, block in BLOCK.findall(page.read_text("utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                if kind not in ("", "sh") or not re.match(r"([A-Z_]+=\S+ )*airdraft ", line):
                    continue
                words = shlex.split(line, comments=True)
                words = words[words.index("airdraft") + 1 :]
                ends = [at for at, word in enumerate(words) if word in ("|", ">", "&", "&&", "2>", ";")]
                yield str(page.relative_to(site.ROOT)), words[: ends[0]] if ends else words


def program() -> Any:
    """All commands, each made once."""
    whole: Any = get_command(app)
    whole.commands = dict(whole.commands)
    return whole


def parsed(command: Any, words: list[str], parent: Any = None, name: str = "airdraft") -> None:
    """Read a command line as the program does, without doing anything."""
    with command.make_context(name, list(words), parent=parent) as context:
        if hasattr(command, "commands"):
            name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            parsed(inner, rest, context, name)


def test_every_link_leads_somewhere() -> None:
    assert not site.broken()


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, other = tmp_path / "a.md", tmp_path / "b.md"
    page.write_text("[a](b.md#here) [b](b.md#gone) [c](c.md) [d](../d.md) [e](https://example.org/e) `[f](f.md)`")
    other.write_text("# Here\n")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "pages", lambda: [page, other])
    assert site.broken() == [f"a.md: {link} leads nowhere" for link in ("b.md#gone", "c.md", "../d.md")]


@pytest.mark.slow
def test_every_command_on_a_page_is_one() -> None:
    wrong, count, whole = [], 0, program()
    for page, words in commands():
        count += 1
        try:
            parsed(whole, words)
        except (typer.Exit, SystemExit):
            continue
        except Exception as problem:  # whatever the parser raises is what a reader would see
            wrong.append(f"{page}: airdraft {shlex.join(words)}: {problem}")
    assert not wrong
    assert count > 100


def test_what_is_no_command_is_found() -> None:
    for words in (["run", "a", "--no-such-option"], ["bench", "grit"], ["edge", "--port", "many"]):
        with pytest.raises(Exception, match=r"."):
            parsed(program(), words)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="needs the extra docs")
def test_the_site_is_built_without_a_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.site"], cwd=site.ROOT, capture_output=True, text=True, timeout=600, check=False,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    built = (site.ROOT / "build" / "site" / "docs" / "commands.html").read_text("utf-8")
    assert "--uplink-mbps" in built
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?:", built), "an asset from outside"


def test_every_page_has_a_place() -> None:
    named = set(re.findall(r'"([^"]+\.md)"', (site.ROOT / "zensical.toml").read_text("utf-8")))
    there = {str(page.relative_to(site.ROOT)) for page in site.pages()} | {"docs/commands.md"}
    assert there == named
