"""`airdraft models`: what is on this machine that a command takes as MODEL."""

from __future__ import annotations

import json
import string
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from airdraft.cli import options
from airdraft.cli.output import one_line
from airdraft.models.files.shelf import Shelved, found, shared

_WIDE = 1000
"""Columns of the table at most: names stay whole, however narrow the terminal, since they are there to be copied."""
_NEXT = """\
No other model is here. To get one:

  airdraft chat                                  fetches a chat model of 98 MB, once
  airdraft edge --target org/repo:Q4_K_M         a GGUF file of the Hugging Face hub
  airdraft edge --target ./model.gguf            a file that you have

Models of Ollama, LM Studio and llama.cpp are found by themselves."""


def models(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Further folders to look into.", metavar="FOLDER")
    ] = None,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """List the models on this machine, and which go together.

    Each name can be given as MODEL to any command. Looked into are the models
    that ship with airdraft, the stores of Ollama, LM Studio and llama.cpp, the
    cache of the Hugging Face hub, imported GGUF files, and the folders given.
    Only headers are read.

    A draft and its target must share one vocabulary. In the list, models that
    do have the same letter after the size of their vocabulary.

      airdraft models ./my-folder
    """
    every = found(folders or [])
    groups = shared(every)
    if as_json:
        told = [{**asdict(each), "note": one_line(each.note)} for each in every]
        typer.echo(json.dumps({"models": told, "pairs": [[each.name for each in group] for group in groups]}))
        return
    letters = {id(each): _letter(at) for at, group in enumerate(groups) for each in group}
    console = Console(no_color=no_color, highlight=False, width=_WIDE)
    console.print(_table(every, letters))
    for each in every:
        if each.note:
            console.print(Text(one_line(f"{each.name}: {each.note}"), "dim" if each.usable else "red"), soft_wrap=True)
    for at, group in enumerate(groups):
        names = one_line(", ".join(each.name for each in group))
        said = f"{_letter(at)}: one vocabulary, so any of these drafts for a larger one: {names}"
        console.print(Text(said), soft_wrap=True)
    if all(each.place == "airdraft" for each in every):
        console.print(Text(_NEXT), soft_wrap=True)


def _letter(at: int) -> str:
    letters = string.ascii_uppercase
    return letters[at] if at < len(letters) else f"{letters[at % len(letters)]}{at // len(letters)}"


def _table(every: list[Shelved], letters: dict[int, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("model", "kept by", "engine", "format"):
        table.add_column(heading, no_wrap=True)
    for heading in ("size", "context", "vocabulary"):
        table.add_column(heading, no_wrap=True, justify="right")
    for each in every:
        words = [Text(one_line(word)) for word in _row(each, letters.get(id(each), ""))]
        table.add_row(*words, style="" if each.usable else "red")
    return table


def _row(each: Shelved, letter: str) -> tuple[str, ...]:
    if not each.usable:
        return each.name, each.place, "–", "cannot be read", "–", "–", "–"
    tokens = f"{each.vocabulary.tokens:,} {letter}" if each.vocabulary else "–"
    context = f"{each.context:,}" if each.context else "–"
    return each.name, each.place, each.engine or "–", each.format or "–", _size(each.size_bytes), context, tokens


def _size(count: int) -> str:
    return "–" if not count else f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
