"""Traces of real links: the recorded pair over every run of a trace file, in virtual time.

Each scheme writes one text that is longer than the run. Of many texts some would begin, which takes the uplink, during
an outage. That is luck, other luck for each scheme, and on a bad link it would outweigh everything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.lab.cell import Result, Setting, auto, run
from airdraft.lab.record import Recording, prompts, record
from airdraft.link.trace import TraceLink, TraceRun
from airdraft.link.tracefile import read
from airdraft.models.engines import load
from airdraft.sim.virtual import Compute

BAR = 0.95
"""Share of the best exact scheme's speed that `auto` must reach on every run of a trace."""
LENGTHS = (1, 2, 3, 4, 6, 8)
"""Draft lengths to try. The best is chosen afterwards for the whole run, which no device could know."""
TEMPERATURE, TEXTS, TOKENS, SEED = 0.7, 24, 128, 1
AHEAD = 1.5
"""Prepare 1.5 × the tokens that the target alone could write in a run; a faster scheme starts over."""
OUTAGE_BPS = 1e4
"""The link counts as down below this rate."""
PATIENCE_S = 3600.0
"""A heartbeat that no outage exceeds: some traces are silent for minutes, and every scheme waits."""


class Speed(msgspec.Struct, frozen=True):
    """One scheme on one run of a trace. Times are virtual."""

    scheme: str
    length: int | None
    """Draft length: the best of `LENGTHS` for schemes with rounds."""
    tokens: int
    tokens_per_s: float
    wait_p50_ms: float
    """Wait for a token after its predecessor arrived; tokens that come together wait for their first."""
    wait_p95_ms: float
    wait_p99_ms: float
    exact: bool


class Traced(msgspec.Struct, frozen=True):
    """All schemes on one run of a trace."""

    name: str
    seconds: float
    """Duration of the texts: the run's, and no more than was asked for."""
    mean_mbps: float
    outage: float
    """Share of that time in which the link was down."""
    rtt_ms: float
    """Median round trip: the trace's, or the given one if it has none."""
    speeds: list[Speed]

    @property
    def best(self) -> Speed:
        """The fastest exact scheme but `auto`."""
        return max((each for each in self.speeds if each.scheme != "auto"), key=lambda each: each.tokens_per_s)

    @property
    def ratio(self) -> float:
        """The speed of `auto` divided by that of the best."""
        reached = next(each for each in self.speeds if each.scheme == "auto").tokens_per_s
        return reached / self.best.tokens_per_s if self.best.tokens else 1.0


@dataclass(frozen=True)
class Task:
    """A run of a trace, and how to replay it."""

    name: str
    run: TraceRun
    rtt_s: float
    """Round trip for a trace that has none."""
    compute: Compute
    seconds: float
    """Most seconds to replay; a shorter run is replayed once."""


def recording() -> Recording:
    """Texts of the shipped pair. Takes seconds."""
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    params = SamplingParams(TEMPERATURE)
    name = f"pair T={TEMPERATURE:g}"
    return record(draft, target, prompts(TEXTS), params, TOKENS, SEED, tokenizer.vocab_size, name)


def tasks(paths: Sequence[Path], rtt_ms: float, draft_ms: float, verify_ms: float, seconds: float) -> list[Task]:
    """A task for each run of each file.

    Raises: `BadParameterError` naming a file that is no trace, or a number out of range.
    """
    for name, value in (("draft-ms", draft_ms), ("verify-ms", verify_ms), ("seconds", seconds)):
        if not 0 < value < float("inf"):  # NaN lands here too
            raise BadParameterError(f"{name} is {value:g}; give a finite number above 0")
    if not 0 <= rtt_ms < math.inf:
        raise BadParameterError(f"rtt-ms is {rtt_ms:g}; give a finite round trip of 0 ms or more")
    compute = Compute(draft_ms / 1e3, verify_ms / 1e3)
    found = []
    for path in paths:
        folder = "/".join(path.absolute().parts[-3:-1])  # data sets name their files alike
        for each in read(path):
            TraceLink(each, rtt_s=rtt_ms / 1e3)  # refuses now what could not be replayed later
            length_s = min(seconds, each.uplink_bps.ends_s[-1])
            found.append(Task(f"{folder}/{each.name}", each, rtt_ms / 1e3, compute, length_s))
    return found


