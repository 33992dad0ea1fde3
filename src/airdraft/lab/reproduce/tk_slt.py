"""TK-SLT (arXiv 2509.04576): K probabilities a draft, a closed form of the draft length, a switch.

Billed as the paper bills, a draft costs 16 K bits: no indices, no headers, no round trip, nothing on the downlink. The
honest bill is the same drafts through the real machines.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from airdraft.control.auto import Auto
from airdraft.control.facts import wire
from airdraft.control.lengths import tk_slt, tk_slt_length, tk_slt_speedup
from airdraft.control.predict import best_rounds
from airdraft.core import schemes
from airdraft.core.bits import id_width
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts, Policy
from airdraft.lab.record import Recording
from airdraft.lab.reproduce.billing import COMPUTE, HALF, Bill, walk
from airdraft.lab.reproduce.pairs import GREEDY, SAMPLED, RecordedPair, Sparse, ks
from airdraft.lab.virtual.cell import Setting, run
from airdraft.link.base import LinkModel
from airdraft.link.const import ConstLink
from airdraft.link.markov2 import Markov2Link

VOCAB, COST, WHOLE_ROW = 32_000, 0.07, 0.23
"""The paper's V, c, and b of a whole row: its Table II is L(K) = c + 0.23 K / V."""
UPLINK_BPS = HALF * VOCAB / (WHOLE_ROW * COMPUTE.verify_s)
"""The uplink of that table at our time for a forward: 74 Mbit/s."""
PRINTED_COSTS = {3: 0.0700, 320: 0.0723, 3200: 0.093, 32_000: 0.300}
"""Table II as printed: L by K."""
PRINTED_K = 320
"""The best K as printed, at temperature 0 and at 1."""

DOWNLINK_BPS, RTT_S = 100e6, 0.02
RTTS_S = (0.0, 0.02, 0.05)
LENGTHS = tuple(range(1, 17))
UPLINKS_MBPS = (0.02, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 20.0)
VARYING = Markov2Link(rtt_s=RTT_S)
"""The link of the online rules: 2 or 6 Mbit/s, drawn every 100 ms."""


class CostRow(msgspec.Struct, frozen=True):
    """One column of Table II."""

    k: int
    printed: float
    """L as printed."""
    billed: float
    """L by the paper's bill."""
    with_indices: float
    """L if the tokens' indices are sent too."""


class KRow(msgspec.Struct, frozen=True):
    """One K, at the link of Table II."""

    sampling: str
    k: int
    acceptance: float
    billed_bits: int
    """Bits of a draft by the paper's bill."""
    honest_bits: int
    """Bits of a draft in the body that is sent: K indices and the drafted token's id too."""
    gamma: int
    """γ* by the closed form."""
    billed_speedup: float
    """S(γ*)."""
    best_gamma: int
    """The predicted best length with everything billed."""
    honest_speedup: float
    """Against server streaming, with everything billed, at the better of the two lengths."""


class LengthRow(msgspec.Struct, frozen=True):
    """Tokens/s at one draft length."""

    gamma: int
    model: float
    """The paper's model: independent drafts, each accepted with the mean chance."""
    billed: float
    """The paper's bill along the recorded texts."""
    honest: list[float]
    """The real machines, for each round trip of `RTTS_S`."""


class SwitchRow(msgspec.Struct, frozen=True):
    """What the switch says at one link, and what is so."""

    uplink_mbps: float
    rtt_ms: float
    gamma: int
    billed_speedup: float
    honest_tokens_per_s: float
    server_tokens_per_s: float

    @property
    def speculates(self) -> bool:
        """What the switch says."""
        return self.billed_speedup > 1

    @property
    def right(self) -> bool:
        """Whether drafting is in fact faster than server streaming if the switch says so, and only then."""
        return self.speculates == (self.honest_tokens_per_s > self.server_tokens_per_s)


class OnlineRow(msgspec.Struct, frozen=True):
    """One rule over the varying link."""

    rule: str
    tokens_per_s: float


class TkSltReport(msgspec.Struct, frozen=True):
    """The experiment on one pair."""

    pair: str
    vocab_size: int
    percent: int
    """K of the tables by length, of the switch and of the online rules: 1 % of V."""
    by_k: list[KRow]
    by_length: list[LengthRow]
    closed_gamma: int
    """γ* of the closed form for `by_length`."""
    switch: list[SwitchRow]
    online: list[OnlineRow]

    def best_k(self, sampling: str) -> KRow:
        """The K with the highest speed-up by the paper's bill; of equals the smallest."""
        return max((row for row in self.by_k if row.sampling == sampling), key=lambda row: row.billed_speedup)

    def best_honest_k(self, sampling: str) -> KRow:
        """The K that is best with everything billed."""
        return max((row for row in self.by_k if row.sampling == sampling), key=lambda row: row.honest_speedup)


def costs() -> list[CostRow]:
    """Compute Table II."""
    width = id_width(VOCAB)
    return [
        CostRow(k, printed, Bill(HALF * k, UPLINK_BPS).cost, Bill(HALF * k + width * (k + 1), UPLINK_BPS).cost)
        for k, printed in PRINTED_COSTS.items()
    ]


