"""Measures how well recorded channels are estimated and predicted, and says what a file of them is like.

A file is cut into windows as large as a learned model's, or smaller where it is. Each is scaled to a mean power of 1,
so that strong places do not count for all. What was recorded counts as the channel, its own noise too, and noise is
added to it. The first half of the windows gives LMMSE its covariances, and all methods are tested on the other half.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.channel import baselines, bench
from airdraft.channel.bench import Covariances, Method, Seen
from airdraft.channel.generate import ChannelRecipe, Complex, noise
from airdraft.errors import BadParameterError

WINDOW = ChannelRecipe.slots, ChannelRecipe.subcarriers, ChannelRecipe.antennas
"""Slots, subcarriers and antennas of a whole window."""
LEAST_SLOTS = 8
"""Slots of a window of which half is predicted from the other."""
LAGS = (1, 2, 5, 10)
"""Steps along an axis after which a file's likeness is looked at."""
_QUANTILES = (0.1, 0.5, 0.9)

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Windows:
    """A file's windows, [windows, slots, subcarriers, antennas], each of mean power 1."""

    known: Complex
    """Those that covariances are estimated from; none if there is a single place and time."""
    tested: Complex
    empty: int
    """How many were left out, because they are without power."""


@dataclass(frozen=True)
class RecordedRow:
    """One method's error on one file."""

    file: str
    task: str
    method: str
    snr_db: float
    horizon: int
    """In slots; 0 for estimation."""
    nmse_db: float


@dataclass(frozen=True)
class RecordedBench:
    """What was measured on one file."""

    file: str
    shape: tuple[int, ...]
    window: Shape
    tested: int
    covariances: int
    """Windows that LMMSE's covariances are of; 0: it is left out."""
    empty: int
    learned: bool
    """Whether the windows are those of learned models; else these are left out."""
    predicted: bool
    rows: list[RecordedRow]


def size_of(values: Complex, whole: Shape = WINDOW) -> Shape:
    """The window of a file, [channels, slots, subcarriers, antennas]: as large as it is, at most `whole`."""
    slots, subcarriers, antennas = (min(own, most) for own, most in zip(values.shape[1:], whole, strict=True))
    return slots, subcarriers, antennas


