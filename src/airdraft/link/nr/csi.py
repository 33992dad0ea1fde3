"""CSI of `nr`: the channel over slots, subcarriers and antennas that goes with the SNR which its bytes meet.

The link knows one SNR for each moment. Here it is spread over subcarriers and antennas by a tapped delay line of TR
38.901 at the device's speed, and every slot is scaled so that its mean is that SNR. So CSI and bytes agree, but at the
borders of the link's fading blocks the power jumps, which a real channel does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from airdraft.channel.generate import ChannelRecipe, Complex, noise, rays
from airdraft.channel.profiles import profile
from airdraft.link.nr.jam import Jammer
from airdraft.link.nr.radio import Channel
from airdraft.link.nr.tdd import SLOT_S

SLOTS = ChannelRecipe.slots // 2
"""Slots that are measured: the last 10 ms."""
IN_SIGHT, OUT_OF_SIGHT, DELAY_SPREAD_S = "TDL-E", "TDL-C", 100e-9
_STREAM = 9
"""Number of the random numbers of CSI, apart from the link's own."""


class Sounding:
    """Measures one direction's channel. It has noise of power 1, so that the mean power is SNR + 1, and in a jam that
    of the jam more.
    """

    def __init__(
        self, channel: Channel, jammer: Jammer, mean_snr_db: Callable[[float], float], in_sight: bool,
        doppler_hz: float, seed: int,
    ) -> None:  # fmt: skip
        """`channel`: of the link's gains, not shared with it. `mean_snr_db(shadow_db)`: SNR without fading."""
        self._channel, self._jammer = channel, jammer
        self._mean_snr_db = mean_snr_db
        self._rng = np.random.default_rng([seed, _STREAM])
        like = profile(IN_SIGHT if in_sight else OUT_OF_SIGHT)
        self._rays = rays(like, doppler_hz, DELAY_SPREAD_S, ChannelRecipe.antennas, self._rng)
        self._frequencies_hz = ChannelRecipe.spacing_hz * np.arange(ChannelRecipe.subcarriers, dtype=np.float64)

    def at(self, time_s: float) -> Complex:
        """Measure the last `SLOTS` slots, [slots, subcarriers, antennas], at a time that does not fall."""
        times_s = np.maximum(0.0, time_s - SLOT_S * np.arange(SLOTS - 1, -1, -1))
        self._channel.forget(float(times_s[0]))
        shaped = self._rays.at(times_s, self._frequencies_hz)
        shaped /= np.sqrt(np.mean(np.abs(shaped) ** 2, axis=(1, 2), keepdims=True))
        amplitudes = np.array([self._amplitude(float(each)) for each in times_s], np.float32)
        heard = np.array([math.sqrt(1 + self._jammer.power(float(each))) for each in times_s], np.float32)
        found: Complex = shaped * amplitudes[:, None, None] + noise(shaped.shape, 0.0, self._rng) * heard[:, None, None]
        return found

    def jammed(self, time_s: float) -> bool:
        """Whether there is a jam, which a device has to find out."""
        return self._jammer.power(time_s) > 0

    def _amplitude(self, time_s: float) -> float:
        shadow_db, fading_db = self._channel.gains_db(time_s)
        return 0.0 if fading_db == -math.inf else 10 ** ((self._mean_snr_db(shadow_db) + fading_db) / 20)
