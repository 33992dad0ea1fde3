"""`airdraft chaos`: texts through faults of link and edge, each compared with the target's own."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench.results import Jobs, JsonFile, Pages, console_for, jobs_of, progress, renew_pages, write_json
from airdraft.errors import BadParameterError


def chaos(
    sessions: Annotated[int, typer.Option(help="How many texts to write.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Everything is drawn from it: same seed, same sessions.", min=0)] = 1,
    session: Annotated[
        int | None, typer.Option(help="Run only the session of this number, and print what happened when.", min=0)
    ] = None,
    json_file: JsonFile = None,
    jobs: Jobs = 0,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """Write texts through faults of link and edge, and compare.

    In virtual time; each text is compared with the target's own.

    Connections are cut, edges restarted, slowed, changed and full. Half of the
    texts keep to a grammar, to penalties, or to both, and edges draft with a model
    of their own, with n-grams and by predictions. Ends with exit code 1 if a text differs, an
    exception goes unhandled, or fewer faults than sessions were felt. Block `chaos` of a --page is renewed.

      airdraft chaos --sessions 200
    """
    from airdraft.lab import chaos as lab  # noqa: PLC0415  it takes long to import

    console = console_for(no_color, json_file)
    if session is not None:
        if json_file or page:
            raise BadParameterError("--session reports on one session only; leave --json and --page out")
        outcome = lab.session(seed, session)
        for at_s, what in outcome.timeline:
            typer.echo(f"{at_s:9.3f} s  {what}")
        verdict = (
            outcome.unhandled or outcome.error or ("the target's own text" if outcome.identical else "ANOTHER TEXT")
        )
        guided = f", guided by {outcome.form}" if outcome.form else ""
        typer.echo(f"session {session}, seed {seed}, {outcome.way}{guided}: {verdict}")
        raise typer.Exit(0 if outcome.identical else 1)
    with progress(console, "sessions") as on_session:
        outcomes = lab.chaos(sessions, seed, jobs_of(jobs), on_session)
    record = lab.record_of(outcomes, seed)
    write_json(json_file, record)
    block = lab.report(record)
    renew_pages(page, {"chaos": block})
    console.print(Markdown(block))
    for wrong in record["wrong"]:
        typer.echo(f"session {wrong['session']}, {wrong['scheme']}: {wrong['why']}")
        typer.echo(f"  airdraft chaos --seed {seed} --session {wrong['session']}")
    if not lab.held(record):
        raise typer.Exit(1)
