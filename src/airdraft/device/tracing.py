"""Traces of the texts that are written over one connection, as the device sees them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from airdraft.core.device import DeviceMachine
from airdraft.core.events import Begun, Event, Failed, Finished, Forward
from airdraft.scheduler import Call
from airdraft.telemetry.trace import TextTrace, Traces
from airdraft.transport import Onlooker


class Tracing(Onlooker):
    """The traces of one connection. It is shown events, and calls of the draft model."""

    def __init__(self, traces: Traces, edge: str, machine: DeviceMachine, clock: Callable[[], float]) -> None:
        """`edge`: its URL."""
        self._traces, self._edge, self._machine, self._clock = traces, edge, machine, clock
        self._texts: dict[int, TextTrace] = {}

    def call(self, session: int, call: Call) -> None:
        """Write down that the draft model has run for a text."""
        if (trace := self._texts.get(session)) is not None:
            trace.call(self._clock(), call.seconds, call.texts, call.tokens)

    def rows(self, forward: Forward, logits: np.ndarray) -> None:
        """Take the rows that the draft model gave for a text."""
        if (trace := self._texts.get(forward.session)) is not None:
            trace.rows(forward, logits)

    def event(self, event: Event) -> None:
        """Write down an event that is no forward."""
        now, number = self._clock(), getattr(event, "session", None)
        if isinstance(event, Begun):
            self._texts[event.session] = self._traces.open(event, now, session=event.session, edge=self._edge)
        elif number is not None and (trace := self._texts.get(number)) is not None:
            trace.event(event, now, self._machine.text(number))
            if isinstance(event, Finished | Failed):
                self._end(number)
        elif isinstance(event, Failed) and number is None:
            for each in list(self._texts):
                self._texts[each].note("lost", now)
                self._end(each)

    def left(self, session: int) -> None:
        """End the trace of a text that nobody reads any more, or that somebody has read whole."""
        if (trace := self._texts.get(session)) is not None:
            trace.note("finished", self._clock(), reason="cancelled")
            self._end(session)

    def _end(self, session: int) -> None:
        self._texts.pop(session).close()
