"""`airdraft reproduce`: published experiments, run again on models of your choice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench.paired import CHAT, SHIPPED, PairNames, models_of, prompts_of
from airdraft.cli.bench.results import (
    Figures,
    JsonFile,
    Pages,
    console_for,
    draw_into,
    progress,
    renew_pages,
    spent_s,
    write_json,
)

if TYPE_CHECKING:
    from airdraft.core.messages import SchemeSpec
    from airdraft.lab.reproduce.everything import Found
    from airdraft.lab.reproduce.pairs import RecordedPair


def reproduce(
    paper: Annotated[list[str], typer.Argument(metavar="PAPER...", help="tk-slt, dssd, qs, tslt, sqs, or all.")],
    pair: PairNames = None,
    figures: Figures = None,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """Run papers' own experiments again, with everything billed.

    Each is run as its paper bills it as well.

    Prints what is published beside what is found here, and why they differ.
    tk-slt is arXiv 2509.04576, dssd 2507.12000, qs 2507.00605, tslt 2512.16273,
    sqs 2510.09942. The models run once for each pair, then the real machines write
    the recorded texts in virtual time; all of them take minutes of CPU time. Blocks
    `pairs` and those named as the papers of a --page are renewed. Ends with exit
    code 1 if the closed form does not give the printed table.

      airdraft reproduce dssd --pair shipped
    """
    from airdraft.lab.reproduce import everything as lab  # noqa: PLC0415
    from airdraft.lab.reproduce.closed_form import table  # noqa: PLC0415
    from airdraft.lab.reproduce.page import blocks  # noqa: PLC0415

    papers, names = lab.chosen(paper), pair or [SHIPPED, CHAT]
    for name in names:
        models_of(name)
    console = console_for(no_color, json_file)
    pairs = [_measured(name, partial(lab.needed, papers), console) for name in dict.fromkeys(names)]
    with progress(console, "runs") as on_step:
        found = lab.reproduce(papers, pairs, on_step)
    cpu_s = spent_s()
    write_json(json_file, {**lab.record_of(found, pairs), "cpu_s": round(cpu_s, 1)})
    if figures is not None:
        draw_into(figures, lambda folder: _draw(found, folder))
    made = blocks(found, pairs, cpu_s)
    console.print(Markdown("\n\n".join(made.values())))
    renew_pages(page, made)
    if "tk-slt" in papers and not all(row.agrees for row in table()):
        console.print("The closed form does NOT give the printed table.")
        raise typer.Exit(1)


def _measured(name: str, specs: Callable[[int], list[SchemeSpec]], console: Console) -> RecordedPair:
    from airdraft.lab.reproduce import pairs as lab  # noqa: PLC0415

    prompts = prompts_of(name, lab.TEXTS)
    with progress(console, f"samplings of {name}") as on_step:
        done, of = itertools.count(1), len(lab.SAMPLINGS)
        return lab.measured(name, *models_of(name), prompts, specs, lambda: on_step(next(done), of))


def _draw(found: Found, folder: Path) -> list[Path]:
    from airdraft.lab.reproduce.drawing import draw  # noqa: PLC0415  only those who draw need matplotlib

    return draw(found, folder)