def cut(values: Complex, size: Shape) -> Windows:
    """Cut channels into windows, whose halves are apart in time, or are other channels. What is over is left out."""
    count = [have // want for have, want in zip(values.shape[1:], size, strict=True)]
    whole = values[:, : count[0] * size[0], : count[1] * size[1], : count[2] * size[2]]
    parts = whole.reshape(len(values), count[0], size[0], count[1], size[1], count[2], size[2])
    groups = parts.transpose(0, 1, 3, 5, 2, 4, 6).reshape(len(values) * count[0], count[1] * count[2], *size)
    powers = np.mean(np.abs(groups) ** 2, axis=(2, 3, 4))
    kept = groups[powers.any(axis=1)], powers[powers.any(axis=1)]
    half = len(kept[0]) // 2
    known, tested = (_scaled(*(each[part] for each in kept)) for part in (slice(half), slice(half, None)))
    return Windows(known, tested, int(np.sum(powers == 0)))


def _scaled(groups: Complex, powers: NDArray[np.floating]) -> Complex:
    """Flatten groups of windows into windows of mean power 1, without those that have no power."""
    found: Complex = (groups[powers > 0] / np.sqrt(powers[powers > 0])[:, None, None, None]).astype(np.complex64)
    return found


def measure(
    file: str, values: Complex, count: int, learned: Mapping[str, Mapping[str, Method]],
    told: Callable[[int, int], None] = lambda done, of: None,
) -> RecordedBench:  # fmt: skip
    """Measure every method that applies on at most `count` windows of a file, and with covariances of 4 times as many.

    `learned` are methods for a task, which look at `WINDOW`. Raises: `BadParameterError` if there is nothing to find.
    """
    size = size_of(values)
    if size[:2] == (1, 1):
        raise BadParameterError(f"{file} has a single slot and subcarrier: give channels over several of one of them")
    windows = cut(values, size)
    if not len(windows.tested):
        raise BadParameterError(f"{file} has no window with power: give channels of more than zeros")
    known, tested = _spread(windows.known, 4 * count), _spread(windows.tested, count)
    covariances = Covariances(baselines.measured(known, 1), baselines.measured(known, 2)) if len(known) else None
    predicted, whole = size[0] >= LEAST_SLOTS, size == WINDOW
    horizons = tuple(each for each in bench.HORIZONS if each <= size[0] - size[0] // 2)
    cells: list[tuple[str, float, tuple[int, ...]]] = [(bench.ESTIMATE, snr_db, (0,)) for snr_db in bench.SNRS_DB]
    cells += [(bench.PREDICT, bench.PREDICTED_SNR_DB, horizons)] if predicted else []
    rows: list[RecordedRow] = []
    for done, (task, snr_db, ahead) in enumerate(cells, 1):
        methods = {**bench.untold(task, covariances), **(learned.get(task, {}) if whole else {})}
        for method, found in bench.measure(methods, _seen(tested, task, snr_db), ahead).items():
            rows += [RecordedRow(file, task, method, snr_db, *each) for each in found.items()]
        told(done, len(cells))
    return RecordedBench(file, values.shape, size, len(tested), len(known), windows.empty, whole, predicted, rows)


def _spread(windows: Complex, most: int) -> Complex:
    """Choose at most so many windows, evenly."""
    chosen: Complex = windows[np.linspace(0, len(windows) - 1, min(most, len(windows))).astype(int)]
    return chosen


def _seen(windows: Complex, task: str, snr_db: float) -> Iterator[tuple[Seen, Complex]]:
    comb = bench.comb(task, *windows.shape[1:3])
    for number, values in enumerate(windows):
        rng = np.random.default_rng([bench.SEED, number, 1])
        yield Seen(values + noise(values.shape, snr_db, rng), comb, snr_db), values


def said(found: RecordedBench) -> str:
    """Say as Markdown what was measured on a file, and what not."""
    slots, subcarriers, antennas = found.window
    parts = [f"{found.tested} windows of {slots} slots, {subcarriers} subcarriers and {antennas} antennas are tested"]
    if found.covariances:
        parts.append(f"{found.covariances} others give LMMSE its covariances")
    else:
        parts.append("LMMSE is left out, since there are no others to estimate covariances from")
    if found.empty:
        parts.append(f"{found.empty} without power are left out")
    if not found.learned:
        wanted = " x ".join(map(str, WINDOW))
        parts.append(f"learned methods are left out, since they look at {wanted} slots, subcarriers and antennas")
    if not found.predicted:
        parts.append(f"nothing is predicted, since that takes {LEAST_SLOTS} slots")
    return f"- *{_cell(found.file)}*: {'; '.join(parts)}."


def tables(found: Sequence[RecordedBench]) -> dict[str, str]:
    """Write what was measured as Markdown: about the files, and a table for each task."""
    blocks = {"csi-files": "\n".join(map(said, found))}
    rows = list(itertools.chain.from_iterable(each.rows for each in found))
    for task, column in bench.COLUMNS.items():
        chosen = [row for row in rows if row.task == task]
        cells = {(_cell(row.file), row.method, getattr(row, column)): row.nmse_db for row in chosen}
        if cells:
            blocks[f"csi-{task}"] = bench.grouped(cells, "file", bench.UNITS[column])
    return blocks


def _cell(name: str) -> str:
    return name.replace("|", "\\|")


def described(values: Complex) -> dict[str, Any]:
    """Say what channels, [channels, slots, subcarriers, antennas], are like: sizes, powers, and how fast they change.

    Powers are each channel's over the mean of all, in dB. `alike` is the correlation with what is some steps on along
    an axis, 0 to 1, of those that have as many.
    """
    powers = np.mean(np.abs(values) ** 2, axis=(1, 2, 3))
    full = powers[powers > 0]
    alike: dict[str, dict[int, float]] = {}
    for axis, name in enumerate(("slots", "subcarriers", "antennas"), 1):
        alike[name] = {}
        for lag in LAGS:
            if lag < values.shape[axis]:
                ahead = np.take(values, np.arange(lag, values.shape[axis]), axis)
                behind = np.take(values, np.arange(values.shape[axis] - lag), axis)
                power = np.sqrt(np.sum(np.abs(ahead) ** 2) * np.sum(np.abs(behind) ** 2))
                alike[name][lag] = float(np.abs(np.vdot(behind, ahead)) / power) if power > 0 else 0.0
    return {
        **dict(zip(("channels", "slots", "subcarriers", "antennas"), values.shape, strict=True)),
        "without_power": int(np.sum(powers == 0)),
        "power_db": {f"{each:.0%}": float(10 * np.log10(np.quantile(full, each) / full.mean())) for each in _QUANTILES},
        "alike": alike,
    }
