"""The help of every command: it fits a screen, has an example that is a command line, and leaves no option out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from rich.markup import render
from typer.core import TyperOption
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.cli.explained import FULL, MANY, FoldedCommand

from ..docs.test_site import parsed, program

LINES, COLUMNS = 50, 80
"""A screen: what the terminals of today open with is about so high; a width that every terminal has."""


def commands(command: Any, *words: str) -> Iterator[tuple[str, Any]]:
    """Every command and group by the words that call it."""
    yield " ".join(words), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *words, name)


COMMANDS = dict(commands(program()))
FOLDED = [words for words, each in COMMANDS.items() if isinstance(each, FoldedCommand) and each.folded()]


def said(words: str, option: str) -> str:
    told = CliRunner().invoke(
        app, [*words.split(), option], prog_name="airdraft", env={"COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
    )
    assert told.exit_code == 0
    return told.stdout


@pytest.mark.parametrize("words", COMMANDS)
def test_it_fits_a_screen_and_names_every_option(words: str) -> None:
    shown = said(words, "--help")
    lines = shown.strip("\n").splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert not re.search(r"\[/?(?:bold|cyan|dim)\]", shown)  # markup that was not understood
    options = [each for each in COMMANDS[words].params if isinstance(each, TyperOption) and not each.hidden]
    assert not [each.opts[0] for each in options if not re.search(rf"{each.opts[0]}(?![\w-])", shown)]


@pytest.mark.parametrize("words", COMMANDS)
def test_it_has_examples_that_are_command_lines(words: str) -> None:
    start = f"airdraft {words}".strip()
    lines = re.findall(
        rf"(?:^|  |\| ){start}(?= |$).*", render(COMMANDS[words].help).plain.replace("\\\n", " "), re.MULTILINE
    )
    assert lines
    for line in lines:
        asked = shlex.split(re.split(r"   +", line.strip(" |"))[0])[1:]
        try:
            parsed(program(), asked)
        except (typer.Exit, SystemExit):
            continue


@pytest.mark.parametrize("words", FOLDED)
def test_what_is_only_named_is_explained_on_request(words: str) -> None:
    short, full, command = said(words, "--help"), said(words, FULL), COMMANDS[words]
    assert FULL in short
    assert len(full) > len(short)
    for panel, options in command.folded().items():
        assert re.search(rf"^╭─ {panel} ─", full, re.MULTILINE)
        assert not re.search(rf"^╭─ {panel} ─", short, re.MULTILINE)
        for each in options:
            assert re.search(rf"^│ [* ]? *{each.opts[0]}[ ,]", full, re.MULTILINE)
    assert len([each for each in command.params if isinstance(each, TyperOption) and not each.hidden]) >= MANY


def test_large_commands_are_among_them() -> None:
    assert {"run", "chat", "edge", "device", "demo"} <= set(FOLDED)
    assert "link" not in FOLDED
