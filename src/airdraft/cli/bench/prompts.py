"""`airdraft bench prompt`: prompts computed, fetched and both at once, in virtual time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench.results import JsonFile, Pages, console_for, renew_pages, write_json
from airdraft.cli.bench.simulated import SIMULATED, bench
from airdraft.errors import BadParameterError

BAR = 0.95
"""Of the best way's time over that of `auto`, and of computing's."""


@bench.command()
def prompt(
    token_kib: Annotated[
        float, typer.Option(help="Keys and values of a token, KiB; 28 is a model of 1.5 B, 128 one of 8 B.")
    ] = 28.0,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """Time until a published prompt is read: computed, fetched, both at once, and as an edge decides (auto).

    Over lengths, rates and round trips to the store, and speeds of the engine.
    Block `prompts` of a --page is renewed. Ends with exit code 1 if `auto` takes
    more than 1/0.95 of the time of the best way in any cell.

      airdraft bench prompt --token-kib 128
    """
    from airdraft.lab.virtual import prompts as lab  # noqa: PLC0415

    if not 0 < token_kib < 1 << 20:  # NaN lands here too
        raise BadParameterError(f"token-kib is {token_kib:g}; give a number above 0")
    console = console_for(no_color, json_file)
    rows = list(lab.grid(round(1024 * token_kib)))
    of_best, of_computing = lab.worst(rows)
    write_json(
        json_file,
        {
            "what": SIMULATED, "token_kib": token_kib, "auto_of_best": of_best, "auto_of_computing": of_computing,
            "rows": [asdict(row) for row in rows],
        },
    )  # fmt: skip
    found = lab.table(rows, token_kib)
    console.print(Markdown(found))
    renew_pages(page, {"prompts": found})
    if of_best < BAR:
        raise typer.Exit(1)
