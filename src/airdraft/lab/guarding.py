"""The jamming guard over simulated cells: it learns its thresholds, and is tried on cells that it has not seen.

Cells differ in place, distance, speed, fades and outages, jams in power. All of them are `nr`, simulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from airdraft.channel.guard import Array, Thresholds, alarms, learn, looked
from airdraft.control.forecast import STEP_S
from airdraft.errors import BadParameterError
from airdraft.link.nr import NrLink
from airdraft.link.nr.radio import SCENARIOS

POWERS_DB = (10, 15, 20, 25, 30)
"""Powers of jams over the noise that the guard is tried on."""
LOOKS, GAP_S = 100, 0.37
"""Looks at each cell, so far apart that fades differ."""
DELAY_CELLS, DELAY_S = 20, 60.0
"""Cells and seconds of each over which delays are counted."""
_TRIES = 200


class Caught(msgspec.Struct, frozen=True):
    """How the guard does against jams of one power."""

    power_db: int
    caught: float
    """Share of the looks in a jam that say so."""
    energy_alone: float
    correlation_alone: float
    """The same with one threshold, at the same share of false alarms."""


class Guarded(msgspec.Struct, frozen=True):
    """What the guard has learned, and how it does on other cells."""

    thresholds: Thresholds
    cells: int
    false_alarms: float
    """Share of the looks without a jam that were taken for one."""
    caught: list[Caught]
    jams: int
    missed: int
    """Jams of 30 dB that were over before the guard saw them, with a look every `STEP_S`."""
    delay_ms: float
    delay_p95_ms: float


def cell(rng: np.random.Generator, jam_db: float | None, jam_s: float = 60.0) -> NrLink:
    """Draw a cell; with `jam_db`, jams of that power, most of the time unless `jam_s` is short."""
    for _ in range(_TRIES):
        scenario = str(rng.choice(list(SCENARIOS)))
        try:
            return NrLink(
                scenario, distance_m=SCENARIOS[scenario].distance_m * float(rng.uniform(0.3, 1.8)),
                speed_mps=float(np.exp(rng.uniform(math.log(0.5), math.log(35.0)))), outage_interval_s=5.0,
                jam_interval_s=math.inf if jam_db is None else 0.1 if jam_s > 10 else 5.0, jam_s=jam_s,
                jam_db=jam_db or 0.0, seed=int(rng.integers(1 << 31)),
            )  # fmt: skip
        except BadParameterError:  # out of the cell
            continue
    raise ValueError("no cell reaches the device")


def looks(link: NrLink, jammed: bool) -> Iterator[tuple[float, float]]:
    """Look at a cell now and then, while it is `jammed` or not."""
    pipe = link.uplink()
    pipe.send(0.0, 1)
    for at in range(LOOKS):
        now = 1.0 + GAP_S * at
        csi = pipe.csi(now)
        if csi is not None and pipe.jammed(now) == jammed:
            yield looked(csi)


def many(cells: int, powers_db: tuple[int, ...] | None, seed: int) -> Array:
    """Look at many cells, [n, 2], jammed with these powers in turns, or not."""
    rng, found = np.random.default_rng(seed), list[tuple[float, float]]()
    for at in range(cells):
        power_db = powers_db[at % len(powers_db)] if powers_db else None
        found += looks(cell(rng, power_db), power_db is not None)
    return np.array(found)


def delays(thresholds: Thresholds, seed: int) -> tuple[list[float], int]:
    """Count the seconds from the begin of each jam until an alarm, and the jams without one."""
    rng, found, missed = np.random.default_rng(seed), list[float](), 0
    for _ in range(DELAY_CELLS):
        pipe = cell(rng, 30.0, 1.0).uplink()
        pipe.send(0.0, 1)
        began_s: float | None = None
        said = False
        for now in np.arange(0.5, DELAY_S, STEP_S / 10).tolist():
            jam = pipe.jammed(now)
            if jam and began_s is None:
                began_s, said = now, False
            elif not jam and began_s is not None:
                missed += not said
                began_s = None
            if began_s is not None and not said and round(now / STEP_S * 10) % 10 == 0:
                csi = pipe.csi(now)
                said = csi is not None and bool(alarms(np.array([looked(csi)]), thresholds)[0])
                found += [now - began_s] if said else []
    return found, missed


def guarded(cells: int, false_alarms: float, seed: int, on_step: Callable[[int, int], None]) -> Guarded:
    """Learn from `cells` with jams and as many without, and try the guard on as many others.

    Raises: `BadParameterError` for a share of false alarms that so few looks cannot show.
    """
    if not 10 / (cells * LOOKS) <= false_alarms < 1:
        raise BadParameterError(
            f"false-alarms is {false_alarms:g}; with {cells} cells of {LOOKS} looks give {10 / (cells * LOOKS):g} or "
            "more, below 1",
            "false_alarms",
        )
    of = 4 + len(POWERS_DB)
    clean = many(cells, None, seed)
    on_step(1, of)
    thresholds = learn(clean, many(cells, POWERS_DB, seed + 1), false_alarms)
    on_step(2, of)
    other = many(cells, None, seed + 2)
    on_step(3, of)
    loudest, least = float(np.quantile(clean[:, 0], 1 - false_alarms)), float(np.quantile(clean[:, 1], false_alarms))
    caught = []
    for at, power_db in enumerate(POWERS_DB):
        jammed = many(max(1, cells // len(POWERS_DB)), (power_db,), seed + 3 + at)
        shares = alarms(jammed, thresholds), jammed[:, 0] > loudest, jammed[:, 1] < least
        caught.append(Caught(power_db, *(float(np.mean(each)) for each in shares)))
        on_step(4 + at, of)
    took, missed = delays(thresholds, seed + 99)
    on_step(of, of)
    p50, p95 = 1e3 * np.quantile(took or [math.nan], (0.5, 0.95))
    wrong = float(np.mean(alarms(other, thresholds)))
    return Guarded(thresholds, cells, wrong, caught, len(took) + missed, missed, float(p50), float(p95))


def block(found: Guarded) -> str:
    """The tables as Markdown."""
    lines = [
        f"Learned from {found.cells} simulated cells without jams and as many with, tried on as many others. A jam has "
        f"more than {found.thresholds.energy_db:.1f} dB and a correlation below {found.thresholds.correlation:.2f}. "
        f"False alarms: {found.false_alarms:.2%} of the looks, {found.thresholds.false_alarms:.2%} were asked for.",
        "",
        "| looks in a jam that are caught | both thresholds | energy alone | correlation alone |",
        "|---|---:|---:|---:|",
    ]
    for each in found.caught:
        lines.append(
            f"| {each.power_db} dB over the noise | {each.caught:.1%} | {each.energy_alone:.1%} | "
            f"{each.correlation_alone:.1%} |"
        )
    lines += [
        "",
        f"With a look every {1e3 * STEP_S:g} ms, {found.jams} jams of 30 dB that last 1 s on average were seen after "
        f"{found.delay_ms:.0f} ms (median) and {found.delay_p95_ms:.0f} ms (95 %); {found.missed} were over before.",
    ]
    return "\n".join(lines)
