"""Traces of the texts that are written over one connection, as the device sees them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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
            if isinstance(event, Finished):
                self._measured(trace, now)
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
            now = self._clock()
            self._measured(trace, now)
            trace.note("finished", now, reason="cancelled")
            self._end(session)

    def _measured(self, trace: TextTrace, now: float) -> None:
        """Write down what is known of the link at a text's end; a rate only if a limit has shown."""
        facts = self._machine.learner.facts()
        found = {
            "device_rtt_seconds": facts.rtt_s,
            "device_uplink_bits_per_second": facts.uplink_bps,
            "device_downlink_bits_per_second": facts.downlink_bps,
        }
        known: dict[str, Any] = {name: round(value, 6) for name, value in found.items() if math.isfinite(value)}
        trace.note("readings", now, **known)

    def _end(self, session: int) -> None:
        self._texts.pop(session).close()
