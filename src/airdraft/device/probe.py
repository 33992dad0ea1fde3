"""What a link and an edge are like, before a text is written over them: pings, small ones and ever longer ones."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

from airdraft.core.events import Echo

SMALL = 5
"""Pings without filler: from them the round trip, and how far it varies."""
FIRST_BYTES = 1 << 10
GROWTH = 8
"""Filler of the first longer ping, and by how much each is longer than the one before."""
REPEATS = 3
"""Pings of the last size."""
ENOUGH_S = 0.05
"""A ping that takes so much longer than a small one tells the rate."""
BUDGET_S = 0.5
"""Time after which nothing more is begun: for the small pings, for the way up, and for the way down."""
NOISE_S = 2e-4
"""What takes less than so much longer is as fast as anything can be told apart."""


@dataclass(frozen=True)
class Probe:
    """What was measured."""

    rtt_s: float
    """Round trip of a message of some twenty bytes: the median."""
    uplink_bps: float
    """Bits of ours a second, device to edge; inf where the longest ping took no longer than a small one."""
    downlink_bps: float
    verify_s: float
    """A forward of the target, waiting for its turn included, as the edge says."""


async def measure(ask: Callable[[int, int], Awaitable[Echo]], max_up: int, max_down: int) -> tuple[float, float, float]:
    """Measure RTT in seconds, uplink and downlink rate in bits a second; about a second, or a dozen round trips.

    `ask(filler, want)` pings with so many bytes of filler, up to `max_up` on the way up and `max_down` on the way down,
    one at a time: pings that wait for each other would measure each other.
    """
    began, small = time.monotonic(), [(await ask(0, 0)).seconds]
    while len(small) < SMALL and time.monotonic() < began + BUDGET_S:
        small.append((await ask(0, 0)).seconds)
    rtt_s, spread_s = median(small), max(small) - min(small)
    up_bps = await _rate_bps(lambda nbytes: ask(nbytes, 0), max_up, rtt_s, spread_s)
    down_bps = await _rate_bps(lambda nbytes: ask(0, nbytes), max_down, rtt_s, spread_s)
    return rtt_s, up_bps, down_bps


async def _rate_bps(ask: Callable[[int], Awaitable[Echo]], most: int, rtt_s: float, spread_s: float) -> float:
    began, nbytes = time.monotonic(), min(FIRST_BYTES, most)
    enough_s = max(ENOUGH_S, 4 * spread_s)
    longer = [(await ask(nbytes)).seconds - rtt_s]
    while longer[0] < enough_s and nbytes < most and time.monotonic() < began + BUDGET_S:
        nbytes = min(GROWTH * nbytes, most)
        longer = [(await ask(nbytes)).seconds - rtt_s]
    while len(longer) < REPEATS and time.monotonic() < began + BUDGET_S:
        longer.append((await ask(nbytes)).seconds - rtt_s)
    # Both ways a few bytes of frame travel as well; the small pings had them, too.
    return 8 * nbytes / median(longer) if median(longer) > max(NOISE_S, spread_s) else math.inf
