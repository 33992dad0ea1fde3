"""What a channel model is shown of a channel while it learns: pilots on a comb, the past, or patches at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airdraft.channel.generate import ChannelRecipe, Complex, channels, noise
from airdraft.channel.profiles import PROFILES
from training.channel_model import Shape

COMB, FUTURE = 0.45, 0.40
"""Shares of channels that are shown as pilots, and as a past; of the rest, patches are shown."""

Mask = Callable[[Shape, np.random.Generator], NDArray[np.bool_]]
"""What is known of a channel, [slots, subcarriers, antennas]."""

Source = Callable[[Shape, int, int], Iterator[tuple[Complex, float]]]
"""Gives channels, [slots, subcarriers, antennas], and SNRs in dB without end: those of a seed, from a number on."""
SNRS_DB = (-5.0, 25.0)


def recipe(shape: Shape) -> ChannelRecipe:
    """What the model learns from: every profile, 0 to 150 km/h, delay spreads of 10 to 300 ns, -5 to 25 dB."""
    return ChannelRecipe(
        PROFILES, (0.0, 150.0), (10e-9, 300e-9), SNRS_DB, shape.slots, shape.subcarriers, shape.antennas
    )  # fmt: skip


def simulated(shape: Shape, seed: int, first: int) -> Iterator[tuple[Complex, float]]:
    """The `Source` of simulated channels."""
    return ((each.values, each.snr_db) for each in channels(recipe(shape), seed, first))


def mask(shape: Shape, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw where a channel is known, [slots, subcarriers, antennas]."""
    known = np.zeros((shape.slots, shape.subcarriers, shape.antennas), np.bool_)
    kind = rng.random()
    if kind < COMB + FUTURE:
        past = shape.slots if kind < COMB and rng.random() < 0.75 else int(rng.integers(shape.slots // 4, shape.slots))
        every_slot, every_subcarrier = (
            (int(rng.choice((1, 2, 4))), int(rng.choice((2, 4, 8)))) if kind < COMB else (1, 1)
        )
        known[rng.integers(every_slot) : past : every_slot, rng.integers(every_subcarrier) :: every_subcarrier] = True
        return known
    shown = rng.random(shape.grid) < rng.uniform(0.25, 0.75)
    shown.flat[rng.integers(shown.size)] = True
    return shown.repeat(shape.patch[0], 0).repeat(shape.patch[1], 1).repeat(shape.patch[2], 2)


def batches(
    shape: Shape, size: int, seed: int, first: int, masked: Mask = mask, source: Source = simulated
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield what is observed, all values, and SNRs, from channel number `first` on; shapes as in `ChannelModel`."""
    drawn = source(shape, seed, first)
    while True:
        rng = np.random.default_rng([seed, first, 1])
        observed = np.zeros((size, shape.slots, shape.subcarriers, 3, shape.antennas), np.float32)
        values = np.empty((size, shape.slots, shape.subcarriers, 2, shape.antennas), np.float32)
        snrs_db = np.empty(size, np.float32)
        for i in range(size):
            (channel, snr_db), known = next(drawn), masked(shape, rng)
            seen = np.where(known, channel + noise(channel.shape, snr_db, rng), 0)
            observed[i, :, :, 0], observed[i, :, :, 1], observed[i, :, :, 2] = seen.real, seen.imag, known
            values[i, :, :, 0], values[i, :, :, 1] = channel.real, channel.imag
            snrs_db[i] = snr_db
        first += size
        yield torch.from_numpy(observed), torch.from_numpy(values), torch.from_numpy(snrs_db)
