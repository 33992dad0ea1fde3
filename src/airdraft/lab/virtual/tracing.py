"""Traces of real links: the recorded pair over every run of a trace file, in virtual time.

Each scheme writes one text that is longer than the run. Of many texts some would begin, which takes the uplink, during
an outage. That is luck, other luck for each scheme, and on a bad link it would outweigh everything else. That text
is made of recorded ones, again and again, so nothing copies from it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, RefusedError
from airdraft.lab.pool import processes
from airdraft.lab.record import Recording, prompts, record
from airdraft.lab.results import ALL, HELPED, Help
from airdraft.lab.virtual.cell import Result, Setting, auto, compute, run
from airdraft.link.trace import Series, TraceLink, TraceRun
from airdraft.link.tracefile import read
from airdraft.models.registry import load
from airdraft.proposers import maker
from airdraft.sim.virtual import Compute

BAR = 0.95
"""Share of the best exact scheme's speed that `auto` must reach on every run of a trace."""
LENGTHS = (1, 2, 3, 4, 6, 8)
"""Draft lengths to try. The best is chosen afterwards for the whole run, which no device could know."""
TEMPERATURE, TEXTS, TOKENS, SEED = 0.7, 24, 128, 1
ALIKE_S = 0.001
"""Seconds by which the first texts of two schemes may begin apart."""
AHEAD = 1.5
"""Prepare 1.5 × the tokens that the target alone could write in a run; a faster scheme starts over."""
_OTHER = 997
"""Between the numbers of a token in one text and in the next; odd, so that it takes long to come round."""
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
    device_drafts_per_token: float
    """Forwards of the device's draft model: what a token costs the device's battery."""
    exact: bool


class Traced(msgspec.Struct, frozen=True):
    """All schemes on one run of a trace."""

    name: str
    began_s: float
    """When the texts began, from the trace's beginning on: before it the device connected, which an outage delays."""
    seconds: float
    """Duration of the texts: the run's, and no more than was asked for. All figures are of that time."""
    mean_mbps: float
    outage: float
    """Share of that time in which the link was down."""
    rtt_ms: float
    """Median round trip in it: the trace's, or the given one if it has none."""
    speeds: list[Speed]

    @property
    def best(self) -> Speed:
        """The fastest exact scheme but `auto`."""
        return max((each for each in self.speeds if each.scheme != "auto"), key=lambda each: each.tokens_per_s)

    @property
    def ratio(self) -> float | None:
        """The speed of `auto` divided by that of the best. None: no scheme wrote a token, so there is none."""
        reached = next(each for each in self.speeds if each.scheme == "auto").tokens_per_s
        if not self.best.tokens:
            return 1.0 if reached else None
        return reached / self.best.tokens_per_s


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


def check_numbers(rtt_ms: float, draft_ms: float, verify_ms: float, seconds: float) -> None:
    """Refuse what no task can have. Raises: `BadParameterError` naming the number that is out of range."""
    for name, value in (("draft-ms", draft_ms), ("verify-ms", verify_ms), ("seconds", seconds)):
        if not 0 < value < float("inf"):  # NaN lands here too
            raise BadParameterError(f"{name} is {value:g}; give a finite number above 0")
    if not 0 <= rtt_ms < math.inf:
        raise BadParameterError(f"rtt-ms is {rtt_ms:g}; give a finite round trip of 0 ms or more")


def tasks(paths: Sequence[Path], rtt_ms: float, draft_ms: float, verify_ms: float, seconds: float) -> list[Task]:
    """A task for each run of each file.

    Raises: `BadParameterError` naming a file that is no trace, or a number out of range.
    """
    check_numbers(rtt_ms, draft_ms, verify_ms, seconds)
    pace = compute(draft_ms, verify_ms)
    found = []
    for path in paths:
        folder = "/".join(path.absolute().parts[-3:-1])  # data sets name their files alike
        for each in read(path):
            TraceLink(each, rtt_s=rtt_ms / 1e3)  # refuses now what could not be replayed later
            length_s = min(seconds, each.uplink_bps.ends_s[-1])
            found.append(Task(f"{folder}/{each.name}", each, rtt_ms / 1e3, pace, length_s))
    return found


def trace(recorded: Recording, task: Task) -> Traced:
    """Run every scheme over one run, each on an idle link at the beginning of the trace. Devices draft chains: what a
    draft model says off the texts is not known of texts that are joined. `auto` chooses at the edge of `all`.
    """
    recorded = joined(recorded, math.ceil(AHEAD * task.seconds / task.compute.verify_s))
    link = TraceLink(task.run, rtt_s=None if task.run.rtt_s else task.rtt_s)
    setting = Setting(link, task.compute)

    began_s: list[float] = []

    def one(
        spec: SchemeSpec, label: str, length: int | None = None, policy: bool = False, help: Help | None = None
    ) -> Speed:
        chosen = auto(recorded.vocab_size, spec) if policy else None
        try:
            result = run(
                recorded, setting, spec, length=length, policy=chosen, label=label, until_s=task.seconds,
                heartbeat_s=PATIENCE_S, propose=maker(help.proposers if help else ()),
                drafts=help is not None and help.drafts,
            )  # fmt: skip
        except RefusedError as error:
            raise BadParameterError(
                f"{task.name} has an outage that ends the connection of {label} ({error}); cut the trace there"
            ) from error
        began_s.append(result.began_s)
        return speed(result, task.seconds)

    speeds = [one(SchemeSpec(schemes.SERVER), schemes.SERVER)]
    for name in schemes.named(rounds=True):
        tried = [one(SchemeSpec(name), name, length) for length in LENGTHS]
        speeds.append(max(tried, key=lambda each: each.tokens_per_s))
    stream = schemes.STREAM
    speeds += [one(SchemeSpec(stream, race=race), f"{stream}/{race}") for race in ("off", "always")]
    speeds += [one(SchemeSpec(help.scheme), label, help=help) for label, help in HELPED.items()]
    speeds.append(one(SchemeSpec(stream), "auto", policy=True, help=HELPED[ALL]))
    if max(began_s) - min(began_s) > ALIKE_S:  # all connect alike, but for some bytes of a welcome
        raise ValueError(f"{task.name}: the texts of some schemes began later than those of others")
    rates_bps = list(_during(task.run.uplink_bps, began_s[0], task.seconds))
    rtts = list(_during(task.run.rtt_s, began_s[0], task.seconds)) if task.run.rtt_s else [(1.0, task.rtt_s)]
    return Traced(
        name=task.name,
        began_s=began_s[0],
        seconds=task.seconds,
        mean_mbps=sum(share * rate for share, rate in rates_bps) / 1e6,
        outage=sum(share for share, rate in rates_bps if rate < OUTAGE_BPS),
        rtt_ms=1e3 * _median(rtts),
        speeds=speeds,
    )


