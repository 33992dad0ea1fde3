"""What a channel model is good for with few labels: five tasks, each by heads on several features, beside baselines.

The same heads (`heads.py`) are fitted to the features of a pre-trained encoder, of an untrained one, and to what was
observed itself. Encoders are frozen. The labels are 1, 10 or 100 % of the same channels; all are tested on the same
other ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from airdraft.channel import bench, heads
from airdraft.channel.baselines import Comb
from airdraft.channel.bench import Drawn
from airdraft.channel.generate import ChannelRecipe, Complex
from airdraft.channel.profiles import PROFILES

SHARES = {0.01: 5, 0.1: 3, 1.0: 1}
"""Shares of the labels, and how many draws of them are averaged."""
LABELS, TESTED = 2000, 500
SPEEDS_KMH, SNRS_DB = (3.0, 120.0), (-5.0, 15.0)
ESTIMATED_SNR_DB, PREDICTED_SNR_DB = 10.0, 20.0
BEAMS = 8
LABEL_SEED, TEST_SEED = 7101, 7102
_LAGS = 8
"""Lags, in pilots, of the correlations that the baselines use."""

Real = NDArray[np.float64]


class Encoder(Protocol):
    """A frozen model of channels."""

    def run(self, observed: Complex, comb: Comb, snrs_db: NDArray[np.floating]) -> tuple[Complex, NDArray[np.float32]]:
        """Compute all values [n, slots, subcarriers, antennas] and embeddings [n, width]."""
        ...


def encoded(encoder: Encoder, seen: Sequence[Drawn]) -> tuple[Complex, NDArray[np.float32]]:
    """Run an encoder over channels that are seen at the same places."""
    observed, snrs_db = np.stack([each.observed for each in seen]), np.array([each.snr_db for each in seen])
    return encoder.run(observed, seen[0].comb, snrs_db)


@dataclass(frozen=True)
class TaskRow:
    """One method's score in one task at one share of the labels."""

    task: str
    method: str
    labels: int
    """0: the method takes none."""
    score: float


@dataclass(frozen=True)
class ChannelTask:
    """What is asked of a channel, and how an answer is scored."""

    name: str
    unit: str
    higher_is_better: bool


ESTIMATE = ChannelTask("estimate from pilots, 10 dB", "NMSE, dB", False)
PREDICT = ChannelTask("predict the next 10 ms, 20 dB", "NMSE, dB", False)
SIGHT = ChannelTask("in line of sight or not", "F1", True)
SPEED = ChannelTask("speed", "mean error, km/h", False)
BEAM = ChannelTask("best of 8 beams", "share right", True)
TASKS = (ESTIMATE, PREDICT, SIGHT, SPEED, BEAM)


def observed_of(seen: Sequence[Drawn]) -> Complex:
    """Stack what is observed, without what is not: [n, slots, subcarriers, antennas]."""
    return np.stack([each.observed[np.ix_(each.comb.slots, each.comb.subcarriers)] for each in seen])


def beam_powers(values: Complex) -> Real:
    """Compute the power in each of `BEAMS` directions of a row of antennas, [n, beams], of sum 1."""
    antennas = values.shape[-1]
    steering = np.exp(2j * np.pi * np.outer(np.arange(antennas), np.arange(BEAMS)) / BEAMS)
    powers = np.mean(np.abs(values @ steering.conj()) ** 2, axis=(1, 2))
    found: Real = powers / powers.sum(1, keepdims=True)
    return found


def statistics(seen: Sequence[Drawn]) -> Real:
    """What is classically taken from pilots: correlations over time, subcarriers and antennas, how deep fades are, SNR.

    They are [n, statistics], each without the noise that the SNR says.
    """
    values = observed_of(seen)
    snr_db = np.array([each.snr_db for each in seen])
    power = np.mean(np.abs(values) ** 2, axis=(1, 2, 3))
    clean = np.maximum(power - 10 ** (-snr_db / 10), 0.05 * power)
    columns = [snr_db / 10, np.mean(np.abs(values) ** 4, axis=(1, 2, 3)) / power**2]
    for axis, lags in ((1, _LAGS), (2, _LAGS - 1), (3, values.shape[3] - 1)):
        for lag in range(1, lags + 1):
            ahead, behind = (np.take(values, np.arange(at, values.shape[axis] - lag + at), axis) for at in (lag, 0))
            product = np.mean(ahead * behind.conj(), axis=(1, 2, 3))
            columns += [np.abs(product) / clean, product.real / clean]
    return np.stack(columns, 1)


