"""`airdraft bench league`: every scheme over every kind of link, with intervals, bytes and energy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench.paired import SHIPPED, PairName, models_of, prompts_of
from airdraft.cli.bench.results import (
    Figures,
    Jobs,
    JsonFile,
    Pages,
    console_for,
    draw_into,
    jobs_of,
    progress,
    renew_pages,
    spent_s,
    write_json,
)
from airdraft.cli.bench.simulated import bench


@bench.command()
def league(
    pair: PairName = SHIPPED,
    trace: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Also over the first run of this trace; may be given again."),
    ] = None,
    texts: Annotated[int, typer.Option(help="Texts, the longest of those recorded.", min=1)] = 16,
    tokens: Annotated[int, typer.Option(help="Most tokens of a text.", min=8)] = 96,
    figures: Figures = None,
    json_file: JsonFile = None,
    page: Pages = None,
    jobs: Jobs = 0,
    no_color: options.NoColor = False,
) -> None:
    """Every scheme over every kind of link, in virtual time: tokens/s, bits and energy a token.

    Takes minutes of CPU time. Schemes with rounds have the best of several
    draft lengths. Energy is by a stated model and not measured. Blocks
    `conclusion`, `league`, `speeds`, `uplinks` and `energy` of a --page are
    renewed. Ends with exit code 1 if a scheme that should be exact wrote another
    text.

      airdraft bench league --json league.json --figures figures
    """
    from airdraft.lab.energy import EnergyModel  # noqa: PLC0415
    from airdraft.lab.virtual import league as lab  # noqa: PLC0415
    from airdraft.lab.virtual.league_page import blocks, draw  # noqa: PLC0415

    models = models_of(pair)
    console = console_for(no_color, json_file)
    model, over = EnergyModel(), lab.tracks(trace or ())
    recorded, lucky = lab.recording(*models, prompts_of(pair, texts), pair, texts, tokens)
    with progress(console, "runs") as on_row:
        rows = lab.league(recorded, lucky, over, jobs_of(jobs), model, on_row)
    cpu_s = spent_s()
    record = {**lab.record_of(recorded, over, rows, model), "cpu_s": round(cpu_s, 1)}
    write_json(json_file, record)
    if figures is not None:
        title = f"{pair} pair, temperature {lab.TEMPERATURE:g}, {lab.PROFILE}"
        draw_into(figures, lambda folder: draw(rows, [track.name for track in over], title, folder))
    made = blocks(record, rows, str(model))
    console.print(Markdown("\n\n".join(made.values())))
    console.print(f"{cpu_s / 60:.1f} minutes of CPU time.")
    renew_pages(page, made)
    inexact = lab.unheld(rows)
    if inexact:
        console.print(f"NOT EXACT: {len(inexact)} rows, first {inexact[0]}")
        raise typer.Exit(1)
