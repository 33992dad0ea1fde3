"""Predictions of the speed of every way to write, with constant delays and independent acceptance.

`server` and rounds have closed forms, and `stream` uses the mean cycle of `course.py`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from airdraft.control.course import MAX_DRAFT, cycle, helped
from airdraft.control.facts import Wire
from airdraft.core import schemes
from airdraft.core.policy import Facts, Mode

_FASTER = 0.8
"""Factor on the time of each part in turn, to find the bottleneck."""
_NEAR = 0.005
"""Share of the speed that a smaller window may cost, because it saves draft forwards that gain nothing."""
_LATE = 1.25
_WINDOWS = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_FEW, _SPARE = 16, 2
"""Size below which a window gets spare drafts, and their number. A window that is just enough stalls each time packets
and forwards are in step. In a larger one, spare drafts would only queue on a slow uplink."""


@dataclass(frozen=True)
class Prediction:
    """The long-run speed and cost of a mode."""

    mode: Mode
    tokens_per_s: float
    target_forwards_per_token: float
    uplink_bits_per_token: float
    """All bits sent, including headers and dead drafts."""
    downlink_bits_per_token: float
    device_drafts_per_token: float = 0.0
    """Forwards of the device's draft model, for one token each: what a token costs its battery."""


def server(facts: Facts, wire: Wire) -> Prediction:
    """Predict plain streaming: one forward and one answer after the other, each of a token, or of more if the edge
    drafts itself."""
    _, tokens, seconds = helped(facts.acceptance, facts.verify_s, facts.edge_draft_s)
    slowest_s = max(seconds, wire.answer_bits / facts.downlink_bps)
    return Prediction(Mode(schemes.SERVER), tokens / slowest_s, 1 / tokens, 0.0, wire.answer_bits / tokens)


def mean_tokens(acceptance: float, length: int) -> float:
    """Compute E(γ) = (1 - α^(γ+1)) / (1 - α), the tokens of a round with its bonus (Leviathan et al. 2023, eq. 1)."""
    if acceptance == 1:
        return length + 1.0
    return (1 - acceptance ** (length + 1)) / (1 - acceptance)


def rounds(facts: Facts, wire: Wire, length: int) -> Prediction:
    """Predict stop and wait: draft `length` tokens, send them, wait for the verdict."""
    up_bits = wire.packet_bits(length)
    down_bits = wire.answer_bits + 8 * wire.reject_bytes * (1 - facts.acceptance**length)
    link_s = up_bits / facts.uplink_bps + facts.rtt_s + down_bits / facts.downlink_bps
    tokens = mean_tokens(facts.acceptance, length)
    return Prediction(
        Mode(wire.scheme, length),
        tokens / (length * facts.draft_s + link_s + facts.verify_s),
        1 / tokens,
        up_bits / tokens,
        down_bits / tokens,
        length / tokens,
    )


@functools.lru_cache(maxsize=64)  # called at every token of a round
def best_rounds(facts: Facts, wire: Wire, most: int = MAX_DRAFT) -> Prediction:
    """Predict rounds with the fastest draft length of at most `most`."""
    return max((rounds(facts, wire, length) for length in range(1, most + 1)), key=lambda found: found.tokens_per_s)


def stream(facts: Facts, wire: Wire, race: str, window: int, first: int = 1, then: int = 1) -> Prediction:
    """Predict a stream: the mean of a cycle from one mismatch to the next.

    `race`: `off`, or `always`; `idle` counts as `always`, as if the edge had nothing else to do.
    """
    mode = Mode(wire.scheme, window, race, first, then)
    found = cycle(facts, wire, mode)
    return Prediction(
        mode,
        found.tokens_per_s,
        found.forwards / found.tokens,
        found.uplink_bits / found.tokens,
        found.forwards * wire.answer_bits / found.tokens,
        found.drafts / found.tokens,
    )


def bottleneck(facts: Facts, wire: Wire, mode: Mode) -> str:
    """Find the part to speed up first in this mode: `target`, `draft`, `round trip`, `uplink` or `downlink`."""
    faster = {
        "target": replace(facts, verify_s=facts.verify_s * _FASTER),
        "draft": replace(facts, draft_s=facts.draft_s * _FASTER),
        "round trip": replace(facts, rtt_s=facts.rtt_s * _FASTER),
        "uplink": replace(facts, uplink_bps=facts.uplink_bps / _FASTER),
        "downlink": replace(facts, downlink_bps=facts.downlink_bps / _FASTER),
    }

    def speed(facts: Facts) -> float:
        if not mode.traits.drafts:
            return server(facts, wire).tokens_per_s
        if mode.traits.rounds:
            return rounds(facts, wire, mode.length).tokens_per_s
        return cycle(facts, wire, mode).tokens_per_s

    return max(faster, key=lambda part: speed(faster[part]))


@functools.lru_cache(maxsize=4096)  # a call takes milliseconds, and facts recur, see `Facts.rounded`
def best_stream(facts: Facts, wire: Wire, race: str, max_window: int = MAX_DRAFT) -> Prediction:
    """Predict a stream with the best packets that do not flood the uplink, and a window of at most `max_window`.

    The window is a little more than the smallest one that is as good as any.
    """

    def speed(mode: Mode) -> float:
        return cycle(facts, wire, mode).tokens_per_s

    # A packet must leave before the next is full, or a queue grows and every mismatch waits behind it.
    lasting = (n for n in range(1, max_window) if wire.packet_bits(n) <= n * facts.draft_s * facts.uplink_bps)
    least = next(lasting, max_window)
    # Without racing, a forward must be worth its time. With it the edge is busy anyway, and earlier is better.
    firsts, thens = ({1, 2, 3, 4, 6, 8, least}, (least, 2 * least)) if race == "off" else ({1, 2, least}, (least,))
    shapes = [(first, then) for first in sorted(firsts) for then in thens if max(first, then) <= max_window]
    best = max((Mode(wire.scheme, max_window, race, *shape) for shape in shapes), key=speed)
    # The window must be enough now, with later answers, and in runs of accepted drafts.
    lucky = (1 + 3 * facts.acceptance) / 4
    cases = (facts, replace(facts, rtt_s=_LATE * facts.rtt_s), replace(facts, acceptance=lucky))
    enough = [(1 - _NEAR) * cycle(case, wire, best).tokens_per_s for case in cases]
    for window in (window for window in _WINDOWS if window < max_window):
        smaller = replace(best, length=window)
        if all(cycle(case, wire, smaller).tokens_per_s >= bar for case, bar in zip(cases, enough, strict=True)):
            best = replace(best, length=min(window + _SPARE, max_window) if window < _FEW else window)
            break
    return stream(facts, wire, best.race, best.length, best.first, best.then)
