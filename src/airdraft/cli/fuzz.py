"""`airdraft fuzz`: input that no honest peer would send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from airdraft.cli.results import JsonFile, console_for, write_json
from airdraft.errors import BadParameterError


def fuzz(
    seconds: Annotated[float, typer.Option(help="How long.", min=0.1)] = 60.0,
    seed: Annotated[int, typer.Option(help="Same seed, same inputs.", min=0)] = 1,
    folder: Annotated[Path, typer.Option(help="Where inputs go that break something.")] = Path("crashes"),
    replay: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Try only this input, or all *.bin of this folder.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Send both machines, and the decoder before them, what no honest peer would.

    Ends with exit code 1 if an input crashes, hangs or takes too much memory.
    """
    from airdraft.lab.fuzz import hunt as lab  # noqa: PLC0415  it takes long to import

    console_for(True, json_file)
    if replay is not None:
        _replay(replay)
        return
    found = lab.hunt(seconds, seed, folder)
    write_json(json_file, msgspec.to_builtins(found))
    parts = ", ".join(f"{part} {count:,}" for part, count in sorted(found.by_part.items()))
    typer.echo(f"{found.executions:,} inputs in {found.seconds:.0f} s ({parts}), {found.endings:,} different endings")
    typer.echo(
        f"{len(found.crashes)} crashes, {len(found.hangs)} hangs, {len(found.greedy)} of too much memory; the slowest "
        f"took {found.slowest_ms:.0f} ms, the largest {found.peak_mib:.1f} MiB; grown by {found.growth_mib:.0f} MiB"
    )
    for line in (*found.crashes, *found.hangs, *found.greedy):
        typer.echo(line)
    if not found.clean:
        raise typer.Exit(1)


def _replay(path: Path) -> None:
    from airdraft.lab.fuzz import hunt as lab  # noqa: PLC0415

    files = sorted(path.glob("*.bin")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise BadParameterError(f"{path} holds no input; give a file, or a folder of *.bin")
    broken = False
    for file in files:
        data = file.read_bytes()
        ending, fault = lab.attempt(data)
        mib = lab.memory_mib(data)
        if not fault and mib > lab.MOST_MIB:
            fault = f"Memory: {mib:.0f} MiB for {len(data)} bytes"
        typer.echo(f"{file}: {fault or ending or 'nothing'}")
        broken |= bool(fault)
    if broken:
        raise typer.Exit(1)
