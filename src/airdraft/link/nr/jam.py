"""A jammer: noise over the whole band that comes and goes, heard alike by base station and device.

It begins at random and lasts an exponential time, as outages do. An outage takes the signal away, a jam buries it.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np

_KEPT = 64
"""Latest jams that are known: far more than a link looks back."""


class Jammer:
    """When there is a jam, drawn as time goes on."""

    def __init__(self, interval_s: float, jam_s: float, power_db: float, rng: np.random.Generator) -> None:
        """`interval_s`: mean time from one jam to the next; inf: none. `power_db`: over the receiver's noise."""
        self._interval_s, self._jam_s, self._power, self._rng = interval_s, jam_s, 10 ** (power_db / 10), rng
        self._turns = [math.inf if interval_s == math.inf else float(rng.exponential(interval_s))]  # on, off, on...

    def power(self, time_s: float) -> float:
        """Return its power in multiples of the noise's. It may not be asked of times long before the latest."""
        while self._turns[-1] <= time_s:
            mean_s = self._jam_s if len(self._turns) % 2 else self._interval_s
            self._turns.append(self._turns[-1] + float(self._rng.exponential(mean_s)))
            if len(self._turns) > 2 * _KEPT:
                del self._turns[:_KEPT]
        return self._power if bisect_right(self._turns, time_s) % 2 else 0.0

    def rise_db(self, time_s: float) -> float:
        """Return by how much it raises the noise."""
        return 10 * math.log10(1 + self.power(time_s))
