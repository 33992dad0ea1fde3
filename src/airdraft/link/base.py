"""A link: two pipes, and what every pipe does with the bytes that are put on it.

Links are pure arithmetic. Time is an argument, in seconds of any clock, so the real-time relay and the virtual-time
simulation share every model.
"""

from __future__ import annotations

import math
from typing import Protocol

from airdraft.errors import BadParameterError

PACKET_BYTES = 1460
"""Most payload in one packet: Ethernet's 1500 bytes without the TCP and IPv4 headers."""
HEADER_BYTES = 40
"""Size of the TCP and IPv4 headers without options."""


class Pipe(Protocol):
    """One direction of a link, reliable and in order. All traffic shares it, first come, first served.

    Changes in a pipe (rates, fading, outages) run on its own time, which begins with the first call of `send`. A pipe
    is deterministic: the same link and the same calls give the same arrivals.
    """

    @property
    def payload_bytes(self) -> int:
        """Bytes put on the link so far."""

    @property
    def sent_bytes(self) -> int:
        """The same with the headers of their packets: the bytes that the link has carried."""

    @property
    def free_at_s(self) -> float:
        """The time at which the last of them leaves the sender; minus infinity before the first call."""

    def send(self, now: float, nbytes: int) -> float:
        """Put `nbytes` on the link at time `now`. Returns the arrival time of the last byte; both in s.

        Every call starts a packet. `now` must not fall from call to call, and arrivals never do. 0 bytes cost
        nothing and arrive after all earlier bytes.
        """


class LinkModel(Protocol):
    """A link: parameters, a seed if anything is drawn, and as many pipes as asked for, each fresh and idle."""

    def uplink(self) -> Pipe:
        """A pipe from device to edge."""

    def downlink(self) -> Pipe:
        """A pipe from edge to device."""


def wire_bytes(nbytes: int, header_bytes: int) -> int:
    """Return the size of `nbytes` of payload with the headers of its packets."""
    return nbytes + header_bytes * -(-nbytes // PACKET_BYTES)


def check_range(name: str, value: float, least: float, most: float, what: str) -> None:
    """Refuse a parameter outside least..most, or NaN. Raises: `BadParameterError`, which asks for `what`."""
    if not least <= value <= most:
        raise BadParameterError(f"{name} is {value}: give {what}")


def check_rate(name: str, rate_bps: float) -> None:
    """Refuse a rate that never delivers. Raises: `BadParameterError`."""
    if not rate_bps > 0:  # NaN too
        raise BadParameterError(f"{name} is {rate_bps}: give a rate above 0 in bits per second, or inf for no limit")


def check_fixed(rtt_s: float, header_bytes: int) -> None:
    """Refuse a round trip or a header that no link can have. Raises: `BadParameterError`."""
    if not 0 <= rtt_s < math.inf:
        raise BadParameterError(f"rtt_s is {rtt_s}: give a finite round trip of 0 seconds or more")
    check_range("header_bytes", header_bytes, 0, 1 << 16, "the bytes of a packet's headers, 0 or more")


def check_seed(seed: int) -> None:
    """Refuse a seed that numpy's generators cannot take. Raises: `BadParameterError`."""
    if seed < 0:
        raise BadParameterError(f"seed is {seed}: give 0 or more")
