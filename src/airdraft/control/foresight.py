"""The learner that looks ahead: it says when drafts would come too late, because the link is down or soon will be.

A raced stream goes on without drafts, so a device that keeps silent in an outage loses nothing, and spares its battery.
What is known of the link are the packets of drafts: when each left, and when the edge confirmed it.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque

from airdraft.control.estimate import PRIOR, Estimator
from airdraft.control.forecast import STEP_S, Forecaster, LinkSample
from airdraft.core.policy import Facts

LATE = 1.5
"""A confirmation is overdue after the likely longest round trip times this."""
LEAST_LATE_S, FIRST_LATE_S = 0.03, 0.25
"""Least time until it is overdue, and that before a round trip is known."""
HOPELESS = 0.02
"""Chance that a chain of drafts is right for so long that it overtakes the edge, below which drafts are in vain."""
LIKELY_DOWN = 0.5
"""Chance of an outage in the next step from which on drafts are in vain."""
_SESSIONS = 64
_MOST_STEPS = 40
"""Steps that are caught up with: after a longer silence nothing is known of the time in between."""


class Foreseeing(Estimator):
    """An `Estimator` with a forecaster of the link."""

    def __init__(self, forecaster: Forecaster, prior: Facts = PRIOR) -> None:
        super().__init__(prior)
        self._forecaster = forecaster
        self._flying: OrderedDict[int, deque[tuple[int, float]]] = OrderedDict()  # numbers and times of packets
        self._until_s: float | None = None  # end of the last step
        self._rtt_s: float | None = None  # the latest in this step
        self._late_s, self._outage = FIRST_LATE_S, 0.0

    def late(self, session: int, now: float, sent: int, heard: int) -> bool:
        """See `Learner.late`."""
        self._note(session, now, sent, heard)
        return self.down(now)

    def down(self, now: float) -> bool:
        """Whether the link is taken to be down now, or about to be."""
        self._catch_up(now)
        return self._overdue(now) or self._outage >= LIKELY_DOWN

    def _note(self, session: int, now: float, sent: int, heard: int) -> None:
        flying = self._flying.setdefault(session, deque(maxlen=1024))
        self._flying.move_to_end(session)
        if len(self._flying) > _SESSIONS:
            self._flying.popitem(last=False)
        while flying and flying[0][0] <= heard:
            self._rtt_s = now - flying.popleft()[1]
        last = flying[-1][0] if flying else heard
        flying.extend((number, now) for number in range(last + 1, sent + 1))

    def _overdue(self, at_s: float) -> bool:
        return any(flying and at_s - flying[0][1] > self._late_s for flying in self._flying.values())

    def _catch_up(self, now: float) -> None:
        if self._until_s is None or now - self._until_s > _MOST_STEPS * STEP_S:
            self._until_s = now
        while self._until_s + STEP_S <= now:
            self._until_s += STEP_S
            self._forecaster.see(LinkSample(self._overdue(self._until_s), self._rtt_s, at_s=self._until_s))
            self._rtt_s = None
            soonest = self._forecaster.forecast()[0]
            self._outage = soonest.outage
            if soonest.rtt_s:
                self._late_s = max(LEAST_LATE_S, min(LATE * soonest.rtt_s[-1], self._overtaken_s()))

    def _overtaken_s(self) -> float:
        """Seconds after which a packet is of no use, however long others took: the edge has written on too far.

        An edge that writes alone has a token every `verify_s`, and the device drafts one every `draft_s`. So drafts
        that travel for r seconds overtake it after r / (verify_s - draft_s) tokens, if all of them are right.
        """
        facts = self.facts()
        gain_s = facts.verify_s - facts.draft_s
        if gain_s <= 0 or facts.acceptance <= 0:
            return FIRST_LATE_S
        if facts.acceptance >= 1:
            return math.inf
        return max(FIRST_LATE_S / 2, gain_s * math.log(HOPELESS) / math.log(facts.acceptance))
