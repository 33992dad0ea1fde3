"""What forecasts of a link are worth: `auto` with and without them in virtual time, and forecasts beside what came.

The device drafts chains, the edge has no draft of its own, and one text lasts as long as the run, as in `tracing.py`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from airdraft.channel.features import reading
from airdraft.channel.learned import LearnedChannel
from airdraft.control.forecast import (
    FORECASTERS,
    HORIZONS_S,
    SIGHTED,
    STEP_S,
    Forecaster,
    LinkSample,
    Outlook,
    Sighted,
    forecaster,
)
from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.errors import BadParameterError
from airdraft.lab.pool import processes
from airdraft.lab.record import Recording
from airdraft.lab.virtual.cell import Setting, auto, compute, run
from airdraft.lab.virtual.tracing import AHEAD, OUTAGE_BPS, PATIENCE_S, check_numbers, joined, speed, tasks
from airdraft.link.base import LinkModel, Pipe
from airdraft.link.nr import NrLink, NrPipe
from airdraft.link.presets import preset
from airdraft.link.trace import RTT_S, TraceLink, TraceRun
from airdraft.sim.virtual import Compute

NONE, ORACLE = "none", "oracle"
"""The device without a forecast, and one that knows a recorded link beforehand: what a forecast could save at most."""
SLOWER, BETTER = 0.01, 0.10
"""Share of the speed that a forecast may cost on any link, and share of the drafts in vain that it must save on the
median link with outages."""
LEAST_OUTAGE = 0.02
"""Share of the time from which on a link counts as one with outages."""


class Foreseen(msgspec.Struct, frozen=True):
    """`auto` with one forecaster on one link. Times are virtual."""

    forecast: str
    tokens_per_s: float
    wait_p99_ms: float
    in_vain: float
    """The device's drafts that the edge never accepted, for each token of the text."""
    exact: bool


class Scored(msgspec.Struct, frozen=True):
    """The forecasts for one horizon beside what came, over one recorded run."""

    forecast: str
    horizon_s: float
    rate_off: float
    """Median factor between the rate forecast and the rate that came, while the link was up."""
    inside: float
    """Share of the time that the rate was between the 10 % and the 90 % quantile: 0.8 is right."""
    brier: float
    """Mean square error of the chance of an outage."""
    constant: float
    """The same of a forecaster that always says how often there was one."""


class Oracle:
    """A forecaster that knows when a recorded link is down, and nothing of round trips."""

    def __init__(self, run: TraceRun) -> None:
        self._rates, self._at_s = run.uplink_bps, 0.0

    def see(self, sample: LinkSample) -> None:
        """See `Forecaster.see`."""
        self._at_s = sample.at_s

    def forecast(self) -> list[Outlook]:
        """See `Forecaster.forecast`. It says what will be at each horizon's end."""
        ends_s, values = self._rates.ends_s, self._rates.values
        rates = [values[bisect_right(ends_s, (self._at_s + horizon_s) % ends_s[-1])] for horizon_s in HORIZONS_S]
        return [Outlook(at, (), (), float(rate < OUTAGE_BPS)) for at, rate in zip(HORIZONS_S, rates, strict=True)]


class Trial(msgspec.Struct, frozen=True):
    """A link, and how long to write over it."""

    name: str
    link: LinkModel
    seconds: float
    compute: Compute


class Weighed(msgspec.Struct, frozen=True):
    """All forecasters on one link."""

    name: str
    outage: float | None
    """Share of the text's time that a recorded link was down; None: it is no recorded one."""
    rows: list[Foreseen]
    scores: list[Scored]
    """None of them for links that are not recorded."""

    def of(self, name: str) -> Foreseen:
        """The row of a forecaster."""
        return next(row for row in self.rows if row.forecast == name)

    def has(self, name: str) -> bool:
        """Whether a forecaster was run here."""
        return any(row.forecast == name for row in self.rows)


