"""`airdraft trace`: one text as a timeline."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from airdraft.cli import options
from airdraft.cli.output import noted
from airdraft.cli.waiting import stopping
from airdraft.demo.show import played
from airdraft.errors import BadParameterError
from airdraft.files import output
from airdraft.page.replay import standalone
from airdraft.telemetry.hosts import OwnNames
from airdraft.telemetry.http import plain, serving
from airdraft.telemetry.logs import printable
from airdraft.telemetry.trace import read, summary

WIDTH = 24
"""Characters of the bar that shows an event's time."""
MOST_VIEWED = 8
"""Most traces on one page."""
BARS = {"call": "━", "committed": "●", "draft": "▸"}

trace = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="""Traces of texts: shown as a timeline, or played again.

`airdraft edge` and `airdraft device` write them with --trace-dir.

  airdraft trace show traces/TEXT.jsonl
""",
)


@trace.callback()
def _root() -> None:
    pass


@trace.command()
def show(
    file: Annotated[Path, typer.Argument(help="A trace.")],
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Show the events of a text as a timeline, and the text in numbers.

    airdraft trace show traces/TEXT.jsonl
    """
    events = read(file)
    numbers = summary(events)
    if as_json:
        typer.echo(json.dumps({"summary": numbers, "events": events}))
        return
    console = Console(no_color=no_color, highlight=False)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("event", no_wrap=True)
    table.add_column("", overflow="fold")
    table.add_column("when", no_wrap=True, min_width=WIDTH)
    whole = events[-1]["t"] or 1.0
    for event in events:
        table.add_row(
            f"{1e3 * event['t']:.1f}", Text(printable(str(event["event"]))), Text(_details(event)), _bar(event, whole)
        )
    console.print(table)
    console.print(Text(_line(numbers)))


@trace.command()
def view(
    files: Annotated[list[Path], typer.Argument(help="Traces; several are played from one start.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the page to this file, which needs nothing else, and end.")
    ] = None,
    terminal: Annotated[bool, typer.Option("--terminal", help="Play it here instead, one text.")] = False,
    speed: Annotated[float, typer.Option(help="In the terminal: 2 is twice as fast as it was written.")] = 1.0,
    host: options.Host = "127.0.0.1",
    port: options.Port = 0,
    no_color: options.NoColor = False,
    until_eof: options.UntilEof = False,
) -> None:
    """Play texts again as they were written: who found each token, and every flight, with a slider for the time.

    airdraft trace view traces/*.jsonl                    a page on this machine
    airdraft trace view A.jsonl B.jsonl --out race.html   one file to send
    airdraft trace view A.jsonl --terminal --speed 0.5
    """
    if len(files) > MOST_VIEWED:
        raise BadParameterError(f"{len(files)} traces are too many for one page; name at most {MOST_VIEWED}")
    if terminal and (out is not None or len(files) > 1):
        raise BadParameterError("--terminal plays one trace, and writes no file; leave the others out")
    if not 0.01 <= speed <= 1000:  # NaN lands here too
        raise BadParameterError(f"--speed is {speed:g}; give 0.01 to 1000")
    traces = [read(file) for file in files]
    if terminal:
        _play(traces[0], speed, Console(no_color=no_color, highlight=False))
        return
    content = standalone(traces)
    if out is None:
        asyncio.run(_serve(content, host, port, until_eof))
        return
    with output(out) as file:
        file.write(content.encode())
    typer.echo(f"{out} plays {len(traces)} trace{'s' if len(traces) > 1 else ''} in any browser")


async def _serve(content: str, host: str, port: int, until_eof: bool) -> None:
    async def answer(_: Request) -> Response:
        return HTMLResponse(content)

    app = OwnNames([host]).guard(plain([Route("/", answer)]))
    async with serving(app, host, port) as found:
        stopped = stopping(until_eof)
        typer.echo(f"the page is at {options.address(host, found).replace('ws://', 'http://', 1)}/ (Ctrl-C stops it)")
        await stopped.wait()


def _play(events: list[dict[str, Any]], speed: float, console: Console) -> None:
    """Print the tokens at the times at which they came; at once where nobody watches."""
    now = 0.0
    for event in events:
        if event["event"] == "ready" and now == 0:
            console.print(Text(_lines("".join(event.get("pieces", []))), "dim"), end="", soft_wrap=True)
        if event["event"] != "committed":
            continue
        if console.is_terminal:
            time.sleep(max(0.0, event["t"] - now) / speed)
        now = event["t"]
        pieces, by = event.get("pieces"), event.get("by") or []
        for at in range(len(pieces if pieces is not None else by)):
            piece = None if pieces is None else _lines(pieces[at])
            console.print(played(piece, by[at] if at < len(by) else ""), end="", soft_wrap=True)
    console.print()
    noted(console, Text(_line(summary(events))))


def _lines(text: str) -> str:
    """`text` with its lines, and nothing else that a terminal would act upon."""
    return "\n".join(map(printable, text.split("\n")))


def _bar(event: dict[str, Any], whole: float) -> Text:
    """A bar that shows where an event stands between the first and the last."""
    end = min(WIDTH - 1, int(WIDTH * event["t"] / whole))
    begin = min(end, max(0, int(WIDTH * event.get("began", event["t"]) / whole)))
    return Text(" " * begin + BARS.get(event["event"], "·") * (end - begin + 1))


def _details(event: dict[str, Any]) -> str:
    """The other fields of an event, in short."""
    parts = []
    for name, value in event.items():
        if name in ("t", "event"):
            continue
        if name == "began":
            parts.append(f"{1e3 * (event['t'] - value):.1f} ms")
        elif name == "ids":
            parts.append(f"ids {' '.join(map(str, value))}")
        else:
            parts.append(f"{name} {value}")
    return printable(", ".join(parts))


def _line(numbers: dict[str, Any]) -> str:
    parts = [
        f"{numbers['tokens']} tokens in {numbers['seconds']:.3f} s: {numbers['accepted']} accepted of "
        f"{numbers['drafted']} drafted, {numbers['written']} by the target"
    ]
    if numbers["first_token_s"] is not None:
        parts.append(f"first after {1e3 * numbers['first_token_s']:.1f} ms")
    if numbers["token_s"]:
        parts.append(f"then {1 / numbers['token_s']:.1f} tokens/s")
    if numbers["calls"]:
        parts.append(
            f"{numbers['calls']} calls of the engine, {numbers['engine_s']:.3f} s, "
            f"of {numbers['mean_batch']:.1f} texts in the mean"
        )
    parts.append(f"{numbers['end'] or 'no end'} ({numbers['why']})" if numbers["why"] else numbers["end"] or "no end")
    return printable("; ".join(parts))
