"""The command line. Every mistake ends in one line that names the thing and the remedy, and exit code 2."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from airdraft.cli.explained import FoldedCommand, flowing
from airdraft.cli.output import UnreadError, forgiving, one_line
from airdraft.errors import AirdraftError
from airdraft.version import __version__

COMMANDS = {
    "demo": ("demo:demo", "See every scheme side by side, over an emulated link."),
    "chat": ("chat:chat", "Chat with a model: drafted here, verified at the edge."),
    "run": ("run:run", "Continue PROMPT: draft on this device, verify at the edge."),
    "edge": ("edge:edge", "Serve a target model: verify what devices draft, or stream."),
    "device": ("device:device", "Serve OpenAI's API here: drafted here, verified at the edge."),
    "doctor": ("doctor:doctor", "Look at a pair of models: what fits, costs and would gain."),
    "models": ("models:models", "List the models on this machine, and which go together."),
    "prompt": ("prompts:prompt", "Prompts computed once, whose keys and values edges read."),
    "link": ("link:link", "Emulate a slow link in front of an edge, in real time."),
    "channel": ("channel:channel", "Wireless channels, simulated or recorded: made, estimated and predicted."),
    "plan": ("plan:plan", "Predict which scheme is fastest for a link and a pair."),
    "compress": ("compress:compress", "Write a model in few bits, and say how much it agrees."),
    "gguf": ("gguf:gguf", "Write a checkpoint as GGUF, for llama.cpp."),
    "chaos": ("chaos:chaos", "Write texts through faults of link and edge, and compare."),
    "fuzz": ("fuzz:fuzz", "Send both sides, and the decoder, what no honest peer would."),
    "conform": ("conform:conform", "Test whether texts are distributed as the target's own."),
    "import": ("import_:import_", "Turn a GGUF file or a checkpoint into an onnx folder."),
    "reproduce": ("reproduce:reproduce", "Run papers' own experiments again, with everything billed."),
    "bench": ("bench:bench", "The laboratory: every scheme, many links, virtual time."),
    "trace": ("trace:trace", "Traces of texts: shown as a timeline, or played again."),
}
"""Where each command is (a module of this package, and a function in it or a group of commands), and how its help
begins: `airdraft --help` lists them all and imports none."""


class _Commands(Mapping[str, Any]):
    """The commands by name, each imported when it is looked up: one command need not wait for all others' imports."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = COMMANDS[name][0].partition(":")
        found = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            found, function = typer.Typer(rich_markup_mode="rich", add_completion=False), found
            found.command(name, cls=FoldedCommand)(function)
        command = get_command(found)
        command.name = name
        for each in (command, *getattr(command, "commands", {}).values()):
            each.help = flowing(each.help or "")
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

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Lists every command by its first sentence, and imports none."""
        self.commands = {name: TyperCommand(name, help=says) for name, (_, says) in COMMANDS.items()}
        super().format_help(ctx, formatter)


app = typer.Typer(
    cls=_Group,
    name="airdraft",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Draft on the device, verify at the edge.

A small draft model here proposes tokens; a large target model at the edge
verifies them. What you read is exactly what the target alone would write.

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
    """Run the command line: what `airdraft` does once this module is imported. Raises: `KeyboardInterrupt`."""
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
