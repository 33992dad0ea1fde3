"""A jamming guard: energy and correlation against a learned threshold each, the idea of DT-DDNN (arXiv 2403.02645).

A fade or an outage takes energy away. Interference of a strong signal with itself leaves it alike at neighbouring
subcarriers. A jammer brings energy that is not alike there. So much energy with so little correlation is a jam. DT-DDNN
reads the synchronisation signal and has a network behind the thresholds; here CSI is read, and thresholds are all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from airdraft.channel.generate import Complex
from airdraft.errors import ModelError
from airdraft.files import output

SLOTS = 5
"""Slots that one look takes in: the last 2.5 ms."""
_ENERGIES = 60
"""Thresholds of energy that are tried."""

Array = NDArray[np.float64]


class Thresholds(msgspec.Struct, frozen=True):
    """What the guard has learned."""

    energy_db: float
    """Over the noise; a jam has more."""
    correlation: float
    """Between neighbouring subcarriers, 0 to 1; a jam has less."""
    false_alarms: float
    """Share of looks without a jam that may be taken for one."""


def looked(csi: Complex) -> tuple[float, float]:
    """Compute energy in dB and correlation of the last `SLOTS` of CSI, [slots, subcarriers, antennas], noise 1.

    Raises: `ModelError` for CSI that is not finite or has a single subcarrier.
    """
    last = csi[-SLOTS:]
    power = float(np.mean(np.abs(last) ** 2)) if last.size else 0.0
    if not np.isfinite(power) or not last.size or last.ndim != 3 or last.shape[1] < 2:
        raise ModelError("CSI is empty, not finite or of one subcarrier; give slots, subcarriers and antennas")
    alike = np.abs(np.mean(last[:, 1:] * last[:, :-1].conj()))
    return 10 * float(np.log10(max(power, 1e-9))), float(alike / max(power, 1e-9))


@dataclass(frozen=True)
class Guard:
    """Says of CSI whether there is a jam."""

    thresholds: Thresholds

    def jammed(self, csi: Complex) -> bool:
        """See `looked`."""
        energy_db, correlation = looked(csi)
        return energy_db > self.thresholds.energy_db and correlation < self.thresholds.correlation


def learn(clean: Array, jammed: Array, false_alarms: float) -> Thresholds:
    """Find the pair that finds most jams with at most this share of false alarms. `clean`, `jammed`: looks [n, 2]."""
    best = Thresholds(float("inf"), 0.0, false_alarms), -1.0
    most = int(false_alarms * len(clean))
    for energy_db in np.quantile(np.concatenate([clean[:, 0], jammed[:, 0]]), np.linspace(0, 1, _ENERGIES)):
        loud = np.sort(clean[clean[:, 0] > energy_db, 1])
        correlation = float(loud[most]) if len(loud) > most else 1.0
        found = float(np.mean((jammed[:, 0] > energy_db) & (jammed[:, 1] < correlation)))
        if found > best[1]:
            best = Thresholds(float(energy_db), correlation, false_alarms), found
    return best[0]


def alarms(looks: Array, thresholds: Thresholds) -> NDArray[np.bool_]:
    """Which of the looks [n, 2] are taken for a jam."""
    found: NDArray[np.bool_] = (looks[:, 0] > thresholds.energy_db) & (looks[:, 1] < thresholds.correlation)
    return found


@cache
def shipped() -> Guard:
    """The guard with thresholds that `airdraft channel guard` has learned."""
    return Guard(msgspec.json.decode((resources.files(__package__) / "guard.json").read_bytes(), type=Thresholds))


def write(path: Path, thresholds: Thresholds) -> None:
    """Write thresholds as JSON. Raises: `BadParameterError` if they cannot be written."""
    with output(path) as file:
        file.write(json.dumps(msgspec.to_builtins(thresholds), indent=1).encode() + b"\n")