def flat(seen: Sequence[Drawn]) -> Real:
    """What is observed as real numbers, and the SNR, [n, numbers]."""
    values = observed_of(seen).reshape(len(seen), -1)
    return np.concatenate([values.real, values.imag, [[each.snr_db] for each in seen]], 1).astype(np.float64)


def antenna_rows(values: Complex) -> Complex:
    """Make a row of each antenna's values, [n · antennas, values]."""
    found: Complex = values.transpose(0, 3, 1, 2).reshape(len(values) * values.shape[3], -1)
    return found


def picked(count: int) -> Iterator[tuple[int, list[NDArray[np.intp]]]]:
    """For each share of `count` labels: how many that are, and the draws of them."""
    for share, draws in SHARES.items():
        labels = max(4, round(share * count))
        rngs = [np.random.default_rng([LABEL_SEED, draw]) for draw in range(draws)]
        yield labels, [np.sort(rng.permutation(count)[:labels]) for rng in rngs]


def f1(found: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    """Compute F1 of what is true."""
    return 2 * float(np.sum(found & right)) / max(1, int(np.sum(found)) + int(np.sum(right)))


def nmse_db(found: NDArray[Any], right: NDArray[Any]) -> float:
    """Compute the power of what is wrong over the power, in dB."""
    return float(10 * np.log10(np.sum(np.abs(found - right) ** 2) / np.sum(np.abs(right) ** 2)))


class _Labelled:
    """Channels with labels and channels to test, as every encoder sees them."""

    def __init__(
        self, recipe: ChannelRecipe, task: str, labels: int, tested: int, encoders: Mapping[str, Encoder]
    ) -> None:
        self.first = list(bench.drawn(recipe, task, LABEL_SEED, labels))
        self.then = list(bench.drawn(recipe, task, TEST_SEED, tested))
        self.encoded = {name: (encoded(each, self.first), encoded(each, self.then)) for name, each in encoders.items()}

    def right(self, answer: Callable[[list[Drawn]], NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Labels of both."""
        return answer(self.first), answer(self.then)

    def features(self, of: Callable[[list[Drawn]], Real]) -> tuple[Real, Real]:
        """Other features of both."""
        return of(self.first), of(self.then)


def _values(seen: list[Drawn]) -> Complex:
    return np.stack([each.channel.values for each in seen])


def _rebuilt(
    task: ChannelTask, data: _Labelled, slots: slice, baselines: Mapping[str, bench.ToldMethod]
) -> Iterator[TaskRow]:
    """Score estimation or prediction: heads are linear maps of an antenna's values."""
    whole, right = (each[:, slots] for each in data.right(_values))
    for name, method in baselines.items():
        found = np.stack([method(each) for each in data.then])[:, slots]
        yield TaskRow(task.name, name, 0, nmse_db(found, right))
    wanted, wanted_then = antenna_rows(whole), antenna_rows(right)
    inputs: dict[str, tuple[Complex, Complex, Complex | None]] = {}
    for name, ((values, _), (values_then, _)) in data.encoded.items():
        same = np.eye(values[0, :, :, 0].size, dtype=np.complex64).reshape(-1, *values.shape[1:3])
        itself = same[:, slots].reshape(len(same), -1)
        inputs[name] = antenna_rows(values), antenna_rows(values_then), itself
        yield TaskRow(task.name, f"{name}, no head", 0, nmse_db(values_then[:, slots], right))
    inputs["what is observed"] = antenna_rows(observed_of(data.first)), antenna_rows(observed_of(data.then)), None
    antennas = whole.shape[3]
    for labels, draws in picked(len(data.first)):
        for name, (rows, rows_then, start) in inputs.items():
            scores = []
            for draw in draws:
                chosen = (draw[:, None] * antennas + np.arange(antennas)).ravel()
                scores.append(nmse_db(heads.mapped(rows[chosen], wanted[chosen], rows_then, start), wanted_then))
            yield TaskRow(task.name, f"{name}, head", labels, float(np.mean(scores)))


def _answered(
    task: ChannelTask, data: _Labelled, answer: Callable[[list[Drawn]], Real], score: Callable[[Real, Real], float],
    more: dict[str, tuple[Real, Real]],
) -> Iterator[TaskRow]:  # fmt: skip
    """Score a task whose answers are numbers, [n, answers]: heads are regressions."""
    right, right_then = data.right(answer)
    features = {
        name: (np.asarray(first[1], np.float64), np.asarray(then[1], np.float64))
        for name, (first, then) in data.encoded.items()
    }
    features |= more | {"what is observed": data.features(flat)}
    for labels, draws in picked(len(data.first)):
        for name, (known, known_then) in features.items():
            scores = [score(heads.fit(known[draw], right[draw])(known_then), right_then) for draw in draws]
            yield TaskRow(task.name, f"{name}, head", labels, float(np.mean(scores)))


def _sight(seen: list[Drawn]) -> Real:
    return np.array([[each.channel.los] for each in seen], np.float64)


def _speed(seen: list[Drawn]) -> Real:
    return np.array([[each.channel.speed_kmh] for each in seen])


def _beam(seen: list[Drawn]) -> Real:
    chosen: Real = np.eye(BEAMS)[beam_powers(_values(seen)).argmax(1)]
    return chosen


def measure(
    encoders: Mapping[str, Encoder], labels: int = LABELS, tested: int = TESTED,
    nets: Mapping[str, Mapping[str, bench.Method]] | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> list[TaskRow]:  # fmt: skip
    """Score every task, by encoders by name and without them, and by `nets`, networks for one of the bench's tasks."""
    nets = nets or {}
    recipe = ChannelRecipe(PROFILES, SPEEDS_KMH, bench.DELAY_SPREADS_S, SNRS_DB)
    known = bench.estimated(recipe, labels)
    rows: list[TaskRow] = []
    rebuilt = (
        (ESTIMATE, bench.ESTIMATE, ESTIMATED_SNR_DB, slice(None)),
        (PREDICT, bench.PREDICT, PREDICTED_SNR_DB, slice(recipe.slots // 2, None)),
    )
    for done, (task, shown, snr_db, slots) in enumerate(rebuilt, 1):
        baselines = {**bench.ways(shown, recipe, known), **nets.get(shown, {})}
        data = _Labelled(replace(recipe, snr_db=(snr_db, snr_db)), shown, labels, tested, encoders)
        rows += _rebuilt(task, data, slots, baselines)
        told(done, len(TASKS))
    data = _Labelled(recipe, bench.ESTIMATE, labels, tested, encoders)
    classic = {"statistics of pilots": data.features(statistics)}
    rows += _answered(SIGHT, data, _sight, lambda found, right: f1(found[:, 0] > 0.5, right[:, 0] > 0.5), classic)
    always = f1(np.ones(tested, np.bool_), _sight(data.then)[:, 0] > 0.5)
    rows.append(TaskRow(SIGHT.name, "always in sight", 0, always))
    told(3, len(TASKS))
    rows += _answered(SPEED, data, _speed, lambda found, right: float(np.mean(np.abs(found - right))), classic)
    speeds = _speed(data.then)
    rows.append(TaskRow(SPEED.name, "always the middle", 0, float(np.mean(np.abs(speeds - np.mean(SPEEDS_KMH))))))
    told(4, len(TASKS))
    swept = data.features(lambda seen: beam_powers(observed_of(seen)))
    rows += _answered(
        BEAM, data, _beam, lambda found, right: float(np.mean(found.argmax(1) == right.argmax(1))),
        {"powers of the beams at pilots": swept},
    )  # fmt: skip
    best = _beam(data.then).argmax(1)
    rows.append(TaskRow(BEAM.name, "strongest beam at pilots", 0, float(np.mean(swept[1].argmax(1) == best))))
    told(5, len(TASKS))
    return rows


def table(rows: Sequence[TaskRow]) -> str:
    """Write the scores as Markdown: a row for each task and method, a column for each number of labels."""
    counts = sorted({row.labels for row in rows if row.labels})
    lines = [
        f"| task | method | {' | '.join(['no labels', *(f'{each} labels' for each in counts)])} |",
        f"|---|---|{'---:|' * (1 + len(counts))}",
    ]
    for task in TASKS:
        chosen = [row for row in rows if row.task == task.name]
        cells = {(row.method, row.labels): row.score for row in chosen}
        pick = max if task.higher_is_better else min
        columns = [0, *counts]
        best = {at: pick(score for (method, labels), score in cells.items() if labels == at and "true" not in method)
                for at in columns}  # fmt: skip
        for number, method in enumerate(
            dict.fromkeys(row.method for row in sorted(chosen, key=lambda row: row.labels))
        ):
            shown = []
            for at in columns:
                score = cells.get((method, at))
                digits = 1 if "dB" in task.unit or "km" in task.unit else 2
                text = "" if score is None else f"{score:.{digits}f}"
                shown.append(f"**{text}**" if score is not None and score == best[at] else text)
            lines.append(f"| {'' if number else f'{task.name}: {task.unit}'} | {method} | {' | '.join(shown)} |")
    return "\n".join(lines)