def steps(pair: RecordedPair) -> int:
    """The number of times that `reproduce` calls `on_step`."""
    lengths = len(LENGTHS) * len(RTTS_S)
    return 1 + 2 * 2 * len(ks(pair.vocab_size)) + lengths + len(RTTS_S) * (1 + len(UPLINKS_MBPS)) + len(ONLINE) + 1


def reproduce(pair: RecordedPair, on_step: Callable[[], None] = lambda: None) -> TkSltReport:
    """Run the experiment."""

    def speed(
        recording: Recording, link: LinkModel, spec: SchemeSpec, length: int | None = None,
        policy: Callable[[], Policy] | None = None,
    ) -> float:  # fmt: skip
        found = run(recording, Setting(link, COMPUTE), spec, length=length, policy=policy)
        on_step()
        return found.tokens_per_s

    cut = pair.percent
    recording, alpha = pair.recording(cut), pair.acceptance(cut)
    bill = Bill(HALF * cut.k, UPLINK_BPS)
    spec = SchemeSpec(schemes.TOPK, k=cut.k)
    by_length = [
        LengthRow(
            length,
            tk_slt_speedup(alpha, bill.cost, length) / COMPUTE.verify_s,
            bill.tokens_per_s(walk(pair.chances[SAMPLED, cut], length)),
            [speed(recording, _link(UPLINK_BPS, rtt_s), spec, length) for rtt_s in RTTS_S],
        )
        for length in LENGTHS
    ]
    server = SchemeSpec(schemes.SERVER)
    switch = []
    for rtt_s in RTTS_S:
        plain = speed(recording, _link(5e6, rtt_s), server)
        for uplink_mbps in UPLINKS_MBPS:
            cost = Bill(HALF * cut.k, uplink_mbps * 1e6).cost
            gamma = tk_slt_length(alpha, cost)
            drafted = speed(recording, _link(uplink_mbps * 1e6, rtt_s), spec, gamma)
            billed = tk_slt_speedup(alpha, cost, gamma)
            switch.append(SwitchRow(uplink_mbps, 1e3 * rtt_s, gamma, billed, drafted, plain))
    online = [OnlineRow(schemes.SERVER, speed(recording, VARYING, server))]
    for rule, chosen in ONLINE.items():
        online.append(OnlineRow(rule, speed(recording, VARYING, spec, policy=chosen(pair, spec))))
    return TkSltReport(
        pair.name, pair.vocab_size, cut.k, _by_k(pair, speed), by_length, tk_slt_length(alpha, bill.cost), switch,
        online,
    )  # fmt: skip


def _by_k(pair: RecordedPair, speed: Callable[..., float]) -> list[KRow]:
    rows, link = [], _link(UPLINK_BPS, RTT_S)
    plain = speed(pair.recording(pair.whole), link, SchemeSpec(schemes.SERVER))
    for sampling in (GREEDY, SAMPLED):
        for k in ks(pair.vocab_size):
            alpha, spec = pair.acceptance(Sparse(k), sampling), SchemeSpec(schemes.TOPK, k=k)
            cost, sent = Bill(HALF * k, UPLINK_BPS).cost, wire(schemes.TOPK, pair.vocab_size, k, HALF)
            facts = Facts(COMPUTE.draft_s, COMPUTE.verify_s, RTT_S, UPLINK_BPS, DOWNLINK_BPS, min(1.0, alpha))
            gamma, best = tk_slt_length(facts.acceptance, cost), best_rounds(facts, sent).mode.length
            recording = pair.recording(Sparse(k), sampling)
            reached = max(speed(recording, link, spec, length) for length in (gamma, best))
            rows.append(
                KRow(sampling, k, alpha, HALF * k, sent.draft_bits, gamma,
                     tk_slt_speedup(alpha, cost, gamma), best, reached / plain)
            )  # fmt: skip
    return rows


def _link(uplink_bps: float, rtt_s: float) -> ConstLink:
    return ConstLink(uplink_bps, DOWNLINK_BPS, rtt_s)


def _online(pair: RecordedPair, spec: SchemeSpec) -> Callable[[], Policy]:
    """The closed form at every round, from what has been measured so far."""
    return lambda: Auto(pair.vocab_size, (schemes.TOPK,), k=spec.k, rounds=tk_slt)


def _switching(pair: RecordedPair, spec: SchemeSpec) -> Callable[[], Policy]:
    """The same, and the target alone where the closed form says that drafting gains nothing."""
    names = (schemes.SERVER, schemes.TOPK)
    return lambda: Auto(pair.vocab_size, names, k=spec.k, rounds=tk_slt, margin=0, dwell_s=0)


def _measuring(pair: RecordedPair, spec: SchemeSpec) -> None:
    """The best length with everything billed, from what has been measured so far."""


ONLINE: dict[str, Callable[[RecordedPair, SchemeSpec], Callable[[], Policy] | None]] = {
    "TK-SLT's length, online": _online,
    "TK-SLT's switch and length": _switching,
    "airdraft's length, everything billed": _measuring,
}
"""Rules that choose the draft length while a text is written."""


def best_length(rows: list[LengthRow], of: Callable[[LengthRow], float]) -> int:
    """The draft length with the highest speed; of equals the shortest."""
    return max(rows, key=of).gamma
