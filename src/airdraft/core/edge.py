"""The edge's machine: one connection from a device, and the texts that are written over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from airdraft.core import schemes
from airdraft.core.connection import Connection
from airdraft.core.events import Event, Failed, Finished, Forward
from airdraft.core.messages import VERSION, Close, Error, Hello, Message, Open, ToEdge, Welcome
from airdraft.core.serving import Limits, Session, Target
from airdraft.errors import BadParameterError, RefusedError, RemoteProtocolError

__all__ = ["EdgeMachine", "Limits", "Target"]

SMOOTHING = 0.2
"""Weight of the last forward in the running mean of their time."""


class EdgeMachine(Connection):
    """The edge's end of one connection from a device."""

    def __init__(
        self,
        target: Target,
        limits: Limits,
        now: float,
        verify_s: float = 0.0,
        make: Callable[..., schemes.Scheme] = schemes.make,
    ) -> None:
        """`verify_s`: how long a forward has taken so far, if that is known; devices plan with it. `make` makes the
        schemes, as `schemes.make` does.
        """
        self.make = make
        super().__init__(ToEdge, now, limits.max_frame)
        self.heartbeat_s = limits.heartbeat_s
        self.verify_s = verify_s
        self._target = target
        self._limits = limits
        self._greeted = False
        self._sessions: dict[int, Session] = {}
        self._last_opened = 0
        self.admit: Callable[[], None] | None = None
        """Asked before a text is opened; raises `RefusedError` to refuse it."""

    def text(self, session: int) -> Sequence[int]:
        """Prompt and committed tokens of a session; empty if there is none."""
        return self._sessions[session].text if session in self._sessions else ()

    def latest(self, forward: Forward) -> Forward:
        """Asked for when a forward's turn has come: what to run in its place, now that more drafts may be here."""
        session = self._sessions.get(forward.session)
        return session.latest(forward) if session else forward

    def forwarded(self, session: int, logits: np.ndarray, now: float) -> list[Event]:
        """Told: the logits that a `Forward` asked for, [rows, vocab]. Ignored when the session is gone.

        Columns beyond the vocabulary, padding that some models score, are left out.
        """
        self._now = now
        if session not in self._sessions:
            return []
        try:
            return self._sessions[session].forwarded(logits)
        except RemoteProtocolError as error:  # in a draft that had come before the prefill was done
            return self.failed(session, error.code, str(error))

    def failed(self, session: int, code: str, message: str) -> list[Event]:
        """Told: a `Forward` cannot be run. Ends that session only."""
        if self._sessions.pop(session, None) is None:
            return []
        self._send(Error(session, code, message))
        return [Failed(session, code, message, ours=True)]

    def _own_verify_s(self) -> float:
        return self.verify_s

    def _took(self, seconds: float) -> None:
        """A forward with rows took so long, from the moment it was asked for."""
        known = self.verify_s
        self.verify_s = seconds if known == 0 else known + SMOOTHING * (seconds - known)

    def _handle(self, message: Message, now: float) -> Iterable[Event]:
        if isinstance(message, Error):
            if message.session is None:
                self.closed = True
                return [Failed(None, message.code, message.message, ours=False)]
            return [Finished(message.session, "refused")] if self._sessions.pop(message.session, None) else []
        if isinstance(message, Hello):
            return self._greet(message)
        if not self._greeted:
            raise RemoteProtocolError("state", f"{type(message).__name__} arrived before Hello")
        if isinstance(message, Open):
            return self._open(message)
        number: int = message.session  # type: ignore[attr-defined]
        if isinstance(message, Close):
            return [Finished(number, message.reason)] if self._sessions.pop(number, None) else []
        session = self._sessions.get(number)
        if session is None:  # what was in flight when the session was refused or failed
            return []
        try:
            return session.handle(message)
        except RemoteProtocolError as error:
            return self.failed(number, error.code, str(error))
        except BadParameterError as error:  # in a switch
            return self.failed(number, "scheme", str(error))

    def _greet(self, hello: Hello) -> list[Event]:
        target, limits = self._target, self._limits
        if self._greeted:
            raise RemoteProtocolError("state", "a second Hello arrived")
        if hello.version != VERSION:
            raise RemoteProtocolError(
                "version", f"the device speaks protocol version {hello.version}, this edge {VERSION}; upgrade the older"
            )
        if (hello.tokenizer, hello.vocab_size) != (target.tokenizer, target.vocab_size):
            raise RemoteProtocolError(
                "vocabulary",
                f"draft model {hello.model} ({hello.vocab_size} tokens) and target {target.model} ({target.vocab_size} "
                "tokens) do not share one vocabulary; pick a draft with the target's own tokenizer",
            )
        self._greeted = True
        self._send(
            Welcome(
                VERSION,
                target.software,
                target.model,
                target.max_context,
                limits.max_frame,
                limits.max_draft,
                limits.max_sessions,
                limits.heartbeat_s,
                target.eos_ids,
                self.verify_s,
            )
        )
        return []

    def _open(self, message: Open) -> list[Event]:
        number = message.session
        # A number used again could be handed the forward that its first owner asked for.
        if number <= self._last_opened:
            raise RemoteProtocolError("state", f"session {number} came after {self._last_opened}; numbers must rise")
        self._last_opened = number
        if len(self._sessions) >= self._limits.max_sessions:
            self._send(Error(number, "busy", f"{len(self._sessions)} sessions are open on this connection; close one"))
            return []
        try:
            if self.admit is not None:
                self.admit()
            session = Session(self, message, self._target, self._limits)
        except BadParameterError as error:
            self._send(Error(number, "scheme", str(error)))
            return []
        except (RefusedError, RemoteProtocolError) as error:
            self._send(Error(number, error.code, str(error)))
            return []
        self._sessions[number] = session
        return session.opened()
