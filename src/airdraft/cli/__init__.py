"""The command line. Every mistake ends in one line that names the thing and the remedy, and exit code 2."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from airdraft.cli.output import UnreadError, forgiving, one_line
from airdraft.errors import AirdraftError
from airdraft.version import __version__

COMMANDS = {
    "demo": "demo:demo",
    "chat": "chat:chat",
    "run": "run:run",
    "edge": "edge:edge",
    "device": "device:device",
    "doctor": "doctor:doctor",
    "models": "models:models",
    "prompt": "prompts:prompt",
    "link": "link:link",
    "channel": "channel:channel",
    "plan": "plan:plan",
    "compress": "compress:compress",
    "gguf": "gguf:gguf",
    "chaos": "chaos:chaos",
    "fuzz": "fuzz:fuzz",
    "conform": "conform:conform",
    "import": "import_:import_",
    "reproduce": "reproduce:reproduce",
    "bench": "bench:bench",
    "trace": "trace:trace",
}
"""Where each command is: a module of this package, and a function in it or a group of commands."""


class _Commands(Mapping[str, Any]):
    """The commands by name, each imported when it is looked up: one command need not wait for all others' imports."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = COMMANDS[name].partition(":")
        found = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            found, function = typer.Typer(rich_markup_mode="rich", add_completion=False), found
            found.command(name)(function)
        command = get_command(found)
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    """`airdraft` itself."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Commands()  # type: ignore[assignment]  # nobody adds to it


app = typer.Typer(
    cls=_Group,
    name="airdraft",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Draft on the device, verify at the edge.

A small draft model here proposes tokens; a large target model at the edge
verifies them over a link that may be slow. What you read is exactly what the
target alone would have written.

[bold]Start here[/bold]

  airdraft demo                          every scheme side by side
  airdraft chat                          several turns, with a chat pair
  airdraft run "def fibonacci(n):"       one text, from an edge of its own
  airdraft edge --port 8571              serve a target; then, on the device:
  airdraft run "def f(x):" --edge ws://HOST:8571

MODEL is `target` or `draft` (the pair that ships), a folder, a GGUF file, a
hub id such as org/name or org/name:Q4_K_M, or a model that another program
keeps: ollama:NAME, lmstudio:NAME, llamacpp:NAME. `airdraft models` lists them.
""",
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    if version:
        typer.echo(f"airdraft {__version__}")
        raise typer.Exit


def main() -> None:
    """The entry point of the `airdraft` command."""
    logging.basicConfig(level=logging.WARNING, format="airdraft: %(levelname)s: %(message)s")
    logging.getLogger("websockets").setLevel(logging.ERROR)  # a port scanner's bytes are not worth a line
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it retries succeeds or becomes an airdraft error
    try:
        with forgiving():
            app()
    except UnreadError:
        sys.exit(1)
    except AirdraftError as error:
        with contextlib.suppress(OSError):  # standard error may be as full
            print(f"airdraft: {one_line(str(error))}", file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
