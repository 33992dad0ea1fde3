"""Helpers of the laboratory's commands: results, pages and progress."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from airdraft.cli.pages import check_page, renew
from airdraft.errors import BadParameterError
from airdraft.files import check_output, output

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the results to FILE.")]
Jobs = Annotated[int, typer.Option(help="Processes that share the work; 0: one for each core.", min=0)]


def _marked(pages: list[Path] | None) -> list[Path] | None:
    """Check pages that are to be renewed, because the runs take minutes."""
    for page in pages or []:
        check_page(page)
    return pages


Pages = Annotated[
    list[Path] | None,
    typer.Option(
        "--page",
        metavar="FILE",
        callback=_marked,
        help="Renew the marked blocks of this Markdown page; may be given again.",
    ),
]

Figures = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Draw figures (SVG) into FOLDER; needs airdraft\\[report].")
]
_EVERY_S = 20.0
"""Between lines that say how far a command is."""


def console_for(no_color: bool, json_file: Path | None) -> Console:
    """A console for the results. Checks first that the file can be written, because the runs take minutes."""
    check_output(json_file)
    return Console(no_color=no_color, highlight=False)


def write_json(json_file: Path | None, record: dict[str, Any]) -> None:
    """Write results. If the file cannot be written, they are printed first, so that no run was in vain."""
    if json_file is None:
        return
    text = json.dumps(record, indent=1) + "\n"
    try:
        with output(json_file) as file:
            file.write(text.encode())
    except BadParameterError:
        typer.echo(text, nl=False)
        raise


def renew_pages(pages: list[Path] | None, blocks: dict[str, str]) -> None:
    """Write blocks into pages. If one cannot be written, they are printed first, so that no run was in vain."""
    for page in pages or []:
        try:
            names = renew(page, blocks)
        except BadParameterError:
            for name, block in blocks.items():
                typer.echo(f"<!-- {name}:begin -->\n{block}\n<!-- {name}:end -->")
            raise
        typer.echo(f"wrote {', '.join(names)} into {page}")


def draw_into(folder: Path, draw: Callable[[Path], list[Path]]) -> None:
    """Draw figures into a folder. Raises: `BadParameterError` without matplotlib, or if it cannot be written."""
    try:
        for path in draw(folder):
            typer.echo(f"wrote {path}")
    except ModuleNotFoundError as error:
        raise BadParameterError("the figures need matplotlib; install airdraft[report]") from error
    except OSError as error:
        raise BadParameterError(f"cannot write figures into {folder}: {error.strerror or error}") from error


@contextmanager
def progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that disappears at the end; call it with what is done, and of how many.

    Without a terminal, a line on standard error now and then.
    """
    if not console.is_terminal:
        yield _told(what)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _told(what: str) -> Callable[[int, int], None]:
    told_s = monotonic()

    def step(done: int, of: int) -> None:
        nonlocal told_s
        if monotonic() - told_s >= _EVERY_S:
            told_s = monotonic()
            typer.echo(f"{done} of {of} {what}", err=True)

    return step


def jobs_of(given: int) -> int:
    """The number of processes: as many as there are cores, if none is given."""
    return given or os.cpu_count() or 1


def spent_s() -> float:
    """The CPU time of this process so far, and of those that it started and that have ended."""
    return sum(os.times()[:4])
