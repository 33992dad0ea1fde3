"""`airdraft bench compress`: models in few bits, and what each is worth as a draft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench.paired import models_of, prompts_of
from airdraft.cli.bench.results import (
    Figures,
    JsonFile,
    Pages,
    console_for,
    draw_into,
    renew_pages,
    spent_s,
    write_json,
)
from airdraft.cli.bench.simulated import bench
from airdraft.errors import BadParameterError
from airdraft.files import read_bytes
from airdraft.models.registry import draft_files
from airdraft.models.text import Tokenizer

if TYPE_CHECKING:
    from airdraft.lab import compress as lab

FIGURE = "compress.svg"


@bench.command()
def compress(
    pair: Annotated[
        list[str] | None,
        typer.Option(metavar="PAIR", help="shipped or chat, which downloads 98 MB once. Without it, both."),
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="What --json wrote before; its pairs are not measured again. May be repeated."
        ),
    ] = None,
    json_file: JsonFile = None,
    figures: Figures = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """Drafts and targets in few bits by every method: acceptance, time and size. 30 minutes of CPU.

    Results are written after each pair, and a run that was stopped goes on with --measured.
    Blocks `compress`, `orderings`, `papers` and `worth` of a --page are renewed. Ends with exit
    code 1 if 4 bits lose a draft more than 3 % of its acceptance, or save too little. Needs
    the package gguf, and safetensors and onnx for the chat's draft.

      airdraft bench compress --pair shipped --json compress.json
    """
    from airdraft.lab import compress as lab  # noqa: PLC0415  they take long to import
    from airdraft.lab import compress_page as said  # noqa: PLC0415
    from airdraft.models.profile import profile  # noqa: PLC0415

    console = console_for(no_color, json_file)
    before = [row for file in measured or [] for row in _read(file)]
    rows: list[lab.CompressRow] = []
    vocabs = {}
    pairs = list(dict.fromkeys(pair or lab.AMOUNTS))
    for name in pairs:
        if name not in lab.AMOUNTS:
            raise BadParameterError(f"the pair {name!r} is none; give {' or '.join(lab.AMOUNTS)}", field="pair")
    for name in pairs:
        vocabs[models_of(name)[0]] = Tokenizer(draft_files(models_of(name)[0])).vocab_size
        known = [row for row in before if row.model in lab.MODELS[name]]
        rows += known or _measured(name, console)
        write_json(json_file, {"rows": msgspec.to_builtins(rows), "cpu_s": round(spent_s())})
    found = {
        "compress": said.table(rows), "orderings": said.orderings(rows), "papers": said.papers(rows),
        "worth": said.worth(rows, vocabs),
    }  # fmt: skip
    for each in found.values():
        console.print(Markdown(each))
    if figures is not None:
        found["worth"] += f"\n\n![tokens/s against MB]({figures.name}/{FIGURE})"
    renew_pages(page, found)
    if figures is not None:
        panels = {
            (model, link): said.points(rows, model, facts, profile(said.PROFILE), vocabs[model])
            for model in vocabs for link, facts in said.LINKS.items()
        }  # fmt: skip

        def draw(folder: Path) -> list[Path]:
            from airdraft.lab import pareto  # noqa: PLC0415  an extra

            folder.mkdir(parents=True, exist_ok=True)
            return [pareto.draw(panels, f"`{said.PROFILE}`: ms a token by bytes", folder / FIGURE)]

        draw_into(figures, draw)
    if not said.held(rows):
        raise typer.Exit(1)


def _read(file: Path) -> list[lab.CompressRow]:
    """The rows of an earlier run. Raises: `BadParameterError`."""
    from airdraft.lab import compress as lab  # noqa: PLC0415

    try:
        return msgspec.json.decode(read_bytes(file), type=lab.Measured).rows
    except OSError as error:
        raise BadParameterError(f"{file} cannot be read ({error.strerror}); give what --json wrote") from error
    except msgspec.MsgspecError as error:
        raise BadParameterError(f"{file} holds no rows ({error}); give what --json wrote", field="measured") from error


def _measured(name: str, console: Console) -> list[lab.CompressRow]:
    """The rows of a pair, measured now."""
    from airdraft.lab import compress as lab  # noqa: PLC0415

    amount = lab.AMOUNTS[name]
    prompts = prompts_of(name, amount.measured + amount.calibrated)[: amount.measured + amount.calibrated]
    with console.status("texts") as status:

        def tell(what: str) -> None:
            if console.is_terminal:
                status.update(what)
            else:
                typer.echo(f"{spent_s():.0f} s of CPU: {what}", err=True)

        return lab.bench(name, prompts, tell)
