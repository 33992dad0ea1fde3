"""What is known about estimating and predicting channels without learning, each honest about what it is told.

All take what is observed, [slots, subcarriers, antennas], on a comb of slots and subcarriers, and return all values.
LMMSE takes the covariances over time and over subcarriers, as their product, and no correlation of antennas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import j0

from airdraft.channel.generate import LOS_SHIFT, Complex
from airdraft.channel.profiles import DelayProfile

Matrix = NDArray[np.complex128]
AR_ORDER = 8
AR_RIDGE = 1e-3
"""Share of the power that is added where autoregression is solved, so that channels without noise can be."""


@dataclass(frozen=True)
class Comb:
    """Where a channel is observed: in some slots, at some subcarriers each."""

    slots: NDArray[np.intp]
    subcarriers: NDArray[np.intp]


def interpolated(observed: Complex, comb: Comb) -> Complex:
    """Least squares at the pilots, and straight lines between them; beyond the last, the last value."""
    filled = _lines(observed[comb.slots][:, comb.subcarriers], comb.subcarriers, observed.shape[1], 1)
    return _lines(filled, comb.slots, observed.shape[0], 0).astype(np.complex64)


def _lines(values: NDArray[np.complexfloating], at: NDArray[np.intp], count: int, axis: int) -> Complex:
    """Interpolate along an axis, whose values are known `at` some places of `count`."""
    wanted = np.arange(count)
    right = np.clip(np.searchsorted(at, wanted), 1, max(len(at) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(at) - 1)
    apart = np.maximum(at[right] - at[left], 1)
    share = np.clip((wanted - at[left]) / apart, 0, 1)
    share = share.reshape([-1 if each == axis else 1 for each in range(values.ndim)])
    lines: Complex = values.take(left, axis) * (1 - share) + values.take(right, axis) * share
    return lines


def lmmse(observed: Complex, comb: Comb, over_time: Matrix, over_subcarriers: Matrix, snr_db: float) -> Complex:
    """Linear minimum mean square error, whose covariances are `over_time` [slots, slots] and `over_subcarriers`.

    Solved in the eigenvectors of both covariances at the pilots.
    """
    noise = 10 ** (-snr_db / 10)
    time, turned_time = np.linalg.eigh(over_time[np.ix_(comb.slots, comb.slots)])
    frequency, turned = np.linalg.eigh(over_subcarriers[np.ix_(comb.subcarriers, comb.subcarriers)])
    seen = observed[comb.slots][:, comb.subcarriers]
    apart = np.einsum("tu,tfa,fg->uga", turned_time.conj(), seen, turned.conj(), optimize=True)
    apart = apart / (np.outer(time, frequency) + noise)[:, :, None]
    to_time = over_time[:, comb.slots] @ turned_time
    to_frequency = over_subcarriers[:, comb.subcarriers] @ turned
    found: Complex = np.einsum("su,uga,hg->sha", to_time, apart, to_frequency, optimize=True).astype(np.complex64)
    return found


def true_time(like: DelayProfile, most_hz: float, lags_s: NDArray[np.float64]) -> Matrix:
    """Compute the covariance over time that a TDL profile has: Clarke's, and a turning direct path.

    For CDL profiles, whose Doppler spectrum depends on the direction of travel, this is the one to expect.
    """
    direct = like.powers[0] if like.los else 0.0
    turning = np.exp(2j * np.pi * LOS_SHIFT * most_hz * lags_s)
    found: Matrix = direct * turning + (1 - direct) * j0(2 * np.pi * most_hz * lags_s)
    return found


def true_subcarriers(like: DelayProfile, delay_spread_s: float, lags_hz: NDArray[np.float64]) -> Matrix:
    """Compute the covariance over subcarriers: the transform of the power-delay profile."""
    delays_s = like.delays * delay_spread_s
    found: Matrix = np.tensordot(np.exp(-2j * np.pi * lags_hz[..., None] * delays_s), like.powers, 1)
    return found


def lags(count: int, step: float) -> NDArray[np.float64]:
    """All differences between places on an even grid, [count, count]: the column's place from the row's."""
    places = np.arange(count) * step
    return places[:, None] - places


def measured(channels: NDArray[np.complexfloating], axis: int) -> Matrix:
    """Estimate the covariance along an axis of noiseless channels, [channels, slots, subcarriers, antennas]."""
    rows = np.moveaxis(channels, axis, -1).reshape(-1, channels.shape[axis]).astype(np.complex128)
    return rows.T @ rows.conj() / len(rows)


def held(observed: Complex, past: int) -> Complex:
    """Let the last value stand: predict that nothing changes after slot `past`."""
    predicted = observed.copy()
    predicted[past:] = observed[past - 1]
    return predicted


def continued(observed: Complex, past: int) -> Complex:
    """Go on in a straight line, in the complex plane, from the last two slots."""
    predicted = observed.copy()
    steps = np.arange(1, len(observed) - past + 1)[:, None, None]
    predicted[past:] = observed[past - 1] + steps * (observed[past - 1] - observed[past - 2])
    return predicted


def autoregressed(observed: Complex, past: int, order: int = AR_ORDER) -> Complex:
    """Predict slot after slot by autoregression, fitted to this channel's own past at all subcarriers and antennas."""
    order = min(order, past // 2)
    rows = observed[:past].reshape(past, -1).astype(np.complex128)
    before = np.stack([rows[order - lag : past - lag].ravel() for lag in range(1, order + 1)], 1)
    after = rows[order:].ravel()
    gram = before.conj().T @ before
    ridge = AR_RIDGE * np.trace(gram).real / order + np.finfo(float).tiny
    weights = np.linalg.solve(gram + ridge * np.eye(order), before.conj().T @ after)
    predicted = observed.copy()
    recent = list(rows[past - order :])
    for slot in range(past, len(observed)):
        recent.append(sum(weight * recent[-lag] for lag, weight in enumerate(weights, 1)))
        predicted[slot] = recent[-1].reshape(observed.shape[1:])
    return predicted
