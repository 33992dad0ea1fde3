"""`airdraft trace`: one text as a timeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from airdraft.cli import options
from airdraft.telemetry.logs import printable
from airdraft.telemetry.trace import read, summary

WIDTH = 24
"""Characters of the bar that shows an event's time."""
BARS = {"call": "━", "committed": "●", "draft": "▸"}

trace = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Traces of texts, as `airdraft edge` and `airdraft device` write them with --trace-dir.",
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
    """Show the events of a text as a timeline, and the text in numbers."""
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
