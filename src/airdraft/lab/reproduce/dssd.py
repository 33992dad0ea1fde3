"""DSSD (arXiv 2507.12000): the edge accepts, the device recovers; against dense drafts and server streaming.

The grid is the paper's: round trip 0, 20 and 50 ms, 10, 50 and 100 Mbit/s both ways, 4, 6 and 8 drafts. By the paper's
bill a draft costs its id on the uplink and a rejection one row of 16-bit probabilities on the downlink. The probability
of each draft, without which the edge cannot judge it, is not billed, nor are headers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec

from airdraft.control.predict import mean_tokens
from airdraft.core import schemes
from airdraft.core.bits import id_width
from airdraft.core.messages import SchemeSpec
from airdraft.lab.reproduce.billing import COMPUTE, HALF, Bill, walk
from airdraft.lab.reproduce.pairs import SAMPLED, RecordedPair
from airdraft.lab.virtual.cell import Setting, run
from airdraft.link.const import ConstLink

RTTS_MS, MBPS, LENGTHS = (0.0, 20.0, 50.0), (10.0, 50.0, 100.0), (4, 6, 8)
PRINTED = {0.0: (2.0, 2.3), 20.0: (2.0, 2.3), 50.0: (1.02, 1.39)}
"""Least and most speed-up of OPT-125m before OPT-6.7b at 4 drafts, by round trip: the CSV files of the public code."""
LARGER, ITSELF = (1.7, 1.9), (0.15, 0.27)
"""The same before OPT-13b, and before itself on a CPU. These files' links are not known to us."""
PRINTED_LENGTH, PRINTED_ACCEPTANCE = 4, (0.29, 0.395)
"""Draft length of these figures, and the acceptance that stands beside them."""
PRINTED_BASELINE = (3.1, 7.6)
"""Tokens/s of the baseline in these files: up to a round trip of 20 ms, and at 50 ms."""

DENSE = SchemeSpec(schemes.DENSE)
SPLITS = tuple(SchemeSpec(schemes.SPLIT, downlink=downlink) for downlink in schemes.DOWNLINKS)


class DssdRow(msgspec.Struct, frozen=True):
    """One scheme at one link and draft length."""

    rtt_ms: float
    mbps: float
    gamma: int
    scheme: str
    """With its downlink, where it has several."""
    billed_speedup: float
    """Against the target alone, which pays for no link, by the paper's bill."""
    tokens_per_s: float
    """Of the real machines, with everything billed."""
    server_tokens_per_s: float
    """Of server streaming there."""
    uplink_bits_per_token: float
    downlink_bits_per_token: float

    @property
    def speedup(self) -> float:
        """Against server streaming."""
        return self.tokens_per_s / self.server_tokens_per_s


class DssdReport(msgspec.Struct, frozen=True):
    """The experiment on one pair."""

    pair: str
    vocab_size: int
    acceptance: float
    rows: list[DssdRow]

    @property
    def mbps(self) -> list[float]:
        """The rates that were run."""
        return list(dict.fromkeys(row.mbps for row in self.rows))

    def least_and_most(self, scheme: str, rtt_ms: float, gamma: int, billed: bool) -> tuple[float, float]:
        """The speed-ups of a scheme over the rates of the grid, the least and the most."""
        found = [
            row.billed_speedup if billed else row.speedup
            for row in self.rows if (row.scheme, row.rtt_ms, row.gamma) == (scheme, rtt_ms, gamma)
        ]  # fmt: skip
        return min(found), max(found)


def label(spec: SchemeSpec) -> str:
    """A scheme's name with its downlink, where it has several."""
    return f"{spec.name}/{spec.downlink}" if "downlink" in schemes.traits(spec.name).options else spec.name


def steps(pair: RecordedPair) -> int:
    """The number of times that `reproduce` calls `on_step`."""
    return len(RTTS_MS) * len(MBPS) * (1 + len(LENGTHS) * (1 + len(SPLITS)))


def reproduce(pair: RecordedPair, on_step: Callable[[], None] = lambda: None) -> DssdReport:
    """Run the experiment."""
    recording, rows = pair.recording(pair.whole), []
    walks = {length: walk(pair.chances[SAMPLED, pair.whole], length) for length in LENGTHS}
    for rtt_ms, mbps in itertools.product(RTTS_MS, MBPS):
        setting = Setting(ConstLink(mbps * 1e6, mbps * 1e6, rtt_ms / 1e3), COMPUTE)
        plain = run(recording, setting, SchemeSpec(schemes.SERVER)).tokens_per_s
        on_step()
        for length, spec in itertools.product(LENGTHS, (DENSE, *SPLITS)):
            found = run(recording, setting, spec, length=length)
            on_step()
            billed = _bill(pair, spec, rtt_ms, mbps).tokens_per_s(walks[length]) * COMPUTE.verify_s
            tokens = found.counts.committed
            rows.append(
                DssdRow(rtt_ms, mbps, length, label(spec), billed, found.tokens_per_s, plain,
                        8 * found.uplink_bytes / tokens, 8 * found.downlink_bytes / tokens)
            )  # fmt: skip
    return DssdReport(pair.name, pair.vocab_size, pair.acceptance(pair.whole), rows)


def _bill(pair: RecordedPair, spec: SchemeSpec, rtt_ms: float, mbps: float) -> Bill:
    """The paper's bill of a scheme; it has one downlink for `split`, the row."""
    row, rate_bps = HALF * pair.vocab_size, mbps * 1e6
    if spec == DENSE:
        return Bill(row + id_width(pair.vocab_size), rate_bps, rtt_s=rtt_ms / 1e3)
    return Bill(id_width(pair.vocab_size), rate_bps, rtt_s=rtt_ms / 1e3, reject_bits=row, downlink_bps=rate_bps)


def printed_bounds() -> tuple[float, float]:
    """The most tokens that a round of the printed figures can write, by two readings of the printed acceptance: the
    chance of one draft, and the share of all drafts that are accepted, those behind a rejected one included."""
    most = PRINTED_ACCEPTANCE[1]
    return mean_tokens(most, PRINTED_LENGTH), 1 + most * PRINTED_LENGTH