def trace(recorded: Recording, task: Task) -> Traced:
    """Run every scheme over one run, each on an idle link at the beginning of the trace."""
    recorded = _joined(recorded, math.ceil(AHEAD * task.seconds / task.compute.verify_s))
    link = TraceLink(task.run, rtt_s=None if task.run.rtt_s else task.rtt_s)
    setting = Setting(link, task.compute)

    def one(spec: SchemeSpec, label: str, length: int | None = None, policy: bool = False) -> Speed:
        chosen = auto(recorded.vocab_size, spec) if policy else None
        result = run(
            recorded, setting, spec, length=length, policy=chosen, label=label, until_s=task.seconds,
            heartbeat_s=PATIENCE_S,
        )  # fmt: skip
        return _speed(result, task.seconds)

    speeds = [one(SchemeSpec(schemes.SERVER), schemes.SERVER)]
    for name in schemes.named(rounds=True):
        tried = [one(SchemeSpec(name), name, length) for length in LENGTHS]
        speeds.append(max(tried, key=lambda each: each.tokens_per_s))
    stream = schemes.STREAM
    speeds += [one(SchemeSpec(stream, race=race), f"{stream}/{race}") for race in ("off", "always")]
    speeds.append(one(SchemeSpec(stream), "auto", policy=True))
    rates_bps = list(_during(task.run, task.seconds))
    rtts = task.run.rtt_s.values if task.run.rtt_s else (task.rtt_s,)
    return Traced(
        name=task.name,
        seconds=task.seconds,
        mean_mbps=sum(share * rate for share, rate in rates_bps) / 1e6,
        outage=sum(share for share, rate in rates_bps if rate < OUTAGE_BPS),
        rtt_ms=1e3 * float(np.median(rtts)),
        speeds=speeds,
    )


def _joined(recorded: Recording, length: int) -> Recording:
    """The recorded texts joined end to end, again and again, as one text."""
    texts = recorded.texts * math.ceil(length / recorded.length)
    columns = ("tokens", "matches", "accept", "accept_topk", "draft_prob", "entropy", "support")
    joined = {name: [value for text in texts for value in getattr(text, name)][:length] for name in columns}
    return structs.replace(recorded, texts=[structs.replace(texts[0], **joined)])


def _during(run: TraceRun, seconds: float) -> Iterator[tuple[float, float]]:
    """The rates of the first `seconds`, each with its share of the time."""
    begin_s = 0.0
    for end_s, rate_bps in zip(run.uplink_bps.ends_s, run.uplink_bps.values, strict=True):
        yield max(0.0, min(end_s, seconds) - begin_s) / seconds, rate_bps
        begin_s = end_s


def _speed(result: Result, seconds: float) -> Speed:
    """The speed of a scheme over the first `seconds`; its text went on beyond them."""
    ends_s = accumulate(result.waits_s)  # a text begins as the one before it ends
    waits_ms = [1e3 * wait_s for wait_s, end_s in zip(result.waits_s, ends_s, strict=True) if end_s <= seconds]
    p50, p95, p99 = np.percentile(waits_ms or [1e3 * seconds], (50, 95, 99)).tolist()
    count = len(waits_ms)
    return Speed(result.scheme, result.length, count, count / seconds, p50, p95, p99, result.identical)


def trace_all(
    recorded: Recording, todo: Sequence[Task], jobs: int, on_run: Callable[[int, int], None] = lambda done, of: None
) -> list[Traced]:
    """Run every task, in `jobs` processes. `on_run` gets the number done, and of how many."""
    found = []
    with ProcessPoolExecutor(jobs) as pool:
        for done, traced in enumerate(pool.map(trace, [recorded] * len(todo), todo), 1):
            found.append(traced)
            on_run(done, len(todo))
    return found


def worst(found: Sequence[Traced]) -> Traced:
    """The run on which `auto` falls furthest short of the best."""
    return min(found, key=lambda each: each.ratio)


def record_of(found: Sequence[Traced], compute: Compute) -> dict[str, Any]:
    """The record that `--json` writes."""
    return {
        "simulated": True,
        "agreement": f"pair T={TEMPERATURE:g}",
        "draft_ms": 1e3 * compute.draft_s,
        "verify_ms": 1e3 * compute.verify_s,
        "bar": BAR,
        "worst_ratio": worst(found).ratio,
        "held": worst(found).ratio >= BAR,
        "runs": [{**msgspec.to_builtins(each), "best": each.best.scheme, "ratio": each.ratio} for each in found],
    }
