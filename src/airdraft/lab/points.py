"""What a smaller draft is worth on a device: its bytes and its acceptance as tokens/s over a link.

A draft's forward of one token reads all its weights once, and on a phone takes about as long as that. A profile states
the time of a draft in half precision; a smaller one takes its share of that by bytes. Tokens/s are those of the
fastest way to write, as `airdraft plan` predicts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airdraft.control import auto
from airdraft.control.facts import wire
from airdraft.core.policy import Facts
from airdraft.core.schemes import COUPLED, SERVER, STREAM
from airdraft.models.profile import Profile

TIE = 0.01
"""Of points whose speeds differ by less than this share, the one of fewer bytes is worth more."""


@dataclass(frozen=True)
class SmallDraft:
    """A draft, and what it would give."""

    name: str
    mb: float
    acceptance: float
    draft_ms: float
    tokens_per_s: float


def point(
    name: str, mb: float, half_mb: float, acceptance: float, profile: Profile, link: Facts, vocab: int
) -> SmallDraft:
    """A draft of `mb` on a device that takes `profile`'s time for one of `half_mb`.

    link: the facts of a link; those of models in it are replaced.
    """
    draft_s = profile.draft_s * mb / half_mb
    facts = Facts(draft_s, profile.target_s, link.rtt_s, link.uplink_bps, link.downlink_bps, acceptance)
    wires = [wire(scheme, vocab) for scheme in (SERVER, COUPLED, STREAM)]
    fastest = max(each.tokens_per_s for each in auto.predictions(facts, wires))
    return SmallDraft(name, mb, acceptance, 1e3 * draft_s, fastest)


def frontier(points: Sequence[SmallDraft]) -> list[SmallDraft]:
    """The Pareto set, from the smallest on: those than which none of as few bytes is as fast."""
    found: list[SmallDraft] = []
    for each in sorted(points, key=lambda each: (each.mb, -each.tokens_per_s)):
        if not found or each.tokens_per_s > found[-1].tokens_per_s:
            found.append(each)
    return found


def worth_most(points: Sequence[SmallDraft]) -> SmallDraft:
    """The smallest of one point or more that is as fast as any, but for `TIE`."""
    best = frontier(points)
    return next(each for each in best if each.tokens_per_s >= (1 - TIE) * best[-1].tokens_per_s)
