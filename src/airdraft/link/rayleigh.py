"""`rayleigh`: an uplink under Rayleigh block fading, at the capacity of each block.

rate = B · log2(1 + SNR · |h|²), where |h|² is exponential with mean 1 and drawn again for every coherence time. This is
Shannon's capacity of a block-fading channel whose state both ends know (Tse and Viswanath, Fundamentals of Wireless
Communication, 2005, §5.4). A real modem stays below it; `nr` shows by how much. The downlink's rate is constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airdraft.link.base import HEADER_BYTES, check_fixed, check_range, check_rate, check_seed
from airdraft.link.pipe import RatePipe, blocks, constant


@dataclass(frozen=True)
class RayleighLink:
    """An uplink with another gain for every coherence time. Raises: `BadParameterError`."""

    snr_db: float = 15.0
    """Mean signal-to-noise ratio."""
    bandwidth_hz: float = 5e6
    coherence_s: float = 0.01
    """Length of time with one gain: about 9/(16π · Doppler shift); 10 ms is a brisk walk at 3.5 GHz."""
    downlink_bps: float = 100e6
    rtt_s: float = 0.02
    seed: int = 0
    header_bytes: int = HEADER_BYTES

    def __post_init__(self) -> None:
        check_range("snr_db", self.snr_db, -30.0, 60.0, "a mean SNR from -30 to 60 dB")
        check_range("bandwidth_hz", self.bandwidth_hz, 1e3, 1e10, "a bandwidth from 1000 to 1e10 Hz")
        check_range("coherence_s", self.coherence_s, 1e-4, 1e6, "a coherence time from 0.0001 s to 1000000 s")
        check_rate("downlink_bps", self.downlink_bps)
        check_fixed(self.rtt_s, self.header_bytes)
        check_seed(self.seed)

    def uplink(self) -> RatePipe:
        """Make an idle pipe from device to edge."""
        rng = np.random.default_rng(self.seed)
        snr = 10 ** (self.snr_db / 10)

        def draw(n: int) -> NDArray[np.float64]:
            return self.bandwidth_hz * np.log2(1 + snr * rng.standard_exponential(n))

        return RatePipe(blocks(draw, self.coherence_s), constant(self.rtt_s / 2), self.header_bytes)

    def downlink(self) -> RatePipe:
        """Make an idle pipe from edge to device."""
        return RatePipe(constant(self.downlink_bps), constant(self.rtt_s / 2), self.header_bytes)