def joined(recorded: Recording, length: int) -> Recording:
    """The recorded texts joined end to end, again and again, as one text.

    Each has other tokens for the same words, or an edge that copies would find all of a text in its repetition.
    """
    texts = recorded.texts * math.ceil(length / recorded.length)
    columns = ("matches", "accept", "accept_topk", "accept_lattice", "draft_prob", "entropy", "support")
    columns_of = {name: [value for text in texts for value in getattr(text, name)][:length] for name in columns}
    vocab = recorded.vocab_size
    tokens = [(token + at * _OTHER) % vocab for at, text in enumerate(texts) for token in text.tokens][:length]
    return structs.replace(recorded, texts=[structs.replace(texts[0], tokens=tokens, **columns_of)])


def _during(series: Series, began_s: float, seconds: float) -> Iterator[tuple[float, float]]:
    """The values of a series, which repeats, in the `seconds` after `began_s`, each with its share of that time."""
    period_s = series.ends_s[-1]
    at_s = began_s % period_s
    over_s = at_s + seconds
    for turn in count():
        for end_s, value in zip(series.ends_s, series.values, strict=True):
            until_s = min(turn * period_s + end_s, over_s)
            if until_s > at_s:
                yield (until_s - at_s) / seconds, value
                at_s = until_s
        if at_s >= over_s:
            return


def _median(values: Sequence[tuple[float, float]]) -> float:
    """The value that half of the time lies below, of values with their shares; between two, their mean."""
    ordered = sorted((value, share) for share, value in values)
    ends = list(accumulate(share for _, share in ordered))
    lower = next(at for at, end in enumerate(ends) if end >= ends[-1] / 2 - 1e-9)
    upper = next((at for at, end in enumerate(ends) if end > ends[-1] / 2 + 1e-9), lower)
    return (ordered[lower][0] + ordered[upper][0]) / 2


def speed(result: Result, seconds: float) -> Speed:
    """The speed of a scheme over the first `seconds`; its text went on beyond them."""
    ends_s = accumulate(result.waits_s)  # a text begins as the one before it ends
    waits_ms = [1e3 * wait_s for wait_s, end_s in zip(result.waits_s, ends_s, strict=True) if end_s <= seconds]
    p50, p95, p99 = np.percentile(waits_ms or [1e3 * seconds], (50, 95, 99)).tolist()
    count = len(waits_ms)
    drafts = result.counts.draft_rows / max(1, result.counts.committed)
    return Speed(result.scheme, result.length, count, count / seconds, p50, p95, p99, drafts, result.identical)


def trace_all(
    recorded: Recording, todo: Sequence[Task], jobs: int, on_run: Callable[[int, int], None] = lambda done, of: None
) -> list[Traced]:
    """Run every task, in `jobs` processes. `on_run` gets the number done, and of how many."""
    found = []
    with processes(jobs) as pool:
        for done, traced in enumerate(pool.map(trace, [recorded] * len(todo), todo), 1):
            found.append(traced)
            on_run(done, len(todo))
    return found


def worst(found: Sequence[Traced]) -> Traced | None:
    """The run on which `auto` falls furthest short of the best. None: no scheme wrote a token on any."""
    return min((each for each in found if each.ratio is not None), key=lambda each: each.ratio or 0.0, default=None)


def silent(found: Sequence[Traced]) -> list[str]:
    """Runs on which no scheme wrote a token in time, so that nothing can be said of them."""
    return [each.name for each in found if each.ratio is None]


def record_of(found: Sequence[Traced], compute: Compute) -> dict[str, Any]:
    """The record that `--json` writes. The bar is held if there is a run with tokens, and it is on each."""
    least = worst(found)
    ratio = None if least is None else least.ratio
    return {
        "simulated": True,
        "agreement": f"pair T={TEMPERATURE:g}",
        "draft_ms": 1e3 * compute.draft_s,
        "verify_ms": 1e3 * compute.verify_s,
        "bar": BAR,
        "worst_ratio": ratio,
        "held": ratio is not None and ratio >= BAR,
        "silent": silent(found),
        "runs": [{**msgspec.to_builtins(each), "best": each.best.scheme, "ratio": each.ratio} for each in found],
    }
