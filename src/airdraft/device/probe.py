"""Measurements of a link and an edge before a text is written: pings, small ones and ever longer ones."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

from airdraft.core.events import Echo, Failed
from airdraft.errors import AirdraftError, LinkError

PING_BYTES = 64
"""Upper bound of what a ping takes besides its filler."""
PINGS = 3
"""Pings of one look at the round trip. The fastest counts: the others may have waited behind something else."""
SMALL = 5
"""Pings without filler. They give the round trip, and how much it varies."""
FIRST_BYTES = 1 << 10
"""Filler of the first longer ping."""
GROWTH = 8
"""Factor by which each longer ping exceeds the one before."""
REPEATS = 3
"""Pings of the last size."""
ENOUGH_S = 0.05
"""Time beyond a small ping's after which a longer one gives the rate."""
BUDGET_S = 0.5
"""Time after which no further ping is begun: for the small ones, for the way up, and for the way down."""
PATIENCE_S = 30.0
"""Time for the answer to one ping. One of eight times the bytes of a ping that took `ENOUGH_S` takes less."""
NOISE_S = 2e-4
"""Smallest difference in time that means anything. A link that differs by less is as fast as can be measured."""


@dataclass(frozen=True)
class Probe:
    """The results of one measurement."""

    rtt_s: float
    """Median round trip of a message of some twenty bytes."""
    uplink_bps: float
    """Payload bits a second from device to edge; inf if the longest ping took no longer than a small one."""
    downlink_bps: float
    verify_s: float
    """A forward of the target, waiting for its turn included, as the edge reports it."""


class Pinger:
    """Sends pings on request and waits for their answers. Heartbeats, which the machine sends by itself, pass by."""

    def __init__(self, send: Callable[[int, int], None], error: Callable[[Failed], AirdraftError]) -> None:
        """`send` sends a ping of so much filler that wants so much back; `error` says why none will be answered."""
        self.turn = asyncio.Lock()
        """Hold it while pinging: pings that wait for each other would measure each other."""
        self._send, self._error = send, error
        self._answers: asyncio.Queue[Echo | Failed] = asyncio.Queue()

    def take(self, event: Echo | Failed) -> None:
        """Take an answer to some ping, or the end of the connection."""
        if self.turn.locked() or isinstance(event, Failed):
            self._answers.put_nowait(event)

    async def ask(self, filler: int, want: int) -> Echo:
        """Send one ping and return its answer. Raises: what `error` makes of the connection's end, `LinkError`."""
        while not self._answers.empty():  # those of heartbeats
            self._answers.get_nowait()
        self._send(filler, want)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    event = await self._answers.get()
                    if isinstance(event, Failed):
                        raise self._error(event)
                    if 0 < event.bytes_out - filler <= PING_BYTES and 0 < event.bytes_in - want <= PING_BYTES:
                        return event  # any other answers a heartbeat
        except TimeoutError:
            raise LinkError(
                f"the edge did not answer a ping of {filler} bytes with {want} within {PATIENCE_S:g} s, so the link "
                "cannot be measured; try again when it is less busy"
            ) from None

    async def round_trip_s(self) -> float:
        """Return the fastest round trip of a few small pings, in seconds."""
        async with self.turn:
            return min([(await self.ask(0, 0)).seconds for _ in range(PINGS)])


async def measure(ask: Callable[[int, int], Awaitable[Echo]], max_up: int, max_down: int) -> tuple[float, float, float]:
    """Measure round trip in seconds, uplink and downlink in bits a second. Takes a second, or a dozen round trips.

    `ask(filler, want)` sends one ping with `filler` bytes, up to `max_up`, and wants `want` back, up to `max_down`.
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
    # The few bytes of the frame are not counted: the small pings had them, too.
    return 8 * nbytes / median(longer) if median(longer) > max(NOISE_S, spread_s) else math.inf
