"""`airdraft conform`: a test of whether a scheme's texts are distributed as the target's own."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from airdraft.cli import options
from airdraft.core import schemes
from airdraft.errors import BadParameterError

LEAST_TEXTS = 200
"""With fewer texts a wrong rule could hide."""


def conform(
    scheme: Annotated[str | None, typer.Option(help="The scheme to test, a plug-in too.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Test all schemes, and all plug-ins.")] = False,
    example: Annotated[
        str | None,
        typer.Option(
            help="Test a rule that is known to be wrong: `inverted` (the acceptance of DSSD's published code), "
            "`raw-sample` (sampled before it is quantised) or `no-residual`."
        ),
    ] = None,
    broken: Annotated[
        bool, typer.Option("--broken", help="Test all of these rules; the exit code is 0 if every one of them fails.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="Test on a real target that this engine runs, after a prompt of one word, not on tables."),
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

      airdraft conform --all
      airdraft conform --scheme topk:k=8 --texts 5000
    """
    if sum((scheme is not None, every, example is not None, broken)) != 1:
        raise BadParameterError("say what to test: --scheme NAME, --all, --example NAME, or --broken, one of them")
    if texts < LEAST_TEXTS:
        raise BadParameterError(f"texts is {texts}; give at least {LEAST_TEXTS}, or a wrong rule could hide")
    from airdraft.lab import conform as lab  # noqa: PLC0415  scipy takes long to import

    plug_ins = lab.plug_in()
    if broken or example is not None:
        todo = [lab.example(name) for name in ([example] if example else lab.EXAMPLES)]
    else:
        todo = [each for name in ([scheme] if scheme else [*schemes.SCHEMES]) for each in lab.variants(name)]
    given = lab.models(draft, target, engine) if engine else lab.tables(seed)
    shown = track(todo, "texts of every scheme", console=Console(stderr=True, no_color=no_color), transient=True)
    found = [lab.tested(given, label, spec, texts, seed) for label, spec in shown]
    if as_json:
        rows = [
            {
                **asdict(each),
                "statistic": each.statistic if math.isfinite(each.statistic) else None,
                "exact": each.exact,
            }
            for each in found
        ]
        record = {"seed": seed, "engine": engine, "bar": lab.BAR, "plug_ins": plug_ins, "rows": rows}
        print(json.dumps(record, indent=2))  # noqa: T201
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("scheme", "texts", "χ²", "degrees of freedom", "p", "verdict"):
            table.add_column(heading, justify="left" if heading in ("scheme", "verdict") else "right")
        for each in found:
            verdict = "passes" if each.exact else each.fault or "NOT EXACT"
            figures = (str(each.texts), f"{each.statistic:.1f}", str(each.freedom), f"{each.p_value:.2g}")
            table.add_row(each.scheme, *figures, verdict)
        Console(no_color=no_color, highlight=False).print(table)
    if not (all(each.is_wrong for each in found) if broken else all(each.exact for each in found)):
        raise typer.Exit(1)
