"""Traces of the texts that are written over one connection, as the device sees them."""

from __future__ import annotations

from collections.abc import Callable

from airdraft.core.device import DeviceMachine
from airdraft.core.events import Committed, Event, Failed, Finished
from airdraft.core.messages import Close, Error, Message, Open, Opened, Tokens, Verdict
from airdraft.scheduler import Call
from airdraft.telemetry.trace import TextTrace, Traces


class Tracing:
    """The machine shows its messages, the driver its events and calls of the draft model."""

    def __init__(self, traces: Traces, edge: str, machine: DeviceMachine, clock: Callable[[], float]) -> None:
        """`edge`: its URL."""
        self._traces, self._edge, self._machine, self._clock = traces, edge, machine, clock
        self._texts: dict[int, TextTrace] = {}
        machine.tap = self._message

    def _message(self, message: Message, sent: bool) -> None:
        number = getattr(message, "session", None)
        if isinstance(message, Open):
            about = {"session": message.session, "edge": self._edge}
            self._texts[message.session] = self._traces.open(message, self._clock(), **about)
        elif isinstance(message, Tokens | Verdict | Close | Error):
            pass  # what came of them is an event
        elif number is not None and (trace := self._texts.get(number)) is not None:
            text = self._machine.text(number) if isinstance(message, Opened) else ()
            trace.message(message, self._clock(), text)

    def call(self, session: int, call: Call) -> None:
        """The draft model has run for a text."""
        if (trace := self._texts.get(session)) is not None:
            trace.call(self._clock(), call.seconds, call.texts, call.tokens)

    def event(self, event: Event) -> None:
        """Something of the machine's that is no forward."""
        if isinstance(event, Committed):
            if (trace := self._texts.get(event.session)) is not None:
                trace.commit(event.tokens, event.accepted, self._clock())
        elif isinstance(event, Finished):
            self._end(event.session, "finished", reason=event.reason)
        elif isinstance(event, Failed) and event.session is not None:
            self._end(event.session, "failed", code=event.code, message=event.message)
        elif isinstance(event, Failed):
            for number in list(self._texts):
                self._end(number, "lost")

    def left(self, session: int) -> None:
        """Nobody reads the text any more, or somebody has read all of it."""
        self._end(session, "finished", reason="cancelled")

    def _end(self, session: int, event: str, **what: str) -> None:
        if (trace := self._texts.pop(session, None)) is not None:
            trace.note(event, self._clock(), **what)
            trace.close()
