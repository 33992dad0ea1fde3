"""A pipe with a rate and a delay. Bytes leave one after another at the rate, and then spend the delay in the air.

Both may change in steps. The rate is integrated exactly: bits sent at s have left at the earliest t with
∫ rate over [s, t] = bits, over any number of steps. A rate of 0 is an outage, in which bytes wait.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import count
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from airdraft.link.base import wire_bytes

Chunk: TypeAlias = tuple[list[float], list[float]]
"""Rising end times of steps in s from the start, and the value of each step. The next chunk begins where this ends."""

_BLOCKS = 1024
"""Blocks that are drawn at once."""


class Steps:
    """A value that changes in steps, and is read forwards in time."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._ends_s, self._values = next(chunks)
        self._at = 0
        self.value = self._values[0]
        self.end_s = self._ends_s[0]
        """The time at which `value` ends."""

    def seek(self, time_s: float) -> None:
        """Go to the step that contains `time_s`, which must not fall from call to call."""
        if time_s < self.end_s:
            return
        at = self._at + 1
        while time_s >= self._ends_s[-1]:
            self._ends_s, self._values = next(self._chunks)
            at = 0
        self._at = bisect_right(self._ends_s, time_s, at)
        self.value = self._values[self._at]
        self.end_s = self._ends_s[self._at]


def constant(value: float) -> Steps:
    """Make a value that never changes."""
    return Steps(iter([([math.inf], [value])]))


def blocks(draw: Callable[[int], NDArray[np.float64]], block_s: float) -> Steps:
    """Make blocks of equal length, drawn when first needed: `draw(n)` gives the values of the next n, [n]."""

    def chunks() -> Iterator[Chunk]:
        for first in count(1, _BLOCKS):
            ends_s = block_s * np.arange(first, first + _BLOCKS)
            yield ends_s.tolist(), draw(_BLOCKS).tolist()

    return Steps(chunks())


class RatePipe:
    """A `Pipe` with a rate in bit/s and a delay in s. The rate may be 0 for a while, but not for ever."""

    def __init__(self, rate_bps: Steps, delay_s: Steps, header_bytes: int) -> None:
        self._rate_bps = rate_bps
        self._delay_s = delay_s
        self._header_bytes = header_bytes
        self._start_s = -math.inf
        self._arrival_s = -math.inf
        self.payload_bytes = 0
        self.sent_bytes = 0
        self.free_at_s = -math.inf

    def send(self, now: float, nbytes: int) -> float:
        """See `airdraft.link.base.Pipe.send`."""
        if self._start_s == -math.inf:
            self._start_s = now
        on_wire = wire_bytes(nbytes, self._header_bytes)
        self.payload_bytes += nbytes
        self.sent_bytes += on_wire
        bits = 8.0 * on_wire
        rate = self._rate_bps
        at = max(now, self.free_at_s) - self._start_s
        rate.seek(at)
        while bits > 0 and (rate.value == 0 or at + bits / rate.value > rate.end_s):
            bits -= (rate.end_s - at) * rate.value
            at = rate.end_s
            rate.seek(at)
        if bits > 0:
            at += bits / rate.value
        self.free_at_s = max(now, self._start_s + at)  # the sum may round to just before now
        self._delay_s.seek(at)
        self._arrival_s = max(self._arrival_s, self.free_at_s + self._delay_s.value)
        return self._arrival_s
