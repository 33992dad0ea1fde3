"""Measures how well channels are estimated from pilots and predicted: error by SNR, horizon and speed.

The error is NMSE: power of what is wrong over power of the channel, both summed over all channels of a cell, in dB.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from airdraft.channel import baselines
from airdraft.channel.baselines import Comb, Matrix
from airdraft.channel.generate import ChannelRecipe, Complex, Realisation, channels, shift_hz
from airdraft.channel.profiles import PROFILES, profile

ESTIMATE, PREDICT = TASKS = ("estimate", "predict")
SNRS_DB = (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
HORIZONS = (1, 2, 5, 10, 20)
SPEEDS_KMH = (3.0, 30.0, 120.0)
MIXED_KMH = (0.0, 150.0)
"""Speeds of the channels that covariances are estimated from."""
LINES, LMMSE = "least squares, lines between", "LMMSE, estimated covariance"
AUTOREGRESSION = f"autoregression of {baselines.AR_ORDER}"
"""The methods without learning that a learned one is held against: they are told nothing that a device has not."""
REACHED_DB, REACHED_SNR_DB = 1.0, 10.0
"""How near to LMMSE an estimate counts as having reached it, and at which SNR."""
PILOT_SLOTS, PILOT_SUBCARRIERS = 2, 4
"""Every second slot and every fourth subcarrier is a pilot."""
PREDICTED_SNR_DB = 20.0
COLUMNS, UNITS = {ESTIMATE: "snr_db", PREDICT: "horizon"}, {"snr_db": "dB", "horizon": "slots"}
"""What an error's table has a column for each of."""
TRAINING_SEED, SEED = 7001, 7002
DELAY_SPREADS_S = (10e-9, 300e-9)


@dataclass(frozen=True)
class Seen:
    """A channel as a method sees it: what is observed, where, and how noisy."""

    observed: Complex  # [slots, subcarriers, antennas], whole; only what `comb` names may be used
    comb: Comb
    snr_db: float


@dataclass(frozen=True)
class Drawn(Seen):
    """A simulated channel as a method sees it that is told the truth."""

    channel: Realisation


@dataclass(frozen=True)
class Covariances:
    """The covariances that LMMSE is given."""

    over_time: Matrix
    over_subcarriers: Matrix


S = TypeVar("S", bound=Seen)
Method = Callable[[Seen], Complex]
ToldMethod = Callable[[Drawn], Complex]
"""A method that may also be told a channel's profile, speed and delay spread."""


@dataclass(frozen=True)
class NmseRow:
    """One method's error in one cell."""

    task: str
    """`estimate` or `predict`."""
    method: str
    snr_db: float
    speed_kmh: float
    horizon: int
    """In slots; 0 for estimation."""
    nmse_db: float


def estimated(recipe: ChannelRecipe, count: int) -> Covariances:
    """Estimate covariances from channels of all speeds and delay spreads, none of which is tested."""
    drawn = np.stack(
        [each.values for each in itertools.islice(channels(replace(recipe, speed_kmh=MIXED_KMH), TRAINING_SEED), count)]
    )
    return Covariances(baselines.measured(drawn, 1), baselines.measured(drawn, 2))


def true(recipe: ChannelRecipe, channel: Realisation) -> Covariances:
    """Compute the covariances of a channel's own profile, speed and delay spread."""
    like = profile(channel.profile)
    over_time = baselines.true_time(
        like, shift_hz(recipe, channel.speed_kmh), baselines.lags(recipe.slots, recipe.slot_s)
    )
    lags_hz = baselines.lags(recipe.subcarriers, recipe.spacing_hz)
    return Covariances(over_time, baselines.true_subcarriers(like, channel.delay_spread_s, lags_hz))


