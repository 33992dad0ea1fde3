"""`const`: a link of constant rates and a constant round trip."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.link.base import HEADER_BYTES, check_fixed, check_rate
from airdraft.link.pipe import RatePipe, constant


@dataclass(frozen=True)
class ConstLink:
    """A link of constant rates. `math.inf` as a rate means no limit. Raises: `BadParameterError`."""

    uplink_bps: float
    """Device to edge, bits a second, headers included."""
    downlink_bps: float
    """Edge to device, likewise."""
    rtt_s: float
    """Round trip of an empty message; half of it is spent in each direction."""
    header_bytes: int = HEADER_BYTES
    """Headers of every packet."""

    def __post_init__(self) -> None:
        check_rate("uplink_bps", self.uplink_bps)
        check_rate("downlink_bps", self.downlink_bps)
        check_fixed(self.rtt_s, self.header_bytes)

    def uplink(self) -> RatePipe:
        """An idle pipe from device to edge."""
        return RatePipe(constant(self.uplink_bps), constant(self.rtt_s / 2), self.header_bytes)

    def downlink(self) -> RatePipe:
        """An idle pipe from edge to device."""
        return RatePipe(constant(self.downlink_bps), constant(self.rtt_s / 2), self.header_bytes)
