"""How much of a draft's distribution to send: TSLT (arXiv 2512.16273), C-SQS (2510.09942), and a ladder.

TSLT cuts by mass, and drafts several candidates for a position. C-SQS lets online conformal prediction choose K on the
lattice. The ladder changes K, resolution and bits with the uplink. Each stands beside what stays the same throughout:
K tokens of every distribution, or one candidate. Everything is billed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import structs

from airdraft.control.ladder import usual
from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.lab.reproduce.billing import COMPUTE
from airdraft.lab.reproduce.pairs import SAMPLED, RecordedPair
from airdraft.lab.virtual.cell import Setting, run
from airdraft.link.base import LinkModel
from airdraft.link.const import ConstLink
from airdraft.link.markov2 import Markov2Link

MASSES = (0.9, 0.95, 0.99)
CANDIDATES = (2, 4)
"""Candidates for a position, where there are several."""
LENGTHS = (2, 4, 6)
"""Draft lengths, of which each way has the best."""
_RTT_S = 0.02
LINKS: dict[str, LinkModel] = {
    "0.25 Mbit/s": ConstLink(0.25e6, 100e6, _RTT_S),
    "2 or 6 Mbit/s": Markov2Link(rtt_s=_RTT_S),
    "0.05 or 10 Mbit/s": Markov2Link(low_bps=0.05e6, high_bps=10e6, block_s=4.0, rtt_s=_RTT_S),
}
"""A slow uplink; that of QS; and one that may change every four seconds, which the ladder is for."""

FIXED, BY_MASS, CONFORMAL, SEVERAL, LADDER = "fixed K", "by mass", "conformal", "several candidates", "ladder"
"""Kinds of ways."""


class Reached(msgspec.Struct, frozen=True):
    """One way over one link, at its best draft length."""

    tokens_per_s: float
    gamma: int
    uplink_bits_per_token: float
    """Every header included."""


class PayloadRow(msgspec.Struct, frozen=True):
    """One way to send distributions."""

    way: str
    kind: str
    """`FIXED`, or another of the kinds."""
    tokens: float
    """Tokens of a draft's distribution that are sent, in the mean. 0: they follow the link."""
    bits: float
    """Bits of a draft, likewise."""
    acceptance: float
    """The mean chance that a draft is accepted."""
    other: float
    """The mean chance that a further candidate is accepted if the first is not."""
    speeds: list[Reached]
    """For each link of `LINKS`."""


class PayloadReport(msgspec.Struct, frozen=True):
    """The experiment on one pair."""

    pair: str
    vocab_size: int
    rows: list[PayloadRow]

    def best(self, kind: str, at: int) -> PayloadRow:
        """The fastest way of a kind over the link number `at`."""
        return max((row for row in self.rows if row.kind == kind), key=lambda row: row.speeds[at].tokens_per_s)

    def gain(self, kind: str, at: int) -> float:
        """How many times as fast the best of a kind is as the best fixed K over the link number `at`. Several
        candidates are drafted with the first of the fixed K, and are compared with that."""
        fixed = self.rows[0] if kind == SEVERAL else self.best(FIXED, at)
        return self.best(kind, at).speeds[at].tokens_per_s / fixed.speeds[at].tokens_per_s


@dataclass(frozen=True)
class Payload:
    """A way to send distributions: options, and what they are called."""

    label: str
    kind: str
    spec: SchemeSpec


@dataclass(frozen=True)
class Experiment:
    """Ways that are compared."""

    ways: Callable[[int], list[Payload]]
    """Given the vocabulary's size."""

    def needed(self, vocab_size: int) -> list[SchemeSpec]:
        """The options whose luck it needs. The ladder's rungs stand beside it."""
        return [way.spec for way in self.ways(vocab_size) if way.kind != LADDER]

    def steps(self, pair: RecordedPair) -> int:
        """The number of times that `reproduce` calls `on_step`."""
        return len(self.ways(pair.vocab_size)) * len(LINKS) * len(LENGTHS)

    def reproduce(self, pair: RecordedPair, on_step: Callable[[], None] = lambda: None) -> PayloadReport:
        """Run the experiment."""
        rows = [_row(pair, way, on_step) for way in self.ways(pair.vocab_size)]
        return PayloadReport(pair.name, pair.vocab_size, rows)


def tslt(vocab_size: int) -> list[Payload]:
    """K of every distribution, as many as hold a share of it, and several candidates."""
    base = SchemeSpec(schemes.TOPK)
    most = max(base.k, vocab_size // 10)
    fixed = [Payload(f"K = {k:,}", FIXED, structs.replace(base, k=k)) for k in sorted({base.k, most})]
    cut = [Payload(f"{mass:.0%} of the mass", BY_MASS, structs.replace(base, k=most, mass=mass)) for mass in MASSES]
    several = [
        Payload(f"K = {base.k}, {count} candidates", SEVERAL, structs.replace(base, candidates=count))
        for count in CANDIDATES
    ]
    return [*fixed, *cut, *several]


def sqs(vocab_size: int) -> list[Payload]:
    """Every rung, a conformal choice of K, and the ladder, which climbs these rungs."""
    base = SchemeSpec(schemes.LATTICE)
    fixed = [Payload(f"K = {rung.k}, ℓ = {rung.resolution}", FIXED, rung) for rung in rungs(vocab_size)]
    conformal = [
        Payload(f"{mass:.0%} in the mean, ℓ = {base.resolution}", CONFORMAL,
            structs.replace(base, mass=mass, cut="conformal"))
        for mass in MASSES
    ]  # fmt: skip
    return [*fixed, *conformal, Payload(LADDER, LADDER, structs.replace(base, k=0))]


def rungs(vocab_size: int) -> list[SchemeSpec]:
    """The options that the ladder chooses among."""
    return usual(SchemeSpec(schemes.LATTICE, k=0), vocab_size)


TSLT, SQS = Experiment(tslt), Experiment(sqs)


def _mean(along: Iterable[Sequence[float]]) -> float:
    values = [value for values in along for value in values]
    return float(np.mean(values)) if values else 0.0


def _row(pair: RecordedPair, way: Payload, on_step: Callable[[], None]) -> PayloadRow:
    speeds = []
    for link in LINKS.values():
        tried = []
        for length in LENGTHS:
            found = run(pair.recordings[SAMPLED], Setting(link, COMPUTE), way.spec, length=length, lucks=pair.lucks)
            on_step()
            tried.append(Reached(found.tokens_per_s, length, 8 * found.uplink_bytes / found.counts.committed))
        speeds.append(max(tried, key=lambda speed: speed.tokens_per_s))
    lucky = pair.lucks.get(way.spec, [])
    return PayloadRow(
        way.label, way.kind, _mean(luck.sizes for luck in lucky), _mean(luck.bits for luck in lucky),
        _mean(luck.accept for luck in lucky), _mean(luck.other for luck in lucky), speeds,
    )  # fmt: skip
