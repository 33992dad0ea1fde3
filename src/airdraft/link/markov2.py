"""`markov2`: an uplink that switches between two rates, the channel in QS's evaluation.

In each block of `block_s` the rate is `low_bps` or `high_bps`. After each block it changes to the other with
`switch_probability`. QS's figures are 2 and 6 Mbit/s and 1/2, which makes the blocks independent. The downlink's rate
is constant, because the schemes that this channel was made for load only the uplink.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airdraft.link.base import HEADER_BYTES, check_fixed, check_range, check_rate, check_seed
from airdraft.link.pipe import RatePipe, blocks, constant


@dataclass(frozen=True)
class Markov2Link:
    """A link whose uplink switches between two rates. Raises: `BadParameterError`."""

    low_bps: float = 2e6
    high_bps: float = 6e6
    switch_probability: float = 0.5
    """The chance that a block's rate is not the one of the block before."""
    block_s: float = 0.1
    """Length of a block. QS does not give one, because its time runs in rounds."""
    downlink_bps: float = 100e6
    rtt_s: float = 0.0
    seed: int = 0
    header_bytes: int = HEADER_BYTES

    def __post_init__(self) -> None:
        check_range("low_bps", self.low_bps, 1.0, 1e12, "a rate from 1 to 1e12 bits per second")
        check_range("high_bps", self.high_bps, 1.0, 1e12, "a rate from 1 to 1e12 bits per second")
        check_range("switch_probability", self.switch_probability, 0.0, 1.0, "a probability from 0 to 1")
        check_range("block_s", self.block_s, 1e-4, 1e6, "a length from 0.0001 s to 1000000 s")
        check_rate("downlink_bps", self.downlink_bps)
        check_fixed(self.rtt_s, self.header_bytes)
        check_seed(self.seed)

    def uplink(self) -> RatePipe:
        """Make an idle pipe from device to edge. Its first block has either rate with equal probability."""
        rng = np.random.default_rng(self.seed)
        rates_bps = np.array([self.low_bps, self.high_bps])
        state = int(rng.integers(2))

        def draw(n: int) -> NDArray[np.float64]:
            nonlocal state
            states = (state + np.cumsum(rng.random(n) < self.switch_probability)) % 2
            state = int(states[-1])
            rates: NDArray[np.float64] = rates_bps[states]
            return rates

        return RatePipe(blocks(draw, self.block_s), constant(self.rtt_s / 2), self.header_bytes)

    def downlink(self) -> RatePipe:
        """Make an idle pipe from edge to device."""
        return RatePipe(constant(self.downlink_bps), constant(self.rtt_s / 2), self.header_bytes)
