"""The radio of `nr`: path loss, shadowing and fading → SNR → MCS and block error rate.

Path loss and the statistics of shadowing follow 3GPP TR 38.901 (release 17), tables 7.4.1-1 and 7.5-6, for a device
1.5 m above ground and nearer than the breakpoint distance.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from airdraft.link.nr.jam import Jammer


@dataclass(frozen=True)
class Scenario:
    """A type of place. Path loss = `at_1m_db` + `slope_db` · log10(d/m) + `frequency_db` · log10(f/GHz)."""

    at_1m_db: float
    slope_db: float
    frequency_db: float
    shadow_db: float
    """Standard deviation of the shadowing."""
    correlation_m: float
    """Distance over which the shadowing's correlation falls to 1/e."""
    distance_m: float
    """Distance of the device if none is given; our choice."""
    in_sight: str | None = None
    """The same place in line of sight, whose path loss is the least possible. None: this is in line of sight."""


SCENARIOS = {
    "indoor-los": Scenario(32.4, 17.3, 20.0, 3.0, 10.0, 20.0),
    "indoor-nlos": Scenario(17.3, 38.3, 24.9, 8.03, 6.0, 30.0, "indoor-los"),
    "micro-los": Scenario(32.4, 21.0, 20.0, 4.0, 10.0, 100.0),
    "micro-nlos": Scenario(22.4, 35.3, 21.3, 7.82, 13.0, 150.0, "micro-los"),
    "macro-los": Scenario(28.0, 22.0, 20.0, 4.0, 37.0, 300.0),
    "macro-nlos": Scenario(13.54, 39.08, 20.0, 6.0, 50.0, 300.0, "macro-los"),
}
"""The scenarios InH, UMi street canyon and UMa of TR 38.901."""

PRB_HZ = 12 * 30e3
"""Bandwidth of a resource block at 30 kHz subcarrier spacing."""

THRESHOLDS_DB = (
    -6.4, -5.8, -5.1,
    -2.8, -2.4, -1.1, 0.5, 0.7, 2.6, 2.7, 3.1, 4.4, 4.6, 6.2, 6.6, 8.0, 8.3, 9.8, 10.5, 11.6, 12.8, 13.5, 14.8, 15.3,
    16.9, 17.5, 18.7, 19.5,
)  # fmt: skip
"""SNR at which MCS 0 to 27 of the 64QAM table has 10 % BLER, measured for 51 PRB. For MCS 0 to 2 the measurement shows
only that it is below -5 dB, so they use the others' distance from capacity, 1.1 dB."""

_LOGIT_PER_DB = 4.0
"""Range in which a block error rate falls from 10 % to 1 %: our choice, usual for LDPC blocks of this size."""


def path_loss_db(scenario: Scenario, distance_m: float, frequency_ghz: float) -> float:
    """Compute the median path loss between isotropic antennas."""
    loss_db = (
        scenario.at_1m_db
        + scenario.slope_db * math.log10(distance_m)
        + scenario.frequency_db * math.log10(frequency_ghz)
    )
    if scenario.in_sight is None:
        return loss_db
    return max(loss_db, path_loss_db(SCENARIOS[scenario.in_sight], distance_m, frequency_ghz))


def noise_dbm(prbs: int, noise_figure_db: float) -> float:
    """Compute the thermal noise in `prbs` resource blocks."""
    return -174.0 + 10 * math.log10(prbs * PRB_HZ) + noise_figure_db


def choose_mcs(snr_db: float, most: int) -> int:
    """Choose the highest MCS up to `most` with at most 10 % BLER at this SNR, or 0."""
    return min(max(0, bisect_right(THRESHOLDS_DB, snr_db) - 1), most)


def block_error_rate(mcs: int, snr_db: float) -> float:
    """Compute the probability that decoding a block fails: 10 % at the threshold, logistic around it."""
    logit = _LOGIT_PER_DB * (snr_db - THRESHOLDS_DB[mcs]) + math.log(9.0)
    return 1 / (1 + math.exp(min(logit, 700.0)))


def coherence_s(speed_mps: float, frequency_ghz: float) -> float:
    """Compute 9/(16π · Doppler shift), over which the fading's correlation falls to one half (Rappaport, §5.4.3)."""
    doppler_hz = speed_mps * frequency_ghz * 1e9 / 299_792_458.0
    return 9 / (16 * math.pi * doppler_hz)


class Channel:
    """Shadowing and fading, as a pair of gains for each block of time.

    Shadowing is normal in dB and first-order autoregressive from block to block. Fading is Rayleigh, drawn again for
    every block, in `branches` independent parts (antennas, or far-apart frequencies) whose powers add up. Outages
    are blocks without any gain. They begin at random and last an exponential time.
    """

    _BLOCKS = 256

    def __init__(
        self, block_s: float, shadow_db: float, correlation: float, branches: int,
        outage_interval_s: float, outage_s: float, rng: np.random.Generator, jammer: Jammer | None = None,
    ) -> None:  # fmt: skip
        """`correlation` is that of shadowing between successive blocks. `jammer`: taken off the fading, as its noise
        is as bad as a signal so much weaker. None: the gains are those of the signal alone."""
        self._jammer = jammer
        self._block_s = block_s
        self._shadow_db = shadow_db
        self._correlation = correlation
        self._branches = branches
        self._begin = block_s / (outage_interval_s + block_s)
        self._end = block_s / (outage_s + block_s)
        self._rng = rng
        self._shadow = float(rng.standard_normal())
        self._out = False
        self._first = 0
        self._gains: list[tuple[float, float]] = []

    def gains_db(self, time_s: float) -> tuple[float, float]:
        """Return shadowing and fading at a time since the start, which must not be forgotten yet."""
        block = int(time_s / self._block_s) - self._first
        while block >= len(self._gains):
            self._draw()
        shadow_db, fading_db = self._gains[block]
        return shadow_db, fading_db - (self._jammer.rise_db(time_s) if self._jammer else 0.0)

    def forget(self, time_s: float) -> None:
        """Forget what was before `time_s`; it is not asked for again."""
        self.gains_db(time_s)
        spare = int(time_s / self._block_s) - self._first - self._BLOCKS
        if spare > 0:
            del self._gains[:spare]
            self._first += spare

    def _draw(self) -> None:
        innovations = math.sqrt(1 - self._correlation**2) * self._rng.standard_normal(self._BLOCKS)
        powers = self._rng.standard_gamma(self._branches, self._BLOCKS) / self._branches
        fading_db = (10 * np.log10(powers)).tolist()
        turns = self._rng.random(self._BLOCKS).tolist()
        for innovation, fading, turn in zip(innovations.tolist(), fading_db, turns, strict=True):
            self._shadow = self._correlation * self._shadow + innovation
            self._out = turn >= self._end if self._out else turn < self._begin
            self._gains.append((self._shadow_db * self._shadow, -math.inf if self._out else fading))
