"""QS, Quantize-Sample-and-Verify (arXiv 2507.00605): 1 to 12 drafts on two lattices, over an uplink of 2 or 6 Mbit/s.

By the paper's bill a draft costs ⌈log2 C(ℓ + V - 1, V - 1)⌉ bits and 16 for its token; there is no round trip, and
nothing on the downlink. The rate is drawn anew for every round, with equal chances. The paper learns a policy that sees
the rate; in this model the best one is found exactly.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import msgspec
from msgspec import structs

from airdraft.core import schemes
from airdraft.core.counting import width
from airdraft.core.law import Law
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.lab.reproduce.billing import COMPUTE, Bill, Walk, walk
from airdraft.lab.reproduce.pairs import FILTERED, RESOLUTIONS, SAMPLED, RecordedPair, Sparse
from airdraft.lab.virtual.cell import Setting, run
from airdraft.link.markov2 import Markov2Link

LENGTHS = tuple(range(1, 13))
LINKS = {0.0: Markov2Link(rtt_s=0.0), 20.0: Markov2Link(rtt_s=0.02)}
"""The honest links, by round trip in ms: the rate is drawn every 100 ms, whether a round ends or not."""
LOW_BPS, HIGH_BPS = LINKS[0.0].low_bps, LINKS[0.0].high_bps
TOKEN_BITS = 16
OPT_VOCAB = 50_272
"""V of the paper's models."""


class QsRow(msgspec.Struct, frozen=True):
    """One draft length and lattice."""

    sampling: str
    gamma: int
    resolution: int
    acceptance: float
    billed_bits: int
    """Bits of a draft by the paper's bill."""
    low: float
    """Tokens/s by the paper's bill, if the uplink always has its low rate; likewise `high`."""
    high: float
    mixed: float
    """Tokens/s if each round meets either rate."""
    honest_k: int = 0
    """Tokens whose weights are sent in the runs of the real machines; 0: not run."""
    honest: list[float] = []
    """Tokens/s of the real machines, for each round trip of `LINKS`."""


class QsPolicy(msgspec.Struct, frozen=True):
    """The best that a policy can do by the paper's bill that knows the rate, and one that does not."""

    sampling: str
    low: tuple[int, int]
    """(γ, ℓ) at the low rate."""
    high: tuple[int, int]
    tokens_per_s: float
    fixed: tuple[int, int]
    """The best (γ, ℓ) for all rounds."""
    fixed_tokens_per_s: float


class QsReport(msgspec.Struct, frozen=True):
    """The experiment on one pair."""

    pair: str
    vocab_size: int
    rows: list[QsRow]
    policies: list[QsPolicy]
    server: list[float]
    """Tokens/s of server streaming, for each round trip of `LINKS`."""
    stream: list[float]
    """Tokens/s of a raced stream there."""

    def best_honest(self, at: int) -> QsRow:
        """The fastest row over the link number `at`."""
        return max((row for row in self.rows if row.honest), key=lambda row: row.honest[at])


@functools.cache
def billed_bits(resolution: int, vocab_size: int) -> int:
    """Bits of a draft by the paper's bill."""
    return width(math.comb(resolution + vocab_size - 1, resolution)) + TOKEN_BITS


def steps(pair: RecordedPair) -> int:
    """The number of times that `reproduce` calls `on_step`."""
    return len(LINKS) * (2 + len(RESOLUTIONS) * len(LENGTHS))


def reproduce(pair: RecordedPair, on_step: Callable[[], None] = lambda: None) -> QsReport:
    """Run the experiment."""

    def speeds(cut: Sparse, spec: SchemeSpec, length: int | None = None) -> list[float]:
        found = []
        for link in LINKS.values():
            found.append(run(pair.recording(cut), Setting(link, COMPUTE), spec, length=length).tokens_per_s)
            on_step()
        return found

    rows, policies = [], []
    for sampling in (SAMPLED, FILTERED):
        walks = {
            (length, resolution): walk(pair.chances[sampling, Sparse(pair.vocab_size, resolution)], length)
            for resolution in RESOLUTIONS for length in LENGTHS
        }  # fmt: skip
        rows += [_row(pair, sampling, walked, *at) for at, walked in walks.items()]
        policies.append(_policy(pair, sampling, walks))
    sent = {resolution: _sendable(pair, resolution) for resolution in RESOLUTIONS}

    def run_too(row: QsRow) -> QsRow:
        cut = sent[row.resolution]
        return structs.replace(row, honest_k=cut.k, honest=speeds(cut, _spec(cut), row.gamma))

    rows = [run_too(row) if row.sampling == SAMPLED else row for row in rows]
    server, stream = (speeds(pair.whole, SchemeSpec(name)) for name in (schemes.SERVER, schemes.STREAM))
    return QsReport(pair.name, pair.vocab_size, rows, policies, server, stream)


def _bill(pair: RecordedPair, resolution: int, uplink_bps: float) -> Bill:
    return Bill(billed_bits(resolution, pair.vocab_size), uplink_bps)


def _row(pair: RecordedPair, sampling: str, walked: Walk, length: int, resolution: int) -> QsRow:
    low, high = (_bill(pair, resolution, rate_bps) for rate_bps in (LOW_BPS, HIGH_BPS))
    mixed_s = (low.seconds(walked) + high.seconds(walked)) / 2
    acceptance = pair.acceptance(Sparse(pair.vocab_size, resolution), sampling)
    speeds = low.tokens_per_s(walked), high.tokens_per_s(walked), walked.tokens / mixed_s
    return QsRow(sampling, length, resolution, acceptance, billed_bits(resolution, pair.vocab_size), *speeds)


def _policy(pair: RecordedPair, sampling: str, walks: dict[tuple[int, int], Walk]) -> QsPolicy:
    """Try every pair of actions. A round's tokens are taken as those of its length throughout."""

    def round_s(at: tuple[int, int], rate_bps: float) -> float:
        return _bill(pair, at[1], rate_bps).seconds(walks[at]) / walks[at].rounds

    low_s, high_s = ({at: round_s(at, rate_bps) for at in walks} for rate_bps in (LOW_BPS, HIGH_BPS))
    tokens = {at: walked.tokens_a_round for at, walked in walks.items()}

    def speed(actions: tuple[tuple[int, int], tuple[int, int]]) -> float:
        low, high = actions
        return (tokens[low] + tokens[high]) / (low_s[low] + high_s[high])

    best = max(itertools.product(walks, walks), key=speed)
    fixed = max(walks, key=lambda at: speed((at, at)))
    return QsPolicy(sampling, *best, speed(best), fixed, speed((fixed, fixed)))


def _spec(cut: Sparse) -> SchemeSpec:
    return SchemeSpec(schemes.LATTICE, k=cut.k, resolution=cut.resolution)


def _sendable(pair: RecordedPair, resolution: int) -> Sparse:
    """The whole lattice, if a draft of it is short enough to be decoded; else the sparse one of 64 tokens (SQS)."""
    whole = Sparse(pair.vocab_size, resolution)
    try:
        schemes.make(_spec(whole), Law(SamplingParams(), 0, pair.vocab_size), schemes.DEVICE)
    except BadParameterError:
        return Sparse(min(64, pair.vocab_size), resolution)
    return whole
