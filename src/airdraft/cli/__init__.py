"""The command line. Every mistake ends in one line that names the thing and the remedy, and exit code 2."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Annotated

import typer

from airdraft.cli.bench import bench
from airdraft.cli.bench_edge import capacity, engines, hostile, sessions
from airdraft.cli.chaos import chaos
from airdraft.cli.chat import chat
from airdraft.cli.demo import demo
from airdraft.cli.device import device
from airdraft.cli.edge import edge
from airdraft.cli.fuzz import fuzz
from airdraft.cli.gguf import gguf
from airdraft.cli.import_ import import_
from airdraft.cli.link import link
from airdraft.cli.output import UnreadError, forgiving, one_line
from airdraft.cli.plan import plan
from airdraft.cli.run import run
from airdraft.cli.trace import trace
from airdraft.errors import AirdraftError
from airdraft.version import __version__

app = typer.Typer(
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

MODEL is `target` or `draft` (the pair that ships), a folder, a GGUF file, or
a hub id such as org/name.
""",
)

for command in (demo, chat, run, edge, device, link, plan, gguf, chaos, fuzz):
    app.command()(command)
app.command("import")(import_)
for measurement in (engines, sessions, capacity, hostile):
    bench.command()(measurement)
app.add_typer(bench, name="bench")
app.add_typer(trace, name="trace")


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
