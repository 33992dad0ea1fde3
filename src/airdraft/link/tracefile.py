"""A reader of traces in airdraft's own format, and of the `.list` files of the 5G-MeMU data set. See docs/links.md."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from airdraft.errors import BadParameterError
from airdraft.files import read_bytes
from airdraft.link.trace import Series, TraceRun

_COLUMNS = ("time_s", "uplink_mbps", "downlink_mbps", "rtt_ms")
_LEAST_STEP_S = 1e-6
_LIST_INTERVAL_S = 0.1
"""Seconds between the samples of a `.list`."""


def read(path: str | Path) -> list[TraceRun]:
    """All runs in a trace file: one in airdraft's own format, several in a `.list` of the 5G-MeMU data set.

    Raises: `BadParameterError`, which names the file, the line and the mistake.
    """
    path = Path(path)
    if path.suffix == ".list":
        return _read_list(path)
    return [_read_own(path)]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that says something, after its place for messages. # begins a comment."""
    try:
        text = read_bytes(path).decode("utf-8-sig")  # spreadsheets begin with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BadParameterError(f"the trace {path} cannot be read ({reason}): give the path of a trace file") from error
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        if said:
            yield f"{path}, line {number}", said


def _numbers(where: str, words: Iterable[str]) -> list[float]:
    """Finite numbers of 0 or more. Raises: `BadParameterError`."""
    values = []
    for word in words:
        try:
            value = float(word)
        except ValueError:
            raise BadParameterError(f"{where}: {word.strip()!r} is not a number; give one of 0 or more") from None
        if not 0 <= value < math.inf:
            raise BadParameterError(f"{where}: {word.strip()} is out of range; give a finite number of 0 or more")
        values.append(value)
    return values


def _series(times_s: list[float], values: Iterable[float], scale: float) -> Series:
    """Make a series of `scale` times the values, each from its time to the next; a single one lasts 1 s."""
    begins_s = [time_s - times_s[0] for time_s in times_s]
    last_s = begins_s[-1] - begins_s[-2] if len(begins_s) > 1 else 1.0
    return Series((*begins_s[1:], begins_s[-1] + last_s), tuple(scale * value for value in values))


def _read_own(path: Path) -> TraceRun:
    lines = _lines(path)
    where, header = next(lines, (f"{path}, line 1", ""))
    names = [name.strip() for name in header.split(",")]
    if names[:2] != list(_COLUMNS[:2]) or not set(names) <= set(_COLUMNS) or len(set(names)) < len(names):
        raise BadParameterError(
            f"{where}: the columns are named {header!r}; begin with {','.join(_COLUMNS)} (the last two are optional)"
        )
    rows: list[list[float]] = []
    for where, line in lines:
        row = _numbers(where, line.split(","))
        if len(row) != len(names):
            raise BadParameterError(f"{where}: {len(row)} values for {len(names)} columns; give one for each")
        if rows and row[0] - rows[-1][0] < _LEAST_STEP_S:
            raise BadParameterError(
                f"{where}: time {row[0]:g} s is not after {rows[-1][0]:g} s; times must rise by a microsecond or more"
            )
        rows.append(row)
    if not rows:
        raise BadParameterError(f"{path} has no values; give a line for each change of rate")
    columns = dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))
    series = {name: _series(columns["time_s"], columns[name], 1e-3 if name == "rtt_ms" else 1e6) for name in names[1:]}
    return TraceRun(path.name, series["uplink_mbps"], series.get("downlink_mbps"), series.get("rtt_ms"))


@dataclass
class _Run:
    """The part of a `.list` file under one heading: the place and the numbers of each line."""

    name: str
    lines: list[tuple[str, list[float]]] = field(default_factory=list)


def _runs(path: Path) -> list[_Run]:
    runs: list[_Run] = []
    for where, line in _lines(path):
        if re.fullmatch(r"Run \d+", line):
            runs.append(_Run(line))
        elif runs:
            runs[-1].lines.append((where, _numbers(where, line.split(","))))
        else:
            raise BadParameterError(f"{where}: values before the first run; begin with a line such as Run 1")
    for run in runs:
        if not run.lines:
            raise BadParameterError(f"{path}: {run.name} has no values; give a line of numbers, or remove the run")
    if not runs:
        raise BadParameterError(f"{path} has no runs; give a line such as Run 1, and a line of numbers after it")
    return runs


def _samples(run: _Run, scale: float) -> list[Series]:
    """The series of a run. A single line holds values; more are pairs, a line of times and one of values, each a part.

    The times step by the sampling interval, but they jump where the data set's clocks were set, so they are only
    counted.
    """
    if len(run.lines) > 1 and len(run.lines) % 2:
        raise BadParameterError(f"{run.lines[-1][0]}: times without values; give each line of times a line of values")
    for (_, times_s), (where, values) in zip(run.lines[::2], run.lines[1::2], strict=False):
        if len(times_s) != len(values):
            raise BadParameterError(f"{where}: {len(values)} values for {len(times_s)} times; give one for each")
    parts = run.lines[1::2] or run.lines
    return [_series([_LIST_INTERVAL_S * at for at in range(len(values))], values, scale) for _, values in parts]


def _read_list(path: Path) -> list[TraceRun]:
    if path.absolute().parent.parent.parent.name == "ping":
        raise BadParameterError(f"{path} holds round trips; give the file of rates under throughput, which finds them")
    rtts = _rtts(path)
    found = []
    for at, run in enumerate(_runs(path)):
        rates = _samples(run, 1e6)
        for part, uplink_bps in enumerate(rates, 1):
            name = f"{path.name}, {run.name}" + (f", part {part}" if len(rates) > 1 else "")
            found.append(TraceRun(name, uplink_bps, rtt_s=rtts[at % len(rtts)] if rtts else None))
    return found


def _rtts(path: Path) -> list[Series]:
    """Read the round trips measured in the scenario of a throughput file, if they are where the data set keeps them."""
    technology = path.absolute().parent
    if technology.parent.parent.name != "throughput":
        return []
    folder = technology.parents[2] / "ping" / technology.parent.name / technology.name
    files = [folder / path.name] if (folder / path.name).is_file() else sorted(folder.glob("*.list"))
    return [series for file in files[:1] for run in _runs(file) for series in _samples(run, 1e-3)]
