"""The times of slots in a repeating TDD pattern, one letter a slot (D downlink, S special, U uplink)."""

from __future__ import annotations

import math
import re
from bisect import bisect_left

from airdraft.errors import BadParameterError

SLOT_S = 0.5e-3
"""Length of a slot at 30 kHz subcarrier spacing, in seconds."""


class Slots:
    """The slots of one direction. A special slot belongs to neither."""

    def __init__(self, pattern: str, direction: str) -> None:
        """`pattern` is FDD or letters such as DDDSU, `direction` D or U. Raises: `BadParameterError`."""
        letters = direction if pattern == "FDD" else pattern
        if not re.fullmatch("[DSU]+", letters) or direction not in letters:
            raise BadParameterError(
                f"tdd is {pattern!r}: give FDD, or slots such as DDDSU with both D and U among them"
            )
        self._period = len(letters)
        self._slots = [slot for slot, letter in enumerate(letters) if letter == direction]

    def next_s(self, time_s: float) -> float:
        """Return the start of the first slot at or after `time_s`, both in s from the start of a period."""
        slot = math.ceil(time_s / SLOT_S - 1e-6)  # the start of a slot maps to itself despite rounding
        periods, inside = divmod(slot, self._period)
        at = bisect_left(self._slots, inside)
        if at == len(self._slots):
            periods, at = periods + 1, 0
        return (periods * self._period + self._slots[at]) * SLOT_S
