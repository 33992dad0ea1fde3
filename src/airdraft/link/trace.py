"""`trace`: a link that repeats rates and round trips from a file. docs/links.md describes the formats.

A value lasts from its time until the next one's, and the last as long as the one before it. The uplink, the downlink
and the round trip each have their own clock, and each repeats, or keeps its last value, at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from airdraft.errors import BadParameterError
from airdraft.link.base import HEADER_BYTES, check_fixed, check_rate
from airdraft.link.pipe import Chunk, RatePipe, Steps, constant

DOWNLINK_BPS = 100e6
"""Downlink of a trace that has none."""
RTT_S = 0.02
"""Round trip of a trace that has none."""
_LEAST_BPS = 1.0
"""A slower rate is an outage: a trace with no other would never deliver."""


@dataclass(frozen=True)
class Series:
    """A series of values, each of which lasts for a while."""

    ends_s: tuple[float, ...]
    """The time at which each value ends, in s after the first begins: above 0 and rising."""
    values: tuple[float, ...]

    def steps(self, repeat: bool, scale: float = 1.0) -> Steps:
        """`scale` times the values over time: again and again if `repeat`, else the last for ever."""
        values = [scale * value for value in self.values]

        def chunks() -> Iterator[Chunk]:
            if not repeat:
                yield [*self.ends_s[:-1], math.inf], values
                return
            for turn in count():
                yield [turn * self.ends_s[-1] + end_s for end_s in self.ends_s], values

        return Steps(chunks())


@dataclass(frozen=True)
class TraceRun:
    """One measured run. None marks a series that was not measured."""

    name: str
    uplink_bps: Series
    downlink_bps: Series | None = None
    rtt_s: Series | None = None


@dataclass(frozen=True)
class TraceLink:
    """A link that follows a run of a trace. Raises: `BadParameterError`."""

    run: TraceRun
    downlink_bps: float | None = None
    """A rate in place of the trace's. None keeps the trace's, or is 100 Mbit/s if it has none."""
    rtt_s: float | None = None
    """A round trip in place of the trace's. None keeps the trace's, or is 20 ms if it has none."""
    header_bytes: int = HEADER_BYTES
    repeat: bool = True
    """Whether the trace starts again at its end; else its last values stay."""

    def __post_init__(self) -> None:
        if self.downlink_bps is not None:
            check_rate("downlink_bps", self.downlink_bps)
        check_fixed(0.0 if self.rtt_s is None else self.rtt_s, self.header_bytes)
        for rates in filter(None, (self.run.uplink_bps, self.run.downlink_bps)):
            if max(rates.values) < _LEAST_BPS:
                raise BadParameterError(
                    f"{self.run.name} has no rate of 1 bit/s or more: give one at which bytes arrive"
                )
            if not self.repeat and rates.values[-1] < _LEAST_BPS:
                raise BadParameterError(f"{self.run.name} ends with a rate of 0 that would hold for ever: repeat it")

    def uplink(self) -> RatePipe:
        """Make an idle pipe from device to edge, at the beginning of the trace."""
        return self._pipe(self.run.uplink_bps.steps(self.repeat))

    def downlink(self) -> RatePipe:
        """Make an idle pipe from edge to device, at the beginning of the trace."""
        if self.downlink_bps is None and self.run.downlink_bps is not None:
            return self._pipe(self.run.downlink_bps.steps(self.repeat))
        return self._pipe(constant(DOWNLINK_BPS if self.downlink_bps is None else self.downlink_bps))

    def _pipe(self, rate_bps: Steps) -> RatePipe:
        if self.rtt_s is None and self.run.rtt_s is not None:
            delay_s = self.run.rtt_s.steps(self.repeat, scale=0.5)
        else:
            delay_s = constant((RTT_S if self.rtt_s is None else self.rtt_s) / 2)
        return RatePipe(rate_bps, delay_s, self.header_bytes)
