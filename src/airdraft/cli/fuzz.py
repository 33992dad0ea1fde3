"""`airdraft fuzz`: input that no honest peer would send."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from airdraft.cli.bench.results import JsonFile, console_for, write_json
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
    """Send both sides, and the decoder, what no honest peer would.

    The first half of the time is for what is known to be dear: every message with
    each field at its limit, and, to a real edge, floods of small frames and peers
    that never read. The rest is for changed messages.

    Ends with exit code 1 if an input crashes, hangs, or takes more than 50 ms of
    CPU in one turn or 20 MB.

      airdraft fuzz --seconds 60
    """
    from airdraft.lab.fuzz import hunt as lab  # noqa: PLC0415  it takes long to import
    from airdraft.lab.fuzz import survey  # noqa: PLC0415

    console_for(True, json_file)
    if replay is not None:
        _replay(replay)
        return
    began_s = time.monotonic()
    surveyed = survey.survey(seconds / 2, seed, folder)
    found = lab.hunt(max(0.1, began_s + seconds - time.monotonic()), seed, folder)
    record = msgspec.to_builtins(found)
    dearest = {"changed messages": record.pop("dearest"), **msgspec.to_builtins(surveyed.dearest)}
    write_json(json_file, record | {"dearest": dearest, "known": surveyed.known, "faults": surveyed.faults})
    parts = ", ".join(f"{part} {count:,}" for part, count in sorted(found.by_part.items()))
    typer.echo(f"{found.executions:,} inputs in {found.seconds:.0f} s ({parts}), {found.endings:,} different endings")
    typer.echo(
        f"{len(found.crashes)} crashes, {len(found.hangs)} hangs, {len(found.greedy)} of too much memory, "
        f"{len(found.dear)} of too much CPU; the slowest took {found.slowest_ms:.0f} ms; grown by "
        f"{found.growth_mib:.0f} MiB"
    )
    for kind, each in ({"changed messages": found.dearest} | surveyed.dearest).items():
        of = f" of {surveyed.known[kind]}" if kind in surveyed.known else ""
        typer.echo(f"dearest of {each.inputs:,}{of} {kind}: {each.cpu_ms:.1f} ms of CPU ({each.cpu_input}), "
                   f"{each.peak_bytes:,} bytes ({each.peak_input})")  # fmt: skip
    for line in (*found.crashes, *found.hangs, *found.greedy, *found.dear, *surveyed.faults):
        typer.echo(line)
    if not (found.clean and surveyed.clean):
        raise typer.Exit(1)


def _replay(path: Path) -> None:
    from airdraft.lab.fuzz import hunt as lab  # noqa: PLC0415

    files = sorted(path.glob("*.bin")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise BadParameterError(f"{path} holds no input; give a file, or a folder of *.bin")
    broken = False
    for file in files:
        data = file.read_bytes()
        tried = lab.attempt(data)
        fault = tried.fault or lab.above(tried.cpu_ms, lab.memory_bytes(data))
        typer.echo(f"{file}: {fault or tried.ending or 'nothing'}")
        broken |= bool(fault)
    if broken:
        raise typer.Exit(1)
