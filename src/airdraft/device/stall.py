"""Patience with an edge that answers pings and writes nothing.

Silence may be the link's, so the edge is asked twice. The answer to a ping that was sent after the edge came to owe a
commit shows that it has all it needs: nothing overtakes on a connection. The answer to a ping that was sent when the
commit was overdue shows that the link carried whatever the edge had to say. A device that was asleep, a slow uplink and
an outage thus make no edge look idle.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

from airdraft.core.device import DeviceMachine
from airdraft.core.events import Committed, Echo, Event, Failed, Taken
from airdraft.errors import Code

STALL_S = 10.0
"""Seconds of patience, unless the edge or the text is slow."""
FORWARDS = 20
"""Forwards that a commit may take: a busy edge's are slower than the last ones were."""
TOKEN_S = 0.1
"""Seconds that an edge may take to read a token, while it has not said how long its forwards take."""
MOST = 30
"""Patience is bounded, in multiples of the least: how long its forwards take is what the edge says of itself."""
LOOKS = 8
"""Looks in the time of the least patience."""


@dataclass
class _Owed:
    """A commit that is due, since some time."""

    since_s: float
    met_s: float | None = None
    """When the edge had all it needs."""


class Debts:
    """What an edge owes the texts of one connection."""

    def __init__(
        self,
        machine: DeviceMachine,
        stall_s: float | None,
        texts: Collection[int],
        ping: Callable[[], None],
        failed: Callable[[Failed], None],
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            stall_s: the least patience; 0 or None: for ever.
            texts: the sessions that are read now.
            ping: sends a ping.
            failed: is told of a session that the edge does not go on with.
        """
        self._machine, self._stall_s, self._texts = machine, stall_s or math.inf, texts
        self._ping, self._failed, self._clock = ping, failed, clock
        self._owed: dict[int, _Owed] = {}
        self._pinged_s = clock()

    def allowed_s(self, session: int) -> float:
        """Return the seconds that the edge may take for the next commit of a text.

        It may have to read all of the text first, again if it took the cache away. No engine takes longer for a token
        among many than for a forward of one, and the edge's figure includes the wait for turns and quotas.
        """
        known_s, length = self._machine.verify_s, len(self._machine.text(session))
        slow_s = (length + FORWARDS) * known_s if known_s else length * TOKEN_S
        return min(self._stall_s + slow_s, MOST * self._stall_s)

    def paid(self, session: int) -> None:
        """Note that the edge went on with a text, or that nobody reads it any more."""
        self._owed.pop(session, None)

    def event(self, event: Event) -> None:
        """Note an event of the machine, other than a forward."""
        if isinstance(event, Committed | Taken):
            self.paid(event.session)
        elif isinstance(event, Echo):
            self._answered(event.seconds)

    def _answered(self, seconds: float) -> None:
        """Note the answer to a ping that took so long."""
        now = self._clock()
        for session, owed in list(self._owed.items()):
            allowed_s = self.allowed_s(session)
            if owed.met_s is None:
                owed.met_s = now if now - seconds >= owed.since_s else None
            elif now - seconds >= owed.met_s + allowed_s:
                self.paid(session)
                what = f"answers, and has not gone on with the text for {allowed_s:.0f} s"
                self._failed(Failed(session, Code.STALLED, what, ours=True))

    async def watch(self) -> None:
        """Look now and then, and ask, as long as the connection lasts."""
        pause_s = self._stall_s / LOOKS
        while pause_s < math.inf:
            await asyncio.sleep(pause_s)
            now = self._clock()
            self._owed = {
                session: self._owed.get(session) or _Owed(now) for session in self._texts if self._machine.owes(session)
            }
            overdue = any(
                now >= owed.since_s + 2 * pause_s if owed.met_s is None else now >= owed.met_s + self.allowed_s(session)
                for session, owed in self._owed.items()
            )
            if overdue and now >= self._pinged_s + 2 * pause_s and not self._machine.closed:
                self._pinged_s = now
                self._ping()
