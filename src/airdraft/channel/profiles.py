"""The TDL and CDL profiles of 3GPP TR 38.901, tables 7.7.1 and 7.7.2: delays, powers and angles of what arrives.

A TDL profile is a list of taps. A CDL profile is a list of clusters with angles at both ends. Profiles D and E are in
line of sight: their first row is the direct path, and all others fade.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.values import one_of

TDL = ("TDL-A", "TDL-B", "TDL-C", "TDL-D", "TDL-E")
CDL = ("CDL-A", "CDL-B", "CDL-C", "CDL-D", "CDL-E")
PROFILES = (*TDL, *CDL)

RAY_OFFSETS = np.array([0.0447, 0.1413, 0.2492, 0.3715, 0.5129, 0.6797, 0.8844, 1.1481, 1.5195, 2.1551])
"""Offsets of a cluster's rays from its angle, each of both signs, for a spread of 1 (table 7.5-3)."""


@dataclass(frozen=True)
class Angles:
    """The angles of a CDL profile, in rad: azimuth at base station and device, then zenith at both."""

    centres: NDArray[np.float64]  # [clusters, 4]
    spreads: NDArray[np.float64]  # [4], within a cluster


@dataclass(frozen=True)
class DelayProfile:
    """Rows of a table of TR 38.901. The powers add up to 1."""

    name: str
    los: bool
    """Whether the first row is a direct path."""
    delays: NDArray[np.float64]  # [rows], in delay spreads
    powers: NDArray[np.float64]  # [rows]
    angles: Angles | None
    """None for a TDL profile."""

    def rice(self) -> float:
        """Compute the power of the direct path over that of all others: the Rice factor, 0 without a direct path."""
        return float(self.powers[0] / self.powers[1:].sum()) if self.los else 0.0

    def spread(self) -> float:
        """Compute the root mean square of the delays around their mean, in delay spreads: 1 but for rounding."""
        mean = self.powers @ self.delays
        return float(np.sqrt(self.powers @ (self.delays - mean) ** 2))


@cache
def _tables() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("profiles.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


@cache
def profile(name: str) -> DelayProfile:
    """Return one of `PROFILES` by name. Raises: `BadParameterError` for another name."""
    table = _tables()[one_of("profile", name, PROFILES)]
    rows = np.array(table["rows"])
    powers = 10 ** (rows[:, 1] / 10)
    angles = Angles(np.deg2rad(rows[:, 2:]), np.deg2rad(table["spreads"])) if "spreads" in table else None
    return DelayProfile(name, table["los"], rows[:, 0], powers / powers.sum(), angles)
