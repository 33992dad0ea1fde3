"""`airdraft bench compress`: the shipped draft in few bits, and what each is worth as a draft."""

from __future__ import annotations

import msgspec
import typer
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench.results import JsonFile, Pages, console_for, renew_pages, write_json
from airdraft.cli.bench.simulated import bench


@bench.command()
def compress(json_file: JsonFile = None, page: Pages = None, no_color: options.NoColor = False) -> None:
    """The shipped draft in few bits by every method: acceptance, time and size. 3 minutes.

    Block `compress` of a --page is renewed. Ends with exit code 1 if 4 bits lose
    more than 3 % of the acceptance, or save too little. Needs airdraft[llamacpp].
    """
    from airdraft.lab import compress as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    with console.status("texts") as status:
        rows = lab.bench(status.update)
    found = lab.table(rows)
    write_json(json_file, {"rows": msgspec.to_builtins(rows)})
    console.print(Markdown(found))
    renew_pages(page, {"compress": found})
    if not lab.held(rows):
        raise typer.Exit(1)
