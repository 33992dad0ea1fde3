"""Observation of texts at the edge, for quotas, metrics, logs and traces, and to find idle ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from airdraft.core.events import Begun, Declined, Echo, Event, Failed, Finished, Forward, Offered, Progress
from airdraft.edge.access import Tenant
from airdraft.scheduler import Call
from airdraft.telemetry.logs import fields
from airdraft.telemetry.metrics import Metrics
from airdraft.telemetry.trace import TextTrace, Traces
from airdraft.transport import Onlooker

_log = logging.getLogger(__name__)


MOST_FAULTS = 20
"""Faults of texts that are logged for one connection or client: a peer can make thousands a second."""


@dataclass(eq=False)
class Watched:
    """A text in progress."""

    opened_s: float
    progress_s: float
    """Time of its opening or last commit."""
    trace: TextTrace | None
    first_s: float | None = None
    committed: int = 0


class Watch(Onlooker):
    """Watches the texts of one connection or API client, through events and calls of the engine."""

    def __init__(
        self,
        text: Callable[[int], Sequence[int]],
        peer: str,
        tenant: Tenant,
        metrics: Metrics,
        traces: Traces | None,
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            text: returns a session's prompt and committed tokens.
            clock: the machine's clock, in seconds.
        """
        self.texts: dict[int, Watched] = {}
        self.reserved = 0
        """Places of the tenant's that texts have taken which have not begun."""
        self.rested_s = clock()
        """Time when the last text ended, or the connection began."""
        self._faults = 0
        self._text, self._peer, self._tenant = text, peer, tenant
        self._metrics, self._traces, self._clock = metrics, traces, clock

    def _begun(self, event: Begun, now: float) -> None:
        trace = None
        if self._traces is not None:
            trace = self._traces.open(event, now, session=event.session, peer=self._peer, tenant=self._tenant.name)
        text = self.texts[event.session] = Watched(now, now, trace)
        self._tenant.texts[text] = lambda: self._text(event.session)[: event.private]
        self.reserved -= 1

    def _progressed(self, text: Watched, event: Progress, now: float) -> None:
        metrics, count = self._metrics, event.accepted + event.written
        metrics.rounds.inc()
        metrics.committed.inc(count)
        if event.raced:
            metrics.raced.inc(event.written)
        if event.proposed:
            metrics.proposed.labels(event.proposer).inc(event.proposed)
            metrics.taken.labels(event.proposer).inc(event.taken)
        if event.verified:
            metrics.verified.inc(event.verified)
            metrics.accepted.inc(event.accepted)
        if text.first_s is None:
            text.first_s = now
            metrics.first_s.observe(now - text.opened_s)
        else:
            text.committed += count
        text.progress_s = now

    def call(self, session: int, call: Call) -> None:
        """Note a call that the engine ran for a text."""
        text = self.texts.get(session)
        if text is not None and text.trace is not None:
            text.trace.call(self._clock(), call.seconds, call.texts, call.tokens)

    def latest(self, forward: Forward) -> Forward:
        """See `Onlooker.latest`: a page shows chances."""
        text = self.texts.get(forward.session)
        looks = text is not None and text.trace is not None and text.trace.looks
        if not looks or (needs := forward.needs) is None or (needs.at.guide and needs.at.guide.needed is not None):
            return forward  # of an engine that tells some tokens, those that the guide needs must still be asked for
        return replace(forward, needs=None)

    def rows(self, forward: Forward, logits: np.ndarray) -> None:
        """Take the rows that the target gave for a text."""
        text = self.texts.get(forward.session)
        if text is not None and text.trace is not None:
            text.trace.rows(forward, logits)

    def event(self, event: Event) -> None:
        """Note an event of the machine, other than a forward."""
        now = self._clock()
        if isinstance(event, Begun):
            self._begun(event, now)
        elif (isinstance(event, Failed) and event.ours) or isinstance(event, Declined):
            self._metrics.refused.labels(event.code).inc()
        elif isinstance(event, Offered):
            self._metrics.drafted.inc(event.drafted)
        elif isinstance(event, Progress) and (text := self.texts.get(event.session)) is not None:
            self._progressed(text, event, now)
        number = getattr(event, "session", None)
        if number in self.texts and (trace := self.texts[number].trace) is not None:
            trace.event(event, now, self._text(number))
        if isinstance(event, Echo):
            self._metrics.rtt_s.observe(event.seconds)
        elif isinstance(event, Finished):
            self._end(event.session, "finished")
        elif isinstance(event, Failed):
            what = "the connection" if event.session is None else f"session {event.session}"
            about = fields(session=event.session, tenant=self._tenant.name, peer=self._peer, code=event.code)
            self._faults += 1
            if self._faults <= MOST_FAULTS or event.session is None:
                more = "; further faults of its texts are not logged" if self._faults == MOST_FAULTS else ""
                said = (what, self._peer, self._tenant.name, event.code, event.message, more)
                _log.warning("%s of %s (%s) ended: %s: %s%s", *said, extra=about)
            if event.session is not None:
                self._end(event.session, "failed")

    def idle(self, since: float) -> Iterator[int]:
        """Yield the texts without progress since the time `since`."""
        return (number for number, text in self.texts.items() if text.progress_s < since)

    def close(self) -> None:
        """Note the end of the connection, and of its texts."""
        for number in list(self.texts):
            self._end(number, "lost")
        self._tenant.sessions -= self.reserved
        self.reserved = 0

    def _end(self, number: int, how: str) -> None:
        text = self.texts.pop(number, None)
        if text is None:
            return
        now = self._clock()
        self.rested_s = now
        self._tenant.sessions -= 1
        self._metrics.ended.labels(how).inc()
        if text.first_s is not None and text.committed:
            self._metrics.token_s.observe((text.progress_s - text.first_s) / text.committed)
        if text.trace is not None:
            if how == "lost":
                text.trace.note("lost", now)
            text.trace.close()
        about = fields(
            session=number, tenant=self._tenant.name, peer=self._peer, how=how, seconds=round(now - text.opened_s, 3)
        )
        _log.info("session %d of %s (%s) %s", number, self._peer, self._tenant.name, how, extra=about)
