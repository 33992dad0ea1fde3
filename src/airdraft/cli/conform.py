"""`airdraft conform`: a test of whether a scheme's texts are distributed as the target's own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from airdraft.cli import options
from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.errors import BadParameterError

if TYPE_CHECKING:
    from airdraft.lab.conform import Tested

LEAST_TEXTS = 200
"""With fewer texts a wrong rule could hide."""


def conform(
    scheme: Annotated[str | None, typer.Option(help="The scheme to test, a plug-in too.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Test all schemes, and all plug-ins.")] = False,
    example: Annotated[
        str | None,
        typer.Option(
            help="Test a rule that is known to be wrong: `inverted` (the acceptance of DSSD's published code), "
            "`raw-sample` (sampled before it is quantised), `no-residual`, or `dead-drafts` (a conformal cut that "
            "knows drafts that died)."
        ),
    ] = None,
    broken: Annotated[
        bool, typer.Option("--broken", help="Test all of these rules; the exit code is 0 if every one of them fails.")
    ] = False,
    fields: Annotated[
        bool, typer.Option("--fields", help="Test every field of sampling under each scheme, with --scheme or --all.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="Test on a real target that this engine runs, after a prompt of one word, not on tables."),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            "--url", help="Where an engine is that runs elsewhere (vllm, sglang, llamaserver), with --engine."
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="The target, with --engine.")] = "target",
    draft: Annotated[str, typer.Option(help="The draft, with --engine.")] = "draft",
    texts: Annotated[int, typer.Option(help="Texts for each test.")] = 1000,
    seed: Annotated[int, typer.Option(help="Same seed, same texts.", min=0)] = 1,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Test whether texts are distributed as the target's own.

    Writes many texts of four tokens, with both machines and every message between
    them, and compares how often each text came with its probability, by Pearson's
    chi-squared. A scheme fails if its p-value is below 1e-6, and then the exit
    code is 1. Schemes of other packages are found by the entry points of the
    group airdraft.schemes.

    With --fields, texts are written with each field of sampling, and compared
    with its law, computed a second time in plain words, and with laws that ignore
    the field, misplace it or come too late: these must be told apart.

      airdraft conform --all
      airdraft conform --scheme topk --texts 5000
      airdraft conform --all --fields --texts 300
    """
    if sum((scheme is not None, every, example is not None, broken)) != 1:
        raise BadParameterError("say what to test: --scheme NAME, --all, --example NAME, or --broken, one of them")
    if texts < LEAST_TEXTS:
        raise BadParameterError(f"texts is {texts}; give at least {LEAST_TEXTS}, or a wrong rule could hide")
    if fields and (broken or example is not None or engine is not None):
        raise BadParameterError("fields are tested on tables, with --scheme or --all; leave the other option out")
    if url and engine is None:
        raise BadParameterError("--url says where an engine is; say which, --engine vllm for one, or leave it out")
    from airdraft.lab import conform as lab  # noqa: PLC0415  scipy takes long to import

    plug_ins = lab.plug_in()
    if broken or example is not None:
        todo = [lab.example(name) for name in ([example] if example else lab.EXAMPLES)]
    else:
        todo = [each for name in ([scheme] if scheme else [*schemes.SCHEMES]) for each in lab.variants(name)]
    if fields:
        held = _of_fields(todo, texts, seed, plug_ins, as_json, no_color)
    else:
        real = lab.models(draft, target, engine, url or ()) if engine else None
        found = [
            lab.tested(real or lab.tables(seed, spec), label, spec, texts, seed)
            for label, spec in _shown(todo, no_color)
        ]
        held = all(each.is_wrong for each in found) if broken else all(each.exact for each in found)
        about = {"seed": seed, "engine": engine, "bar": lab.BAR, "plug_ins": plug_ins}
        _show(found, about | {"caveat": lab.caveat(engine)}, as_json, no_color)
    if not held:
        raise typer.Exit(1)


def _shown(todo: list[Any], no_color: bool) -> Iterable[Any]:
    """Show how far the work is."""
    return track(todo, "texts of every scheme", console=Console(stderr=True, no_color=no_color), transient=True)


def _show(found: list[Tested], about: dict[str, Any], as_json: bool, no_color: bool) -> None:
    """Print what was found of schemes."""
    if as_json:
        _print_json(about, ({**asdict(each), "exact": each.exact} for each in found))
        return
    lines = list[tuple[str, ...]]()
    for each in found:
        verdict = "passes" if each.exact else each.fault or "NOT EXACT"
        figures = (str(each.texts), f"{each.statistic:.1f}", str(each.freedom), f"{each.p_value:.2g}")
        lines.append((each.scheme, *figures, verdict))
    _table(("scheme", "texts", "χ²", "degrees of freedom", "p", "verdict"), lines, no_color)
    if about["caveat"]:
        typer.echo(f"Note: {about['caveat']}.")


def _of_fields(
    todo: list[tuple[str, SchemeSpec]], texts: int, seed: int, plug_ins: list[str], as_json: bool, no_color: bool
) -> bool:
    """Test and print every field under every scheme. Returns whether all hold."""
    from airdraft.lab import fields as lab  # noqa: PLC0415
    from airdraft.lab.conform import BAR  # noqa: PLC0415

    cells = [
        [lab.tested(label, spec, name, texts, seed) for name in lab.FIELDS] for label, spec in _shown(todo, no_color)
    ]
    if as_json:
        rows = ({**asdict(cell), "exact": cell.exact, "holds": cell.holds} for row in cells for cell in row)
        _print_json({"seed": seed, "bar": BAR, "plug_ins": plug_ins}, rows)
    else:
        lines = list[tuple[str, ...]]()
        for row in cells:
            fault = next((cell.fault for cell in row if cell.fault), "")
            wrong = ", ".join(cell.field for cell in row if not cell.exact)
            unseen = ", ".join(cell.field for cell in row if not cell.holds)
            verdict = f"NOT EXACT: {wrong}" if wrong else f"too few texts: {unseen}" if unseen else "passes"
            exact = f"{sum(cell.exact for cell in row)} of {len(row)}"
            told = f"{sum(cell.told for cell in row)} of {sum(len(cell.wrong) for cell in row)}"
            least = min(row, key=lambda cell: cell.p_value)
            lines.append((row[0].scheme, exact, f"{least.p_value:.2g}", told, fault or verdict))
        _table(("scheme", "fields exact", "least p", "wrong laws told apart", "verdict"), lines, no_color)
    return all(cell.holds for row in cells for cell in row)


def _print_json(about: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Print rows as JSON, which has no infinity."""
    finite = [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in rows
    ]
    print(json.dumps({**about, "rows": finite}, indent=2))  # noqa: T201


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]], no_color: bool) -> None:
    """Print a table, of which the first column and the last are words."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("scheme", "verdict") else "right")
    for row in rows:
        table.add_row(*row)
    Console(no_color=no_color, highlight=False).print(table)
