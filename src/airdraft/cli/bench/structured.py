"""`airdraft bench schema`: answers that keep to JSON schemas, and what that costs and gains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markdown import Markdown

from airdraft.api.template import ChatTemplate
from airdraft.cli import options
from airdraft.cli.bench.paired import SHIPPED, PairName, models_of
from airdraft.cli.bench.results import JsonFile, Pages, console_for, progress, renew_pages, write_json
from airdraft.cli.bench.simulated import bench
from airdraft.models.registry import resolve
from airdraft.models.text import Tokenizer


@bench.command()
def schema(
    pair: PairName = SHIPPED,
    schemas: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="JSON schemas, each in a file; `python -m bench.schemas FOLDER` fetches some. Without it: our dozen.",
        ),
    ] = None,
    most: Annotated[int, typer.Option(help="Most schemas of a folder, of all kinds.", min=1)] = 500,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a text; 0: compile only.", min=0)] = 128,
    threads: Annotated[
        int | None, typer.Option(help="Of each model. Without it: as many as are fastest, by a trial.", min=1)
    ] = None,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """Answers that keep to JSON schemas: what compiles, what comes out, what masks cost, what forced tokens gain.

    Every text is written with and without forced tokens, in turns, by a device at an
    edge in this process; llguidance alone walks along beside. Our dozen take a minute
    with the shipped pair. Block `schema-PAIR` of a --page is renewed, with --schemas
    `schemas-PAIR`, or `compiled-PAIR` if nothing is written. Results are also
    written when it is interrupted. Ends with exit code 1 if an answer is not
    valid, a text is not the same, or a bar is missed.

      airdraft bench schema --json s.json
      airdraft bench schema --schemas build/schemas --most 600 --max-tokens 0
    """
    from airdraft.lab.wall import structured as lab  # noqa: PLC0415  it takes long to import

    console = console_for(no_color, json_file)
    draft, target = models_of(pair)
    place = resolve(target)
    template, tokenizer = ChatTemplate.of(place), Tokenizer(place)

    def encode(words: str) -> list[int]:
        if template is None:
            return tokenizer.encode(f"# {words}\n")
        asked = [{"role": "user", "content": f"{words} Answer in JSON."}]
        return template.encode(template.render(asked, {"add_generation_prompt": True}))

    report = lab.SchemaReport(draft, target, threads)
    chosen = lab.schemas_of(schemas, most)
    try:
        with progress(console, "texts") as on_step:
            lab.run(encode, chosen, max_tokens, report, on_step)
    finally:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        found, missed = {**msgspec.to_builtins(report), "cost": report.cost, "gain": report.gain}, lab.missed(report)
        write_json(json_file, {**found, "missed": missed, "cores": os.cpu_count(), "load": load})
        if report.rows:
            console.print(Markdown(lab.table(report)))
    name = pair if pair.isalnum() else "pair"
    what = "schema" if schemas is None else "schemas" if max_tokens else "compiled"
    renew_pages(page, {f"{what}-{name}": lab.table(report)})
    for each in missed:
        typer.echo(each)
    if missed:
        raise typer.Exit(1)
