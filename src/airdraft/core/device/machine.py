"""The device's machine: one connection to an edge, and the texts written over it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from msgspec import structs

from airdraft.core import schemes
from airdraft.core.connection import Machine
from airdraft.core.device.pen import Making, Peer
from airdraft.core.device.session import HEADER_BYTES, DeviceSession
from airdraft.core.device.tree import MOST_BRANCHES
from airdraft.core.drafting import Drafter, ModelDrafter
from airdraft.core.events import Echo, Event, Failed, Finished, Forward, Out, Ready
from airdraft.core.law import Guide
from airdraft.core.messages import (
    VERSION,
    Close,
    Error,
    Hello,
    Message,
    Pong,
    ToDevice,
    Tokens,
    Verdict,
    Welcome,
    clip,
    encode,
)
from airdraft.core.policy import Learner, Policy
from airdraft.core.request import Request
from airdraft.errors import BadParameterError, Code, LocalProtocolError, RemoteProtocolError, too_long

FILLER, MEASURES = 200, 2
"""Bytes of filler in longer pings, and the number of these that a connection begins with."""
PING_S = 2.0
"""Seconds between pings during texts, which keep the estimate of the link fresh."""


class DeviceMachine(Machine):
    """The device's end of one connection to an edge."""

    def __init__(
        self,
        hello: Hello,
        draft_context: int,
        now: float,
        learner: Learner,
        plan: Callable[[Request, int, int], Policy],
        make: Callable[..., schemes.Scheme] = schemes.make,
        drafter: Callable[[], Drafter] = ModelDrafter,
        wide: bool = False,
    ) -> None:
        """
        Args:
            draft_context: most positions that the draft model holds; beyond them the target goes on alone.
            learner: learns the speed of the models and the link.
            plan: see `Making`.
            make: makes the schemes, as `schemes.make` does; the lab replays recorded ones.
            drafter: makes each text's drafter.
            wide: whether the draft model's forwards may have `parents` and `picks`.
        """
        super().__init__(ToDevice, now)
        self.learner = learner
        self._hello = hello = structs.replace(hello, software=clip(hello.software), model=clip(hello.model))
        self._make_of = functools.partial(
            Making, learner=learner, plan=plan, make=make, drafter=drafter, draft_context=draft_context,
            wide=wide,
        )  # fmt: skip
        self._peer: Peer | None = None
        self._sessions: dict[int, DeviceSession] = {}
        self._opened = 0
        self._greeted_s = now
        self._long = False
        self._queued_s: dict[float, float] = {}  # seconds that each unanswered ping waited to leave
        self._to_measure = 0  # number of measuring pings still to send
        self._send(hello)

    @property
    def ready(self) -> bool:
        """Whether the edge has sent its welcome."""
        return self._peer is not None

    def open(self, request: Request, now: float, guide: Guide | None = None) -> tuple[int, list[Event]]:
        """Start a text. Returns its session's number and the first events. `guide`: what `request.guide` says.

        Raises: `BadParameterError` or `GuideError` for what cannot be served, before it sends anything.
        """
        if self._peer is None or self.closed:
            raise LocalProtocolError("open() before the edge's welcome, or after the connection ended")
        welcome, vocab = self._peer.welcome, self._hello.vocab_size
        tokens = [*request.prompt, *request.committed]
        if not request.prompt:
            raise BadParameterError("the prompt is empty; give at least one token", field="prompt")
        for name, ids in (("prompt", tokens), ("prediction", request.prediction)):
            if any(not 0 <= token < vocab for token in ids):
                what = f"the {name} holds an id outside the vocabulary of {vocab}; encode it with this model"
                raise BadParameterError(what, field=name)
            if len(ids) >= welcome.max_context:
                what = too_long(len(ids), welcome.max_context, what=name)
                raise BadParameterError(what, field=name, code=Code.CONTEXT)
        if request.prediction and schemes.traits(request.scheme.name).rounds:
            what = f"a prediction is of no use to {request.scheme.name}; ask for auto, stream or server"
            raise BadParameterError(what, field="prediction")
        if request.max_tokens < 1 or (request.draft_length or 0) < 0:
            field = "max_tokens" if request.max_tokens < 1 else "draft_length"
            raise BadParameterError("max-tokens must be at least 1 and draft-length at least 0", field=field)
        if not 0 <= (request.branches or 0) <= MOST_BRANCHES:
            what = f"branches is {request.branches}; give 0 to {MOST_BRANCHES}, 0 for chains"
            raise BadParameterError(what, field="branches")
        if not 0 <= request.seed < 1 << 63:
            raise BadParameterError(f"seed is {request.seed}; give a whole number from 0 to 2^63 - 1", field="seed")
        if request.private is not None and not (welcome.private and 0 <= request.private < len(request.prompt)):
            what = f"private is {request.private}, no position in a prompt of {len(request.prompt)} tokens; give one"
            no = f"the edge of {welcome.model} takes no private parts, and was sent nothing; mark none, or take another"
            raise BadParameterError(what if welcome.private else no, field="private")
        _check_guide(request, welcome, guide)
        ended = request.committed and request.committed[-1] in welcome.eos_ids
        if ended or len(request.committed) >= request.max_tokens:
            raise BadParameterError("nothing is left to write: the text to be resumed is complete")
        self._now = now
        self._opened += 1
        session = DeviceSession(self._opened, request, self._make_of(self._peer, vocab_size=vocab), now, guide)
        message = session.opening()
        if len(frame := encode(message)) > welcome.max_frame:
            raise BadParameterError(
                f"the prompt{' and its prediction' if request.prediction else ''} takes {len(frame)} bytes, the edge "
                f"takes {welcome.max_frame}; shorten it",
                field="prompt",
            )
        outs, self._sessions[session.number] = session.begin(message, now), session  # if its guide does not give up
        return session.number, self._emit(outs)

    def _emit(self, outs: Iterable[Out]) -> list[Event]:
        """See `Machine._emit`. A session that is over is dropped."""
        events = super()._emit(outs)
        for event in events:
            if isinstance(event, Finished):
                del self._sessions[event.session]
        return events

    @property
    def verify_s(self) -> float:
        """Duration of a target forward in seconds, as the edge reports it; 0 if not known."""
        return 0.0 if self._peer is None else self._peer.verify_s

    def measure(self, now: float) -> None:
        """Send a few longer pings in turn, to learn the uplink's rate before the first text. The link must be idle."""
        self._to_measure = MEASURES - 1
        self.ping(now, FILLER)

    def ping(self, now: float, filler: int = 0, want: int = 0) -> None:
        """See `Machine.ping`."""
        self._queued_s = {t: queued_s for t, queued_s in self._queued_s.items() if t in self._pings}
        self._queued_s[now] = self.learner.queued_s(now)
        super().ping(now, filler, want)

    def take(self) -> bytes:
        """See `Machine.take`."""
        data = super().take()
        if data:
            self.learner.sent(self._now, len(data) + HEADER_BYTES)
        return data

    def text(self, session: int) -> Sequence[int]:
        """Return a session's prompt and committed tokens; empty if there is no such session."""
        return self._sessions[session].text.tokens if session in self._sessions else ()

    def owes(self, session: int) -> bool:
        """Whether the edge must go on with a session, even if the device sends nothing more."""
        return session in self._sessions and self._sessions[session].owes

    def latest(self, forward: Forward) -> Forward:
        """Return the forward to run when its turn comes. The device's never change."""
        return forward

    def forwarded(self, session: int, logits: np.ndarray, now: float) -> list[Event]:
        """Take the logits that a `Forward` asked for, [rows, vocab]."""
        self._now = now
        return self._emit(self._sessions[session].forwarded(logits, now)) if session in self._sessions else []

    def cancel(self, session: int, reason: str = "cancelled") -> None:
        """Give up a text."""
        if self._sessions.pop(session, None):
            self._send(Close(session, reason))

    def failed(self, session: int, code: str, message: str) -> list[Event]:
        """End one session, whose `Forward` cannot run."""
        if session not in self._sessions:
            return []
        self.cancel(session, "failed")
        return [Failed(session, code, message, ours=True)]

    def _filler(self) -> int:
        # Every other ping is longer, so that the rate can be measured.
        self._long = not self._long
        return FILLER if self._is_curious() and self._long else 0

    def _is_curious(self) -> bool:
        return any(session.curious for session in self._sessions.values())

    def _ping_every_s(self) -> float:
        return min(PING_S, self.heartbeat_s) if self._is_curious() else self.heartbeat_s

    def _echoed(self, echo: Echo, pong: Pong) -> Echo:
        # Time spent waiting behind our own drafts says nothing about the link.
        held_s = min(echo.seconds, self._queued_s.pop(pong.t, 0.0))
        self._exchanged(echo.seconds, echo.bytes_out, echo.bytes_in, held_s)
        if self._to_measure:
            self._to_measure -= 1
            self.ping(self._now, FILLER)
        self._verified(pong.verify_s)
        return echo

    def _exchanged(self, seconds: float, up_bytes: int, down_bytes: int, held_s: float) -> None:
        self.learner.exchanged(seconds, up_bytes + HEADER_BYTES, down_bytes + HEADER_BYTES, held_s)

    def _verified(self, seconds: float) -> None:
        """Note the duration of a target forward, if the edge knows it."""
        if seconds and self._peer is not None:
            self._peer.verify_s = seconds
            self.learner.verified(seconds)

    def _handle(self, message: Message, now: float) -> Iterable[Event]:
        if isinstance(message, Error):
            if message.session is None:
                self.closed = True
            elif not self._sessions.pop(message.session, None):
                return []
            return [Failed(message.session, message.code, message.message, ours=False)]
        if isinstance(message, Welcome):
            return self._welcomed(message)
        if self._peer is None:
            raise RemoteProtocolError(Code.STATE, f"{type(message).__name__} arrived before Welcome")
        session = self._sessions.get(message.session)  # type: ignore[attr-defined]
        if session is None:  # it was in flight when we gave up the text
            return []
        if isinstance(message, Close):
            del self._sessions[session.number]
            what = f"the edge ended the text before it was complete: {message.reason[:200]}"
            return [Failed(session.number, Code.CLOSED, what, ours=False)]
        if session.curious and isinstance(message, Verdict | Tokens) and not self.verify_s and not self._pings:
            self.ping(now)  # the edge did not know its speed before
        return self._emit(session.handle(message, now))

    def _welcomed(self, welcome: Welcome) -> list[Event]:
        if self._peer is not None:
            raise RemoteProtocolError(Code.STATE, "a second Welcome arrived")
        if welcome.version != VERSION:
            raise RemoteProtocolError(
                Code.VERSION,
                f"the edge speaks protocol version {welcome.version}, this device {VERSION}; upgrade the older",
            )
        self._peer = Peer(welcome, 0.0)
        elapsed_s = self._now - self._greeted_s
        self._exchanged(elapsed_s, len(encode(self._hello)), len(encode(welcome)), 0.0)
        self._verified(welcome.verify_s)
        self.heartbeat_s = welcome.heartbeat_s
        return [Ready(welcome)]


def _check_guide(request: Request, welcome: Welcome, guide: Guide | None) -> None:
    if (request.guide is None) != (guide is None):
        raise LocalProtocolError("open() needs the guide that the request names, and no other")
    if guide is not None and not welcome.guides:
        what = f"the edge of {welcome.model} takes no guides, and was sent nothing; give none, or take another edge"
        raise BadParameterError(what, field="guide")