def names_of(given: str) -> list[str]:
    """Read names with commas, or `all`. Raises: `BadParameterError`."""
    every = [*FORECASTERS, *SIGHTED, ORACLE]
    names = every if given == "all" else [name for name in given.split(",") if name and name != NONE]
    for name in names:
        if name not in every:
            raise BadParameterError(f"no forecaster {name!r}; give one of {', '.join(every)}, or all", "forecast")
    return names


class Looked:
    """A cell whose uplink's channel can be looked at while it is used, as a modem does."""

    def __init__(self, link: NrLink) -> None:
        self._link = link
        self._pipe: NrPipe | None = None

    def uplink(self) -> Pipe:
        """See `LinkModel.uplink`."""
        self._pipe = self._link.uplink()
        return self._pipe

    def downlink(self) -> Pipe:
        """See `LinkModel.downlink`."""
        return self._link.downlink()

    def sighted(self, name: str) -> Callable[[], Forecaster]:
        """Make a maker of forecasters that are told what is measured: one of `SIGHTED`."""
        read = reading(name, LearnedChannel() if name == "model" else None)
        return lambda: Sighted(forecaster("ridge"), lambda now: read(self._pipe.csi(now) if self._pipe else None))


def cases(links: Sequence[str], rtt_ms: float, draft_ms: float, verify_ms: float, seconds: float) -> list[Trial]:
    """A case for each run of each file, and for each link by name. Raises: `BadParameterError`."""
    numbers = rtt_ms, draft_ms, verify_ms, seconds
    check_numbers(*numbers)
    pace, found = compute(draft_ms, verify_ms), list[Trial]()
    for each in links:
        path = Path(each)
        if not path.exists() and not path.suffix:
            found.append(Trial(each, preset(each), seconds, pace))
            continue
        for task in tasks([path], *numbers):
            link = TraceLink(task.run, rtt_s=None if task.run.rtt_s else task.rtt_s)
            found.append(Trial(task.name, link, task.seconds, task.compute))
    return found


def weigh(recorded: Recording, case: Trial, names: Sequence[str]) -> Weighed:
    """Run `auto` over a link without a forecast and with each, and score forecasts of a recorded one.

    Only a simulated cell has a channel to measure, so only there `SIGHTED` are run; only a recorded link is known
    beforehand.
    """
    long = joined(recorded, math.ceil(AHEAD * case.seconds / case.compute.verify_s))
    looked = Looked(case.link) if isinstance(case.link, NrLink) else None
    spec, setting = SchemeSpec(schemes.STREAM), Setting(looked or case.link, case.compute)
    made = dict[str, Callable[[], Forecaster]](FORECASTERS)
    if looked is not None:
        made |= {name: looked.sighted(name) for name in SIGHTED if name in names}
    if isinstance(case.link, TraceLink):
        made[ORACLE] = partial(Oracle, case.link.run)
    names, began_s = [name for name in names if name in made], 0.0

    def one(name: str) -> Foreseen:
        nonlocal began_s
        result = run(
            long, setting, spec, policy=auto(recorded.vocab_size, spec), label=name, until_s=case.seconds,
            heartbeat_s=PATIENCE_S, forecast=made.get(name),
        )  # fmt: skip
        began_s = result.began_s
        found, counts = speed(result, case.seconds), result.counts
        in_vain = (counts.draft_rows - counts.accepted) / max(1, counts.committed)
        return Foreseen(name, found.tokens_per_s, found.wait_p99_ms, in_vain, result.identical)

    rows = [one(name) for name in (NONE, *names)]
    if not isinstance(case.link, TraceLink):
        return Weighed(case.name, None, rows, [])
    samples = list(sampled(case.link.run, began_s + case.seconds))
    outage = float(np.mean([sample.down for sample in samples[int(began_s / STEP_S) :]]))
    return Weighed(case.name, outage, rows, [each for name in names if name != ORACLE for each in score(name, samples)])


