"""What a device's forecast is told of the channel that its modem measures.

CSI is [slots, subcarriers, antennas], with noise of power 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from airdraft.channel.baselines import Comb
from airdraft.channel.generate import Complex
from airdraft.channel.guard import shipped
from airdraft.channel.learned import LearnedChannel
from airdraft.errors import ModelError

LEAST_POWER, MOST_SNR_DB = 0.1, 25.0
"""Signal that counts as none, and the highest SNR that a model is told, of those that it has learned from."""
_GROUP = 5
"""Slots that a number is taken over: 2.5 ms."""

Features = Callable[[Complex], tuple[float, ...]]


def silent(csi: Complex) -> bool:
    """Whether there was no signal in all that was measured. Raises: `ModelError` for what is not finite."""
    return _signal(csi) <= LEAST_POWER


def modelled(model: LearnedChannel) -> Features:
    """Make features of a model: the power that it says of the last 2.5 ms, the next, and those that end in 10 ms.

    They are in tens of dB over the noise, at least 0, and raise `ModelError` for CSI that does not fit the model.
    """
    slots, subcarriers, antennas = model.window
    past = slots // 2
    comb, wanted = Comb(np.arange(past), np.arange(subcarriers)), (past, subcarriers, antennas)

    def features(csi: Complex) -> tuple[float, ...]:
        if csi.shape != wanted:
            raise ModelError(f"CSI has shape {csi.shape}; this model is for {wanted}: slots, subcarriers, antennas")
        signal = _signal(csi)
        observed = np.zeros((1, *model.window), np.complex64)
        observed[0, :past] = csi / math.sqrt(signal)
        values, _ = model.run(observed, comb, np.array([min(10 * math.log10(signal), MOST_SNR_DB)]))
        powers = np.mean(np.abs(values[0]) ** 2, axis=(1, 2)) * signal  # [slots]
        groups = powers[past - _GROUP : past], powers[past : past + _GROUP], powers[-_GROUP:]
        return tuple(math.log10(max(1.0, float(group.mean()))) for group in groups)

    return features


def reading(name: str, model: LearnedChannel | None) -> Callable[[Complex | None], tuple[bool, tuple[float, ...]]]:
    """Make what a forecast by this name reads from CSI, and from None before there is any.

    It says whether the link is down, for `guard` also if it is jammed, and the features of a `model`, if it has one.
    """
    features: Features = modelled(model) if model is not None else lambda _: ()
    guard = shipped() if name == "guard" else None
    window = (0, 0, 0) if model is None else model.window
    unknown = features(np.zeros((window[0] // 2, *window[1:]), np.complex64))

    def read(csi: Complex | None) -> tuple[bool, tuple[float, ...]]:
        if csi is None:
            return False, unknown
        return silent(csi) or (guard is not None and guard.jammed(csi)), features(csi)

    return read


def _signal(csi: Complex) -> float:
    power = float(np.mean(np.abs(csi) ** 2))
    if not math.isfinite(power):
        raise ModelError("CSI has values that are not finite; give it without NaN and infinity")
    return max(LEAST_POWER, power - 1.0)
