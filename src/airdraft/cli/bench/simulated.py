"""`airdraft bench`: the laboratory's commands. They import the laboratory late, because that takes long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from airdraft.cli import options
from airdraft.cli.bench.forecasts import forecasts
from airdraft.cli.bench.results import (
    Jobs,
    JsonFile,
    Pages,
    console_for,
    jobs_of,
    progress,
    renew_pages,
    write_json,
)
from airdraft.errors import BadParameterError
from airdraft.files import check_output, read_bytes

if TYPE_CHECKING:
    from airdraft.lab.virtual.tracing import Traced
    from airdraft.lab.virtual.validate import Validation

SIMULATED = "simulated (virtual time)"

bench = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="""The laboratory: every scheme, many links, virtual time.

The two models' texts are recorded once; then the real machines write them
again over any link, at any compute speed, in milliseconds.

  airdraft bench grid --sample 30
""",
)


@bench.command()
def grid(
    sample: Annotated[
        int | None, typer.Option(metavar="N", help="Only N cells, drawn at random; without it, all of them.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="With --sample: which ones.")] = 0,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep each cell in FILE as it is done, and do not run again what it holds."),
    ] = None,
    json_file: JsonFile = None,
    jobs: Jobs = 0,
    no_color: options.NoColor = False,
) -> None:
    """Every scheme in every cell of RTT, uplink, compute and agreement; what is claimed of all cells.

    The whole grid takes most of an hour of CPU time, --sample 30 a few minutes.
    Ends with exit code 1 if a claim is not held.

      airdraft bench grid --sample 30 --json grid.json
    """
    from airdraft.lab.virtual import grid as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    check_output(keep)
    drawn = None if sample is None else lab.Sample(sample, seed)
    with console.status("the texts of both models are recorded"):
        recorded = lab.recordings()
    kept = None if keep is None else lab.KeptCells(keep, recorded)
    with progress(console, "cells") as on_cell:
        found = lab.run_grid(recorded, jobs_of(jobs), on_cell, drawn, kept)
    record = lab.record_of(recorded, found, drawn)
    write_json(json_file, record)
    which = "every cell" if drawn is None else f"every cell of a sample of {drawn.cells} (seed {drawn.seed})"
    console.print(f"{len(found):,} runs, {SIMULATED}. Each claim is about {which}; its worst is shown.")
    table = _table("claim", bar="bar", worst="worst", held="held?")
    for claim in record["claims"]:
        table.add_row(claim["claim"], f"{claim['bar']:g}", f"{claim['worst']:.3f}", _held(claim["held"]))
    console.print(table)
    for claim in record["claims"]:
        where = ", ".join(f"{name} {value}" if isinstance(value, str) else f"{name} {value:.4g}"
                          for name, value in claim["cell"].items())  # fmt: skip
        console.print(Text(f"{claim['claim']}, worst: {where}", "dim"))
    means = ", ".join(f"{mean:.2f} × {scheme}" for scheme, mean in record["means"].items())
    console.print(f"Speed of auto, geometric mean over all cells: {means}.")
    gains = ", ".join(f"{gain:.2f} × with {agreement}" for agreement, gain in record["gains"].items())
    console.print(f"What the edge's own copies add to a raced stream, geometric mean: {gains}.")
    inexact = lab.unheld(found)
    if inexact:
        console.print(f"NOT EXACT: {len(inexact)} runs, first {inexact[0]}")
    if inexact or not all(claim["held"] for claim in record["claims"]):
        raise typer.Exit(1)


@bench.command()
def report(
    grid_file: Annotated[Path, typer.Argument(metavar="GRID", help="What `airdraft bench grid --json` wrote.")],
    folder: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("docs/figures"),
    page: Pages = None,
) -> None:
    """Draw a grid: who wins where, speed over RTT, one text as it was written. Prints its tables as Markdown.

    Blocks `claims` and `typical` of a --page are renewed.

      airdraft bench report grid.json --folder figures
    """
    from airdraft.lab import report as lab  # noqa: PLC0415

    try:
        results = json.loads(read_bytes(grid_file))
    except OSError as error:
        raise BadParameterError(f"{grid_file} cannot be read ({error.strerror}); give a grid's JSON") from error
    except ValueError as error:
        raise BadParameterError(f"{grid_file} is not JSON ({error}); run `airdraft bench grid --json` again") from error
    if not isinstance(results, dict):
        raise BadParameterError(f"{grid_file} holds no grid; run `airdraft bench grid --json` again")
    for path in lab.report(results, folder):
        typer.echo(f"wrote {path}")
    blocks = lab.blocks(results)
    renew_pages(page, blocks)
    if not page:
        typer.echo("\n" + "\n\n".join(blocks.values()))


@bench.command()
def validate(json_file: JsonFile = None, page: Pages = None, no_color: options.NoColor = False) -> None:
    """Compare virtual time with the wall clock: real processes over an emulated link, and their replay. 4 minutes.

    Ends with exit code 1 if the median or the worst cell is off by too much.
    Other work on this machine makes the real runs slower.

      airdraft bench validate --json validate.json
    """
    from airdraft.lab.virtual import validate as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    pair = lab.ShippedPair()
    with progress(console, "cells") as on_cell:
        started = iter(range(len(lab.CHECKS)))
        found = asyncio.run(lab.validate(pair, on_check=lambda _: on_cell(next(started), len(lab.CHECKS))))
    write_json(json_file, found.record())
    console.print(
        f"Wall clock: {lab.TEXTS} texts of at most {lab.TOKENS} tokens over real processes, compute imitated. "
        f"Virtual time: profile and {_overhead(found)}.",
        soft_wrap=True,
    )
    table = _table("scheme", profile="profile", link="RTT, uplink", wall="tokens/s,\nwall", virtual="virtual",
                   error="error", bare="without\noverhead")  # fmt: skip
    for row in _validation_rows(found):
        table.add_row(*row)
    console.print(table)
    console.print(_verdict(found))
    renew_pages(page, {"validate": validation_block(found)})
    if not found.held:
        raise typer.Exit(1)


@bench.command()
def trace(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Traces, see docs/links.md.")],
    seconds: Annotated[float, typer.Option(help="Virtual time for each run of a trace, at most.")] = 60.0,
    rtt_ms: Annotated[float, typer.Option("--rtt-ms", help="Round trip of traces that have none.")] = 20.0,
    draft_ms: Annotated[float, typer.Option(help="A forward of the draft, for one token.")] = 15.0,
    verify_ms: Annotated[float, typer.Option(help="A forward of the target.")] = 30.0,
    forecast: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Compare auto with forecasts of the link and auto without instead: ewma, ridge, all, for nr snr, "
            "guard, model, for traces oracle; links by name (airdraft link --list) may stand among the files.",
        ),
    ] = None,
    json_file: JsonFile = None,
    page: Pages = None,
    jobs: Jobs = 0,
    no_color: options.NoColor = False,
) -> None:
    """Every scheme over traces of real links, in virtual time: tokens/s, and how long a token is waited for.

    Schemes with rounds run at the draft length that is best for the whole run.
    Ends with exit code 1 if auto falls short of the best exact scheme by more
    than 5 % on any run, or no run has a token.

      airdraft bench trace uplink.csv nr:distance=260,outages=5 --forecast ewma,ridge

    These write the blocks `forecast` (traces) and `forecast-named` (links by
    name) of a --page.
    """
    from airdraft.lab.virtual import tracing as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    if forecast is not None:
        links = [str(file) for file in files]
        numbers = rtt_ms, draft_ms, verify_ms, seconds
        forecasts(console, links, forecast, numbers, jobs_of(jobs), json_file, page)
        return
    todo = lab.tasks(files, rtt_ms, draft_ms, verify_ms, seconds)
    recorded = lab.recording()
    with progress(console, "runs") as on_run:
        found = lab.trace_all(recorded, todo, jobs_of(jobs), on_run)
    record = lab.record_of(found, todo[0].compute)
    write_json(json_file, record)
    about = (
        f"Pair at temperature {lab.TEMPERATURE:g}, draft {draft_ms:g} ms, target {verify_ms:g} ms, {SIMULATED}: "
        f"{seconds:g} s of each run, or all of it, from when the device has connected on."
    )
    verdict = _trace_verdict(found, record)
    console.print(about, soft_wrap=True)
    console.print(_speeds(found))
    console.print(_waits(found))
    console.print(verdict, soft_wrap=True)
    renew_pages(page, {"trace": trace_block(found, about, verdict)})
    inexact = [f"{each.name}: {row.scheme}" for each in found for row in each.speeds if not row.exact]
    if inexact:
        console.print(f"NOT EXACT: {'; '.join(inexact)}")
    if inexact or not record["held"]:
        raise typer.Exit(1)


def _trace_verdict(found: list[Traced], record: dict[str, Any]) -> str:
    from airdraft.lab.virtual import tracing as lab  # noqa: PLC0415

    worst = lab.worst(found)
    if worst is None:
        return "auto against the best exact scheme: no verdict, because no scheme wrote a token in time on any run."
    silent = record["silent"]
    return (
        f"auto against the best exact scheme: {worst.ratio:.3f} at worst ({worst.name}: {worst.best.scheme}); "
        f"bar {lab.BAR:g}: {_held(record['held'])}."
        + (
            f" No scheme wrote a token in time on {len(silent)} of {len(found)} runs: {', '.join(silent)}."
            * bool(silent)
        )
    )


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3f}"


def _speeds(found: list[Traced]) -> Table:
    """One line for each run, within 80 columns; draft lengths, outages and round trips are in the JSON."""
    schemes = {row.scheme: row.scheme.removeprefix("stream/").replace("+", "\n+") for row in found[0].speeds}
    table = _table("run", mbps="Mbit\n/s", **schemes, ratio="auto/\nbest")
    table.title, table.title_justify = "tokens/s; off and always: stream, by its race policy", "left"
    table.columns[0].overflow = "fold"
    for each in found:
        folder, run = _folder_and_run(each)
        name = f"{folder} {run.replace('Run ', '').replace(', part ', '.')}".strip()
        cells = [Text(f"{row.tokens_per_s:.1f}", "bold" if row is each.best else "") for row in each.speeds]
        table.add_row(name, f"{each.mean_mbps:.0f}", *cells, _ratio(each.ratio))
    return table


def _folder_and_run(traced: Traced) -> tuple[str, str]:
    """The folder of the file, or its name, and the run in it: files of a data set are named alike."""
    file, _, run = traced.name.partition(", ")
    return file.rpartition("/")[0] or file, run


def _waits(found: list[Traced]) -> Table:
    """The median over the runs, of each percentile, and of what the device pays."""
    table = _table("scheme", p50="p50", p95="p95", p99="p99", drafts="device drafts\na token")
    table.title, table.title_justify = "wait for a token, ms: percentiles of a run, the median run", "left"
    for row in _wait_rows(found):
        table.add_row(*row)
    return table


def _wait_rows(found: list[Traced]) -> Iterator[tuple[str, ...]]:
    for rows in zip(*(each.speeds for each in found), strict=True):
        percentiles = (median(getattr(row, f"wait_p{p}_ms") for row in rows) for p in (50, 95, 99))
        drafts = median(row.device_drafts_per_token for row in rows)
        yield rows[0].scheme, *(f"{value:.0f}" for value in percentiles), f"{drafts:.1f}"


def trace_block(found: list[Traced], about: str, verdict: str) -> str:
    """The tables of `airdraft bench trace` in Markdown: a line for each folder, with the median of its runs."""
    folders: dict[str, list[Traced]] = {}
    for each in found:
        folders.setdefault(_folder_and_run(each)[0], []).append(each)
    schemes = [row.scheme for row in found[0].speeds]
    lines = [
        f"{about} Tokens/s, the median of the runs.",
        "",
        f"| link | runs | Mbit/s | RTT | {' | '.join(f'`{scheme}`' for scheme in schemes)} | auto/best at worst |",
        f"|---|{'---:|' * (len(schemes) + 4)}",
    ]
    for folder, runs in folders.items():
        speeds = [
            median(row.tokens_per_s for row in rows) for rows in zip(*(each.speeds for each in runs), strict=True)
        ]
        cells = [
            folder, f"{len(runs)}", f"{median(each.mean_mbps for each in runs):.0f}",
            f"{median(each.rtt_ms for each in runs):.0f} ms", *(f"{speed:.1f}" for speed in speeds),
            _ratio(min((each.ratio for each in runs if each.ratio is not None), default=None)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| wait for a token, ms (percentile of a run, the median run) | p50 | p95 | p99 | device drafts a token |",
        "|---|---:|---:|---:|---:|",
        *(f"| `{scheme}` | {' | '.join(waits)} |" for scheme, *waits in _wait_rows(found)),
        "",
        verdict,
    ]
    return "\n".join(lines)


def _validation_rows(found: Validation) -> Iterator[tuple[str, ...]]:
    for each in found.found:
        check = each.check
        yield (
            check.label + (f", γ {check.length}" if check.length else ""),
            check.profile,
            f"{check.rtt_ms:g} ms, {check.uplink_mbps:g} Mbit/s",
            f"{each.wall_tokens_per_s:.1f}",
            f"{each.virtual_tokens_per_s:.1f}",
            f"{each.error:+.1%}",
            f"{each.bare_error:+.1%}",
        )


def _verdict(found: Validation) -> str:
    from airdraft.lab.virtual.validate import MEDIAN_BAR, WORST_BAR  # noqa: PLC0415

    others = ", ".join(f"{check.label} at {check.profile}" for check in found.others)
    return (
        f"Virtual time is off by {found.median_error:.1%} in the median cell and {found.worst_error:.1%} in the worst; "
        f"bars {MEDIAN_BAR:.0%} and {WORST_BAR:.0%}: {_held(found.held)}."
        + (f" NOT EXACT: {others} wrote other texts than the target." if others else "")
    )


def _overhead(found: Validation) -> str:
    draft_ms, verify_ms = 1e3 * found.overhead.draft_s, 1e3 * found.overhead.verify_s
    return (
        f"what was measured beyond it over bare loopback: {draft_ms:.2f} ms a draft, {verify_ms:.2f} ms a forward of "
        "the target"
    )


def validation_block(found: Validation) -> str:
    """The table of `airdraft bench validate`, in Markdown."""
    rows = "\n".join("| " + " | ".join(cells) + " |" for cells in _validation_rows(found))
    return f"""\
Tokens/s over real processes and an emulated link, and of the same texts in virtual time, whose forwards take the
profile's time and {_overhead(found)}.

| scheme | profile | RTT, uplink | wall clock | virtual | error | without the overhead |
|---|---|---|---:|---:|---:|---:|
{rows}

{_verdict(found)}"""


def _held(held: bool) -> str:
    return "yes" if held else "NO"


def _table(first: str, **headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first)
    for heading in headings.values():
        table.add_column(heading, justify="right", no_wrap=True)
    return table