def sampled(run: TraceRun, seconds: float) -> Iterator[LinkSample]:
    """What a device that always sends would know of a recorded link, step by step."""
    rates, rtts = run.uplink_bps.steps(repeat=True), run.rtt_s.steps(repeat=True) if run.rtt_s else None
    for step in range(int(seconds / STEP_S)):
        at_s = (step + 0.5) * STEP_S
        rates.seek(at_s)
        if rtts is not None:
            rtts.seek(at_s)
        yield LinkSample(rates.value < OUTAGE_BPS, RTT_S if rtts is None else rtts.value, rates.value)


def score(name: str, samples: Sequence[LinkSample]) -> list[Scored]:
    """Put a forecaster's outlooks beside what came. It knows nothing of a link but its own samples so far."""
    chosen, outlooks = forecaster(name), list[Sequence[Outlook]]()
    for sample in samples:
        chosen.see(sample)
        outlooks.append(chosen.forecast())
    rates, down = (np.array([getattr(each, field) for each in samples], float) for field in ("goodput_bps", "down"))
    logs, found = np.log10(np.maximum(rates, OUTAGE_BPS)), list[Scored]()
    for at, horizon_s in enumerate(HORIZONS_S):
        steps = round(horizon_s / STEP_S)
        off, inside, chances, came = list[float](), list[bool](), list[float](), list[float]()
        for now in range(len(samples) - steps):
            outlook, after = outlooks[now][at], slice(now + 1, now + 1 + steps)
            chances.append(outlook.outage)
            came.append(down[after].max())
            if outlook.goodput_bps:
                low, middle, high = np.log10(outlook.goodput_bps)
                mean = float(logs[after].mean())
                inside.append(bool(low <= mean <= high))
                if not came[-1]:
                    off.append(abs(mean - float(middle)))
        share, happened = np.array(chances), np.array(came)
        found.append(
            Scored(
                name,
                horizon_s,
                float(10 ** np.median(off)) if off else math.nan,
                float(np.mean(inside)) if inside else math.nan,
                float(np.mean((share - happened) ** 2)),
                float(np.var(happened)),
            )
        )
    return found


def weigh_all(
    recorded: Recording, todo: Sequence[Trial], names: Sequence[str], jobs: int, on_run: Callable[[int, int], None]
) -> list[Weighed]:
    """Weigh every case, in `jobs` processes."""
    found = []
    with processes(jobs) as pool:
        for done, each in enumerate(pool.map(weigh, [recorded] * len(todo), todo, [names] * len(todo)), 1):
            found.append(each)
            on_run(done, len(todo))
    return found


def verdicts(found: Sequence[Weighed]) -> list[dict[str, Any]]:
    """For each forecaster: its worst speed in that without one, and what it saves on links with outages."""
    result = []
    up = [each for each in found if each.of(NONE).tokens_per_s > 0]  # else the link was down all the time
    for name in dict.fromkeys(row.forecast for each in up for row in each.rows if row.forecast != NONE):
        found = [each for each in up if each.has(name)]
        speeds = {each.name: each.of(name).tokens_per_s / each.of(NONE).tokens_per_s for each in found}
        worst = min(speeds, key=lambda at: speeds[at])
        out = [each for each in found if each.outage is None or each.outage >= LEAST_OUTAGE]
        saved = [1 - each.of(name).in_vain / each.of(NONE).in_vain for each in out if each.of(NONE).in_vain > 0]
        sooner = [1 - each.of(name).wait_p99_ms / each.of(NONE).wait_p99_ms for each in out]
        medians = [float(np.median(each)) if each else math.nan for each in (saved, sooner)]
        result.append({
            "forecast": name, "links": len(found), "worst_speed": speeds[worst], "worst_link": worst,
            "links_with_outages": len(out), "saved": medians[0], "p99_sooner": medians[1],
            "mean_speed": float(np.exp(np.mean(np.log(list(speeds.values()))))),
            "held": speeds[worst] >= 1 - SLOWER and max(medians) >= BETTER,
        })  # fmt: skip
    return result