def comb(task: str, slots: int, subcarriers: int) -> Comb:
    """Make what is shown of a channel: pilots, or to predict the first half of the slots."""
    if task == PREDICT:
        return Comb(np.arange(slots // 2), np.arange(subcarriers))
    return Comb(np.arange(0, slots, PILOT_SLOTS), np.arange(0, subcarriers, PILOT_SUBCARRIERS))


def untold(task: str, known: Covariances | None) -> dict[str, Method]:
    """The ways to estimate or predict a channel without being told of it; LMMSE needs the covariances of others."""
    found: dict[str, Method] = {LINES: lambda seen: baselines.interpolated(seen.observed, seen.comb)}
    if task == PREDICT:
        found = {
            "last value": lambda seen: baselines.held(seen.observed, len(seen.comb.slots)),
            "straight line": lambda seen: baselines.continued(seen.observed, len(seen.comb.slots)),
            AUTOREGRESSION: lambda seen: baselines.autoregressed(seen.observed, len(seen.comb.slots)),
        }
    if known is not None:
        found[LMMSE] = lambda seen: _lmmse(seen, known)
    return found


def ways(task: str, recipe: ChannelRecipe, known: Covariances) -> dict[str, ToldMethod]:
    """All ways without learning to estimate or predict a simulated channel."""
    return {
        **untold(task, known),
        "LMMSE, true covariance": lambda seen: _lmmse(seen, true(recipe, seen.channel)),
    }


def drawn(recipe: ChannelRecipe, task: str, seed: int, count: int) -> Iterator[Drawn]:
    """Draw channels as they are seen."""
    at = comb(task, recipe.slots, recipe.subcarriers)
    for number, each in enumerate(itertools.islice(channels(recipe, seed), count)):
        observed = each.observed(np.random.default_rng([seed, number, 1]))
        yield Drawn(observed, at, each.snr_db, each)


def _lmmse(seen: Seen, given: Covariances) -> Complex:
    return baselines.lmmse(seen.observed, seen.comb, given.over_time, given.over_subcarriers, seen.snr_db)


def bench(
    count: int,
    learned: Mapping[str, Mapping[str, Method]] | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> list[NmseRow]:
    """Measure every method, and those learned for a task, in every cell: on the same `count` channels."""
    learned = learned or {}
    recipe = ChannelRecipe(PROFILES, delay_spread_s=DELAY_SPREADS_S)
    known = estimated(recipe, 4 * count)
    tasks = ((ESTIMATE, SNRS_DB, (0,)), (PREDICT, (PREDICTED_SNR_DB,), HORIZONS))
    rows: list[NmseRow] = []
    done = 0
    of = sum(len(snrs) for _, snrs, _ in tasks) * len(SPEEDS_KMH)
    for task, snrs_db, horizons in tasks:
        methods = {**ways(task, recipe, known), **learned.get(task, {})}
        for snr_db, speed_kmh in itertools.product(snrs_db, SPEEDS_KMH):
            at = replace(recipe, speed_kmh=(speed_kmh, speed_kmh), snr_db=(snr_db, snr_db))
            shown = ((seen, seen.channel.values) for seen in drawn(at, task, SEED, count))
            for method, found in measure(methods, shown, horizons).items():
                rows += [NmseRow(task, method, snr_db, speed_kmh, *each) for each in found.items()]
            done += 1
            told(done, of)
    return rows


def measure(
    methods: Mapping[str, Callable[[S], Complex]], shown: Iterable[tuple[S, Complex]], horizons: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Compute each method's NMSE in dB at each horizon, in slots after the last observed; 0 is the whole channel.

    `shown`: channels as they are seen, and all their values.
    """
    errors = {name: np.zeros(len(horizons)) for name in methods}
    power = np.zeros(len(horizons))
    for seen, values in shown:
        last = int(seen.comb.slots[-1])
        places = [slice(None) if each == 0 else slice(last + each, last + each + 1) for each in horizons]
        power += [np.sum(np.abs(values[place]) ** 2) for place in places]
        for name, method in methods.items():
            wrong = np.abs(method(seen) - values) ** 2
            errors[name] += [np.sum(wrong[place]) for place in places]
    shares = {name: np.maximum(each / power, 1e-12) for name, each in errors.items()}
    return {
        name: {horizon: float(10 * np.log10(each)) for horizon, each in zip(horizons, share, strict=True)}
        for name, share in shares.items()
    }


def tables(rows: Sequence[NmseRow]) -> dict[str, str]:
    """Write both tasks as Markdown, a column for each SNR or horizon, a row for each speed and method."""
    found = {}
    for task, column in COLUMNS.items():
        chosen = sorted((row for row in rows if row.task == task), key=lambda row: row.speed_kmh)
        cells = {(f"{row.speed_kmh:g}", row.method, getattr(row, column)): row.nmse_db for row in chosen}
        found[f"channel-{task}"] = grouped(cells, "km/h", UNITS[column])
    return found


def grouped(cells: Mapping[tuple[str, str, float], float], head: str, unit: str) -> str:
    """Write errors by group, method and column as Markdown, the least of a group's column in bold."""
    columns = sorted({column for _, _, column in cells})
    lines = [
        f"| {head} | method | {' | '.join(f'{each:g} {unit}' for each in columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for group in dict.fromkeys(group for group, _, _ in cells):
        own = {(method, at): db for (of, method, at), db in cells.items() if of == group}
        best = {each: min(db for (_, at), db in own.items() if at == each) for each in {at for _, at in own}}
        for method in dict.fromkeys(method for method, _ in own):
            shown = [own.get((method, each)) for each in columns]
            marked = [
                "" if db is None else f"**{db:.1f}**" if db == best[each] else f"{db:.1f}"
                for db, each in zip(shown, columns, strict=True)
            ]
            lines.append(f"| {group} | {method} | {' | '.join(marked)} |")
    return "\n".join(lines)


def reached(rows: list[NmseRow], learned: Mapping[str, Mapping[str, Method]]) -> str:
    """Say as Markdown how the learned methods stand against those without learning that know no more."""
    cells = {(row.method, (row.task, row.snr_db, row.speed_kmh, row.horizon)): row.nmse_db for row in rows}
    estimates = list(itertools.product((ESTIMATE,), SNRS_DB, SPEEDS_KMH, (0,)))
    predictions = list(itertools.product((PREDICT,), (PREDICTED_SNR_DB,), SPEEDS_KMH, HORIZONS))

    def over(method: str, other: str, places: list[tuple[str, float, float, int]]) -> list[float]:
        return [cells[method, place] - cells[other, place] for place in places]

    lines = []
    for method in learned.get(ESTIMATE, {}):
        lines_over, at = over(method, LINES, estimates), [each for each in estimates if each[1] == REACHED_SNR_DB]
        apart = dict(zip(SPEEDS_KMH, over(method, LMMSE, at), strict=True))
        near = [f"{speed:g}" for speed, db in apart.items() if db <= REACHED_DB]
        said = ", ".join(f"{db:+.2f} dB at {speed:g} km/h" for speed, db in apart.items())
        lines.append(
            f"- *{method}* estimates better than least squares in {sum(db < 0 for db in lines_over)} of "
            f"{len(lines_over)} cells. Against LMMSE with estimated covariance, pilots at {REACHED_SNR_DB:g} dB: "
            f"{said}; at most {REACHED_DB:g} dB behind at {len(near)} of {len(apart)} speeds."
        )
    for method in learned.get(PREDICT, {}):
        apart_ar = over(method, AUTOREGRESSION, predictions)
        lines.append(
            f"- *{method}* predicts better than autoregression in {sum(db < 0 for db in apart_ar)} of {len(apart_ar)} "
            f"cells; the mean difference is {np.mean(apart_ar):+.2f} dB."
        )
    return "\n".join(lines)
