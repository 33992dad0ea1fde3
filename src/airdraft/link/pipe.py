"""What a link does to bytes: one after another at its rate, then half a round trip through the air.

Pure arithmetic. Time is an argument, in seconds of whatever clock the caller keeps, so the real-time relay
and a virtual-time simulation share this rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from airdraft.errors import AirdraftError


class Pipe:
    """One direction of a link. Everything that goes through it shares its rate, first come, first served."""

    def __init__(self, rate_bps: float, delay_s: float) -> None:
        self.rate_bps = rate_bps
        self.delay_s = delay_s
        self.sent_bytes = 0
        """Bytes put on the link so far."""
        self.free_at_s = -math.inf
        """When the last of them has left the sender."""

    def send(self, now: float, nbytes: int) -> float:
        """Put `nbytes` on the link at time `now`; return when the last of them arrives.

        Times of successive calls must not fall. 0 bytes cost nothing and arrive behind all that went before.
        """
        self.free_at_s = max(now, self.free_at_s) + 8 * nbytes / self.rate_bps
        self.sent_bytes += nbytes
        return self.free_at_s + self.delay_s


@dataclass(frozen=True)
class LinkSpec:
    """A link of constant rates. `math.inf` as a rate means no limit."""

    uplink_bps: float
    """Device to edge, bits of payload a second."""
    downlink_bps: float
    """Edge to device."""
    rtt_s: float
    """Round trip of an empty message; half of it is spent in each direction."""

    def __post_init__(self) -> None:
        for field in ("uplink_bps", "downlink_bps"):
            rate_bps = getattr(self, field)
            if not rate_bps > 0:  # NaN lands here too
                raise AirdraftError(
                    f"{field} is {rate_bps}: give a rate above 0 in bits per second, or inf for no limit"
                )
        if not 0 <= self.rtt_s < math.inf:
            raise AirdraftError(f"rtt_s is {self.rtt_s}: give a finite round trip of 0 seconds or more")

    def uplink(self) -> Pipe:
        """An idle pipe from device to edge."""
        return Pipe(self.uplink_bps, self.rtt_s / 2)

    def downlink(self) -> Pipe:
        """An idle pipe from edge to device."""
        return Pipe(self.downlink_bps, self.rtt_s / 2)
