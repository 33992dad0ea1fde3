"""Bills: what a round of drafts costs by a paper's own account, along recorded texts.

A paper's model of time leaves things out: TK-SLT bills no indices, no round trip and no downlink. A `Bill` holds what
it does charge. The honest bill is no formula: it is a run of the real machines (`lab/virtual/cell.py`), with every byte
of every message, its headers, both directions and the round trip.

`walk` counts the rounds of a text in the mean and not by coins, so a bill has no luck in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from airdraft.sim.virtual import Compute

COMPUTE = Compute(draft_s=0.07 * 0.03, verify_s=0.03)
"""Compute of all three experiments: TK-SLT's c = 0.07, a draft of 68 M parameters before a target of 7 B, at 30 ms a
forward of the target, which is assumed. No paper's own times are known to us."""
HALF = 16
"""Bits of a probability or logit in half precision, as all three papers count."""


class Walk(NamedTuple):
    """Means over texts that are written once."""

    tokens: int
    rounds: float
    drafts: float
    """Drafts sent, those after a rejected one included."""
    rejections: float

    @property
    def tokens_a_round(self) -> float:
        """The bonus or recovered token included."""
        return self.tokens / self.rounds


def walk(texts: Iterable[Sequence[float]], length: int) -> Walk:
    """Count rounds of `length` drafts along texts, given the chance that a draft is accepted at each position.

    The machines never draft a text's last token, so its last rounds are shorter.
    """
    tokens, rounds, drafts, rejections = 0, 0.0, 0.0, 0.0
    for chances in texts:
        begins = [0.0] * (len(chances) + 1)  # the chance that a round begins there
        begins[0] = 1.0
        for at in range(len(chances)):
            here, count = begins[at], min(length, len(chances) - 1 - at)
            rounds, drafts, reached = rounds + here, drafts + here * count, here
            for step in range(count):
                chance = chances[at + step]
                begins[at + step + 1] += reached * (1 - chance)
                reached *= chance
            begins[at + count + 1] += reached
            rejections += here - reached
        tokens += len(chances)
    return Walk(tokens, rounds, drafts, rejections)


@dataclass(frozen=True)
class Bill:
    """What a paper charges. Rates in bit/s, times in s."""

    up_bits: float
    """Bits of a draft on the uplink."""
    uplink_bps: float
    compute: Compute = COMPUTE
    rtt_s: float = 0.0
    reject_bits: float = 0.0
    """Bits that a rejection sends down."""
    downlink_bps: float = math.inf

    @property
    def draft_s(self) -> float:
        """Time to draft and send one token."""
        return self.compute.draft_s + self.up_bits / self.uplink_bps

    @property
    def cost(self) -> float:
        """TK-SLT's L: that time in target forwards."""
        return self.draft_s / self.compute.verify_s

    def seconds(self, walked: Walk) -> float:
        """The time of these rounds."""
        fixed_s = self.rtt_s + self.compute.verify_s
        down_s = walked.rejections * self.reject_bits / self.downlink_bps
        return walked.drafts * self.draft_s + walked.rounds * fixed_s + down_s

    def tokens_per_s(self, walked: Walk) -> float:
        """The speed of these rounds."""
        return walked.tokens / self.seconds(walked)
