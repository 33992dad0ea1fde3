"""`const`: a link with constant rates and a constant round trip."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.link.base import HEADER_BYTES, check_fixed, check_rate
from airdraft.link.pipe import RatePipe, constant


@dataclass(frozen=True)
class ConstLink:
    """A link with constant rates. `math.inf` as a rate means no limit. Raises: `BadParameterError`."""

    uplink_bps: float
    """Rate from device to edge in bits a second, headers included."""
    downlink_bps: float
    """Edge to device, likewise."""
    rtt_s: float
    """Round trip of an empty message in seconds, half of it in each direction."""
    header_bytes: int = HEADER_BYTES
    """Size of every packet's headers."""

    def __post_init__(self) -> None:
        check_rate("uplink_bps", self.uplink_bps)
        check_rate("downlink_bps", self.downlink_bps)
        check_fixed(self.rtt_s, self.header_bytes)

    def uplink(self) -> RatePipe:
        """Make an idle pipe from device to edge."""
        return RatePipe(constant(self.uplink_bps), constant(self.rtt_s / 2), self.header_bytes)

    def downlink(self) -> RatePipe:
        """Make an idle pipe from edge to device."""
        return RatePipe(constant(self.downlink_bps), constant(self.rtt_s / 2), self.header_bytes)
