"""A mixture of linear filters: which are mixed, and how, is decided from the correlations of what is observed.

The idea is that of gridded LMMSE (Neumann, Wiese and Utschick, 2018, "Learning the MMSE Channel Estimator"): the best
estimate given the Doppler shift, delay spread and SNR is linear, and these can be told from correlations. Here the
filters are learned too, one over time and one over subcarriers, of which a few products are added.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from airdraft.channel.baselines import Comb, Matrix, lags, true_subcarriers, true_time
from airdraft.channel.generate import ChannelRecipe, shift_hz
from airdraft.channel.profiles import profile
from training.channel_masks import recipe
from training.channel_model import Shape

FILTERS, PRODUCTS, HIDDEN = 24, 2, 128
SNRS_DB = (5.0, 25.0)
"""SNRs of the filters to begin with."""
LEAST = 1e-6
"""Added to the power of what is observed."""


def lag_means(count: int) -> Tensor:
    """What takes the mean of each lower diagonal, [lags, count · count]: the correlations at lags 1 and more."""
    apart = torch.arange(count)[:, None] - torch.arange(count)
    return torch.stack([(apart == lag).flatten() / (count - lag) for lag in range(1, count)])


class Mixture(nn.Module):
    """What `ChannelModel` takes, observed on one comb, in; all values out."""

    def __init__(self, shape: Shape, comb: Comb) -> None:
        super().__init__()
        self.slots, self.subcarriers = comb.slots.tolist(), comb.subcarriers.tolist()
        time, frequency = len(comb.slots), len(comb.subcarriers)
        self.over_time, self.over_frequency = (nn.Parameter(each) for each in classic(recipe(shape), comb))
        self.register_buffer("time_lags", lag_means(time), persistent=False)
        self.register_buffer("frequency_lags", lag_means(frequency), persistent=False)
        self.gates = nn.Sequential(
            nn.Linear(2 * (time - 1) + 2 * (frequency - 1) + 2, HIDDEN), nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2 * PRODUCTS * FILTERS),
        )  # fmt: skip
        with torch.no_grad():  # begins as the product of the mean filters
            bias = self.gates[-1].bias.zero_().view(2, PRODUCTS, FILTERS)
            bias[:, 0] = 1 / FILTERS

    def forward(self, observed: Tensor, snr_db: Tensor) -> Tensor:
        """See `ChannelModel.forward`: its first result."""
        n, antennas = observed.shape[0], observed.shape[4]
        seen = observed[:, self.slots][:, :, self.subcarriers, :2]  # [n, time, frequency, 2, antennas]
        power = seen.square().mean((1, 2, 3, 4))[:, None] * 2 + LEAST
        along_time = seen.permute(0, 3, 1, 2, 4).flatten(3)  # [n, 2, time, frequency · antennas]
        along_frequency = seen.permute(0, 3, 2, 1, 4).flatten(3)
        told = [0.1 * snr_db[:, None], power.log()]
        for rows, means in ((along_time, self.time_lags), (along_frequency, self.frequency_lags)):
            told += [each.flatten(1) @ means.T / rows.shape[3] / power for each in gram(rows)]
        gates = self.gates(torch.cat(told, 1)).reshape(n, 2, PRODUCTS, FILTERS)
        times = (gates[:, 0] @ self.over_time.flatten(1)).reshape(n, PRODUCTS, *self.over_time.shape[1:])
        frequencies = (gates[:, 1] @ self.over_frequency.flatten(1)).reshape(
            n, PRODUCTS, *self.over_frequency.shape[1:]
        )
        found = filtered(times, along_time[:, None])  # [n, products, 2, slots, frequency · antennas]
        found = found.reshape(n, PRODUCTS, 2, found.shape[3], -1, antennas).transpose(3, 4).flatten(4)
        found = filtered(frequencies, found).sum(1)  # [n, 2, subcarriers, slots · antennas]
        return found.reshape(n, 2, found.shape[2], -1, antennas).permute(0, 3, 2, 1, 4)


def classic(like: ChannelRecipe, comb: Comb) -> tuple[Tensor, Tensor]:
    """The filters to begin with, over time and over subcarriers: LMMSE's for even steps of speed and of delay spread.

    They are [filters, 2, slots, slots of the comb] and the same for subcarriers, with two SNRs for each step.
    """
    steps = FILTERS // len(SNRS_DB)
    rayleigh = profile("TDL-B")
    times, frequencies = lags(like.slots, like.slot_s), lags(like.subcarriers, like.spacing_hz)
    over_time = [true_time(rayleigh, shift_hz(like, speed), times) for speed in np.linspace(*like.speed_kmh, steps)]
    over_frequency = [
        true_subcarriers(rayleigh, spread, frequencies) for spread in np.geomspace(*like.delay_spread_s, steps)
    ]

    def solved(covariance: Matrix, at: NDArray[np.intp], snr_db: float) -> Matrix:
        noisy = covariance[np.ix_(at, at)] + 10 ** (-snr_db / 10) * np.eye(len(at))
        found: Matrix = np.linalg.solve(noisy.T, covariance[:, at].T).T
        return found

    found = []
    for covariances, at in ((over_time, comb.slots), (over_frequency, comb.subcarriers)):
        filters = np.stack([solved(each, at, snr_db) for each in covariances for snr_db in SNRS_DB])
        found.append(torch.from_numpy(np.stack([filters.real, filters.imag], 1).astype(np.float32)))
    return found[0], found[1]


def gram(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the products of all rows with each other, of [n, 2, rows, values]: [n, rows, rows]."""
    real, imaginary = rows[:, 0], rows[:, 1]
    turned, crossed = imaginary.transpose(1, 2), imaginary @ real.transpose(1, 2)
    return real @ real.transpose(1, 2) + imaginary @ turned, crossed - crossed.transpose(1, 2)


def filtered(filters: Tensor, values: Tensor) -> Tensor:
    """Complex products, [..., 2, to, from] with [..., 2, from, values], real and imaginary parts apart."""
    (real, imaginary), (of_real, of_imaginary) = filters.unbind(2), values.unbind(2)
    return torch.stack([real @ of_real - imaginary @ of_imaginary, real @ of_imaginary + imaginary @ of_real], 2)
