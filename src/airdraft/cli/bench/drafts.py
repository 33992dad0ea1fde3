"""The commands of `airdraft bench` about drafts from elsewhere than a device's model: many users, and edits of code."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench.results import Jobs, JsonFile, Pages, console_for, jobs_of, progress, renew_pages, write_json
from airdraft.cli.bench.simulated import bench
from airdraft.cli.chosen import template_of
from airdraft.errors import AirdraftError
from airdraft.models.registry import load, resolve


@bench.command()
def crowd(
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|target",
            help="A file that says how long an engine's calls take, see docs/crowd.md, or `target`: the shipped one on "
            "this machine. May be given again. Without it: an H100, and `target`.",
        ),
    ] = None,
    json_file: JsonFile = None,
    page: Pages = None,
    jobs: Jobs = 0,
    no_color: options.NoColor = False,
) -> None:
    """Many users on one edge, in virtual time: how many it holds under each scheme, and what a token costs it.

    Takes 5 minutes of CPU time for the H100, and longer for an engine that holds
    more users. The blocks of a --page that are called as an engine's file is, and
    those with `-says` behind, are renewed. Ends with exit code 1 if a text is not the
    target's own, or devices save the H100 too little.

      airdraft bench crowd --engine target --json crowd.json
    """
    from airdraft.lab.virtual import crowd as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    engines = lab.engines_of(engine or [str(lab.H100), lab.OWN])
    with progress(console, "schemes") as on_row:
        rows = lab.crowds([*engines.values()], jobs_of(jobs), on_row)
    write_json(json_file, lab.record_of(rows, [*engines.values()]))
    blocks = dict[str, str]()
    for name, each in engines.items():
        blocks |= {f"{name}-says": lab.says(rows, each.name), name: lab.table(rows, each.name)}
    console.print(Markdown("\n\n".join(blocks.values())))
    renew_pages(page, blocks)
    if lab.missed(rows, [*engines.values()]) or not all(row.exact for row in rows):
        raise typer.Exit(1)


@bench.command()
def edits(json_file: JsonFile = None, page: Pages = None, no_color: options.NoColor = False) -> None:
    """Functions that are to be written again, changed a little: tokens a forward, with copies and with a prediction.

    The shipped target, and the chat target if it is on this machine. Block `edits`
    of a --page is renewed. Ends with exit code 1 if a text is not the target's own,
    or a prediction gains too little.

      airdraft bench edits --json edits.json
    """
    from airdraft.lab import edits as lab  # noqa: PLC0415

    console, rows, missed = console_for(no_color, json_file), list[lab.EditsRow](), list[str]()
    for name, count in lab.TARGETS.items():
        todo = lab.edits(count)
        try:
            model, tokenizer = load(name, steady=True)
        except AirdraftError as error:
            console.print(f"{name} is left out: {error}")
            continue
        ask = lab.continuing(tokenizer)
        if name != "target":
            template = template_of(resolve(name), name, None)
            ask = lab.asking(
                tokenizer,
                lambda words, made=template: made.encode(  # type: ignore[misc]
                    made.render([{"role": "user", "content": words}], {"add_generation_prompt": True})
                ),
            )
        with progress(console, "texts") as on_text:
            rows += lab.measured(model, tokenizer, ask, todo, lab.AIRDRAFT, on_text)
            if name == "target":
                own = [lab.own_words(edit, model, tokenizer) for edit in todo]
                rows += lab.measured(model, tokenizer, ask, own, lab.OWN, on_text)
        missed = lab.missed(rows)
        write_json(json_file, {"rows": msgspec.to_builtins(rows), "least": lab.LEAST, "missed": missed})
    console.print(Markdown(lab.table(rows)))
    renew_pages(page, {"edits": lab.table(rows)})
    for line in missed:
        console.print(f"missed: {line}")
    if missed:
        raise typer.Exit(1)
