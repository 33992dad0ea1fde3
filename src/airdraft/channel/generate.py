"""Generates channels after TR 38.901: each is a sum of rays over time, subcarriers and antennas of the base station.

A ray has a power, a delay, a Doppler shift, and a response with a random phase at every antenna. The device has one
antenna, and all antennas have one polarisation and no pattern.

TDL: each tap is a sum of sinusoids (Xiao, Zheng and Beaulieu, 2006), 20 as in common simulators, whose Doppler
spectrum is that of Clarke and Jakes. The antennas fade independently. The direct path's shift is 0.7 of the largest.
CDL: 20 rays a cluster, coupled at random. The base station has a row of antennas half a wavelength apart. The device
is at a random bearing within 60 degrees, and moves in a random horizontal direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airdraft.channel.profiles import PROFILES, RAY_OFFSETS, Angles, DelayProfile, profile
from airdraft.errors import BadParameterError

SINUSOIDS = 20
LOS_SHIFT = 0.7
LIGHT_MPS = 299_792_458.0
MOST_VALUES = 1 << 22
"""Most complex numbers in one channel: 32 MiB in single precision."""

Range = tuple[float, float]
Complex = NDArray[np.complex64]


@dataclass(frozen=True)
class ChannelRecipe:
    """What channels are like. Ranges are from least to most; each channel draws its own value from them.

    Raises: `BadParameterError` for an impossible one.
    """

    profiles: tuple[str, ...] = ("TDL-A",)
    speed_kmh: Range = (3.0, 3.0)
    delay_spread_s: Range = (100e-9, 100e-9)
    """Drawn by its logarithm."""
    snr_db: Range = (10.0, 10.0)
    """Mean signal over noise at one antenna and subcarrier."""
    slots: int = 40
    subcarriers: int = 32
    antennas: int = 4
    slot_s: float = 0.5e-3
    spacing_hz: float = 90e3
    """Between the subcarriers that are modelled: 90 kHz is every third one of 30 kHz."""
    carrier_hz: float = 3.5e9

    def __post_init__(self) -> None:
        if not self.profiles:
            raise BadParameterError(f"there is no profile; give some of {', '.join(PROFILES)}")
        for name in self.profiles:
            profile(name)
        for name, given, least, most, unit in (
            ("speed_kmh", self.speed_kmh, 0.0, 1000.0, "km/h"),
            ("delay_spread_s", self.delay_spread_s, 1e-9, 1e-5, "s"),
            ("snr_db", self.snr_db, -30.0, 60.0, "dB"),
            ("slot_s", (self.slot_s, self.slot_s), 1e-6, 1.0, "s"),
            ("spacing_hz", (self.spacing_hz, self.spacing_hz), 1e3, 1e8, "Hz"),
            ("carrier_hz", (self.carrier_hz, self.carrier_hz), 1e8, 1e11, "Hz"),
        ):
            if not least <= given[0] <= given[1] <= most:  # NaN too
                raise BadParameterError(
                    f"{name} is {given[0]:g} to {given[1]:g}; give {least:g} to {most:g} {unit}, the smaller one first"
                )
        for name, count in (("slots", self.slots), ("subcarriers", self.subcarriers), ("antennas", self.antennas)):
            if not 1 <= count <= 4096:
                raise BadParameterError(f"{name} is {count}; give 1 to 4096")
        if self.slots * self.subcarriers * self.antennas > MOST_VALUES:
            raise BadParameterError(
                f"a channel of {self.slots} slots, {self.subcarriers} subcarriers and {self.antennas} antennas has "
                f"more than {MOST_VALUES} values; give less of one of them"
            )


@dataclass(frozen=True)
class Rays:
    """The rays of one channel, in groups of equal delay: taps or clusters."""

    powers: NDArray[np.float64]  # [groups, rays], of sum 1
    delays_s: NDArray[np.float64]  # [groups]
    shifts_hz: NDArray[np.float64]  # [groups, rays]
    response: NDArray[np.complex128]  # [groups, rays, antennas], of absolute value 1

    def at(self, times_s: NDArray[np.float64], frequencies_hz: NDArray[np.float64]) -> Complex:
        """Compute the channel at these times and frequencies, [times, frequencies, antennas]."""
        turning = np.exp(2j * np.pi * times_s[:, None] * self.shifts_hz[:, None])  # [groups, times, rays]
        groups = turning @ (np.sqrt(self.powers)[..., None] * self.response)  # [groups, times, antennas]
        delaying = np.exp(-2j * np.pi * np.outer(frequencies_hz, self.delays_s))
        return np.tensordot(groups, delaying, (0, 1)).transpose(0, 2, 1).astype(np.complex64)


@dataclass(frozen=True)
class Realisation:
    """One channel, and what it was made with."""

    values: Complex  # [slots, subcarriers, antennas]
    profile: str
    speed_kmh: float
    delay_spread_s: float
    snr_db: float

    @property
    def los(self) -> bool:
        """Whether there is a direct path."""
        return profile(self.profile).los

    def observed(self, rng: np.random.Generator) -> Complex:
        """Return the values with noise."""
        return self.values + noise(self.values.shape, self.snr_db, rng)


def noise(shape: tuple[int, ...], snr_db: float, rng: np.random.Generator) -> Complex:
    """Draw complex Gaussian noise for channels of mean power 1."""
    deviation = math.sqrt(10 ** (-snr_db / 10) / 2)
    drawn = rng.standard_normal((*shape, 2), np.float32) * np.float32(deviation)
    return drawn.view(np.complex64)[..., 0]


def shift_hz(recipe: ChannelRecipe, speed_kmh: float) -> float:
    """Compute the largest Doppler shift at a speed."""
    return speed_kmh / 3.6 * recipe.carrier_hz / LIGHT_MPS


def channels(recipe: ChannelRecipe, seed: int, first: int = 0) -> Iterator[Realisation]:
    """Draw channels without end, from number `first` on. Channel i of a seed is the same wherever one begins."""
    if seed < 0:
        raise BadParameterError(f"seed is {seed}; give 0 or more")
    times_s = recipe.slot_s * np.arange(recipe.slots, dtype=np.float64)
    frequencies_hz = recipe.spacing_hz * np.arange(recipe.subcarriers, dtype=np.float64)
    while True:
        rng = np.random.default_rng([seed, first])
        name = recipe.profiles[rng.integers(len(recipe.profiles))]
        speed_kmh = float(rng.uniform(*recipe.speed_kmh))
        delay_spread_s = math.exp(rng.uniform(math.log(recipe.delay_spread_s[0]), math.log(recipe.delay_spread_s[1])))
        snr_db = float(rng.uniform(*recipe.snr_db))
        drawn = rays(profile(name), shift_hz(recipe, speed_kmh), delay_spread_s, recipe.antennas, rng)
        yield Realisation(drawn.at(times_s, frequencies_hz), name, speed_kmh, delay_spread_s, snr_db)
        first += 1


def rays(like: DelayProfile, most_hz: float, delay_spread_s: float, antennas: int, rng: np.random.Generator) -> Rays:
    """Draw the rays of a profile; `most_hz` is the largest Doppler shift."""
    count = len(like.powers)
    if like.angles is None:
        shifts = np.cos(2 * np.pi * (np.arange(SINUSOIDS) + rng.uniform(-0.5, 0.5, (count, SINUSOIDS))) / SINUSOIDS)
        response = np.exp(2j * np.pi * rng.random((count, SINUSOIDS, antennas)))
        if like.los:
            shifts[0, 0], response[0, 0] = LOS_SHIFT, response[0, 0, 0]  # one phase at all antennas
    else:
        shifts, response = _clustered(like.angles, antennas, like.los, rng)
    powers = np.repeat(like.powers[:, None] / shifts.shape[1], shifts.shape[1], axis=1)
    if like.los:
        powers[0] = 0.0
        powers[0, 0] = like.powers[0]
    return Rays(powers, like.delays * delay_spread_s, shifts * most_hz, response)


def _clustered(
    angles: Angles, antennas: int, los: bool, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    """Draw the rays of clusters: shifts as shares of the largest [clusters, rays], and responses [.., antennas]."""
    offsets = np.concatenate([RAY_OFFSETS, -RAY_OFFSETS])
    centres = angles.centres[:, :, None]
    coupled = rng.permuted(np.broadcast_to(offsets, (len(centres), 4, len(offsets))), axis=-1)
    around = centres + angles.spreads[:, None] * coupled  # [clusters, 4, rays]
    if los:
        around[0] = centres[0]
    base, device, base_zenith, device_zenith = around.transpose(1, 0, 2)
    bearing, heading = rng.uniform(-np.pi / 3, np.pi / 3), rng.uniform(0, 2 * np.pi)
    shifts = np.sin(device_zenith) * np.cos(device - heading)
    across = np.sin(base_zenith) * np.sin(base - centres[0, 0] + bearing)
    phases = np.pi * across[..., None] * np.arange(antennas) + 2 * np.pi * rng.random(base.shape)[..., None]
    return shifts, np.exp(1j * phases)
