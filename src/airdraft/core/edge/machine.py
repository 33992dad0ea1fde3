"""The edge's machine: one connection from a device, and the texts written over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from airdraft.core import schemes
from airdraft.core.bits import unpack
from airdraft.core.connection import Machine
from airdraft.core.edge.proposing import Help, Pace, Propose, nobody
from airdraft.core.edge.session import EdgeSession, opened
from airdraft.core.edge.stream import EdgeStream
from airdraft.core.edge.target import Limits, Target
from airdraft.core.events import Compile, Declined, Event, Failed, Finished, Forward, Out
from airdraft.core.law import Guide
from airdraft.core.messages import MOST_NODES, VERSION, Close, Error, Hello, Message, Open, ToEdge, Welcome, clip
from airdraft.core.schemes import Ruling
from airdraft.core.states import CONNECTION
from airdraft.core.text import Prefix
from airdraft.errors import BadParameterError, Code, RefusedError, RemoteProtocolError, too_long


class EdgeMachine(Machine):
    """The edge's end of one connection from a device."""

    def __init__(
        self,
        target: Target,
        limits: Limits,
        now: float,
        verify_s: float = 0.0,
        make: Callable[..., schemes.Scheme] = schemes.make,
        propose: Propose = nobody,
        help: Help | None = None,
        draft_s: float = 0.0,
    ) -> None:
        """
        Args:
            verify_s: duration of a forward so far, for devices to plan with; 0 if not known.
            make: makes schemes.
            propose: makes the proposers of a text.
            help: makes the helper of a text, if the edge has a draft model of its own, of which a forward takes
                `draft_s`; 0 if not known.
        """
        super().__init__(ToEdge, now, limits.max_frame)
        self._make, self._propose, self._help = make, propose, help
        self.heartbeat_s = limits.heartbeat_s
        self.pace = Pace(verify_s, draft_s)
        self._target = target
        self._limits = limits
        self._greeted = False
        self._sessions: dict[int, EdgeSession] = {}
        self._asked: dict[int, tuple[float, Forward]] = {}  # the forward under way of each session, and since when
        self._last_opened = 0
        self.admit: Callable[[], None] | None = None
        """Called before each text opens. Raises: `RefusedError` to refuse it."""
        self.held: Callable[[Sequence[int]], int] | None = None
        """Says how many of a text's first tokens the engine holds already."""

    @property
    def verify_s(self) -> float:
        """Duration of a target forward in seconds; 0 if not known."""
        return self.pace.verify_s

    def text(self, session: int) -> Sequence[int]:
        """Return a session's prompt and committed tokens; empty if there is no such session."""
        return self._sessions[session].text.tokens if session in self._sessions else ()

    @property
    def held_bytes(self) -> int:
        """See `Machine.held_bytes`: the drafts of all texts."""
        return sum(session.rounds.held_bytes for session in self._sessions.values())

    def latest(self, forward: Forward) -> Forward:
        """Return the forward to run when its turn comes, with any drafts that arrived since."""
        session = self._sessions.get(forward.session)
        return session.latest(forward) if session else forward

    def judge(self, session: int, logits: np.ndarray) -> Ruling | None:
        """Do most of the work of `forwarded`, which takes the result, in any thread. See `EdgeSession.judge`."""
        found = self._sessions.get(session)
        return None if found is None else found.judge(logits)

    def forwarded(self, session: int, logits: np.ndarray, now: float, ruling: Ruling | None = None) -> list[Event]:
        """Take the logits that a `Forward` asked for, [rows, vocab]. They are ignored if the session is gone.

        Some models also score padding, so columns beyond the vocabulary are dropped.
        """
        self._now = now
        if session not in self._sessions or self.closed:
            return []
        asked = self._asked.pop(session, None)
        try:
            outs = self._sessions[session].forwarded(logits, ruling)
        except RemoteProtocolError as error:  # in a draft that came during the prefill
            return self.failed(session, error.code, str(error))
        if asked is not None:
            self.pace.took(asked[1], now - asked[0])
        return self._emit(outs)

    def unhelped(self, session: int, now: float) -> list[Event]:
        """Let one session go on without the edge's own draft model, whose `Forward` cannot run."""
        self._asked.pop(session, None)
        return self._act(session, EdgeSession.unhelped, now)

    def failed(self, session: int, code: str, message: str) -> list[Event]:
        """End one session, whose `Forward` cannot run."""
        if not self._forget(session):
            return []
        self._send(Error(session, code, clip(message)))
        return [Failed(session, code, message, ours=True)]

    def _own_verify_s(self) -> float:
        return self.verify_s

    def _forget(self, session: int) -> bool:
        """Drop a session. Returns whether there was one."""
        self._asked.pop(session, None)
        return self._sessions.pop(session, None) is not None

    def _emit(self, outs: Iterable[Out]) -> list[Event]:
        """See `Machine._emit`. Forwards are timed from here."""
        events = super()._emit(outs)
        for event in events:
            if isinstance(event, Forward):
                self._asked[event.session] = self._now, event
        return events

    def _handle(self, message: Message, now: float) -> Iterable[Event]:
        if isinstance(message, Error):
            if message.session is None:
                self.closed = True
                return [Failed(None, message.code, message.message, ours=False)]
            return [Finished(message.session, "refused")] if self._forget(message.session) else []
        action = CONNECTION[self._greeted].get(type(message))
        if isinstance(message, Hello):
            return self._greet(message)
        if action is None:
            raise RemoteProtocolError(Code.STATE, f"{type(message).__name__} arrived before Hello")
        if isinstance(message, Open):
            return self._open(message)
        number: int = message.session  # type: ignore[attr-defined]
        if isinstance(message, Close):
            return [Finished(number, message.reason)] if self._forget(number) else []
        return self._act(number, lambda session: session.handle(message), now)

    def _act(self, number: int, act: Callable[[EdgeSession], list[Out]], now: float) -> list[Event]:
        """Let a session act, if it is still there."""
        self._now = now
        session = self._sessions.get(number)
        if session is None or self.closed:  # what asks was in flight when the session was refused or failed
            return []
        try:
            return self._emit(act(session))
        except (RemoteProtocolError, BadParameterError) as error:  # the latter in a switch
            return self.failed(number, error.code, str(error))

    def _greet(self, hello: Hello) -> list[Event]:
        target, limits = self._target, self._limits
        if self._greeted:
            raise RemoteProtocolError(Code.STATE, "a second Hello arrived")
        if hello.version != VERSION:
            raise RemoteProtocolError(
                Code.VERSION,
                f"the device speaks protocol version {hello.version}, this edge {VERSION}; upgrade the older",
            )
        if (hello.tokenizer, hello.vocab_size) != (target.tokenizer, target.vocab_size):
            raise RemoteProtocolError(
                Code.VOCABULARY,
                f"draft model {hello.model} ({hello.vocab_size} tokens) and target {target.model} ({target.vocab_size} "
                "tokens) do not share one vocabulary; pick a draft with the target's own tokenizer",
            )
        self._greeted = True
        welcome = Welcome(
            VERSION, clip(target.software), clip(target.model), target.max_context, limits.max_frame, limits.max_draft,
            limits.max_sessions, limits.heartbeat_s, target.eos_ids, self.verify_s, target.digest, target.exactness,
            MOST_NODES if target.trees else 0, None if self._help is None else self.pace.draft_s, target.private,
            target.guides,
        )  # fmt: skip
        self._send(welcome)
        return []

    def _open(self, message: Open) -> list[Event]:
        number = message.session
        # A reused number could receive the forward that its first owner asked for.
        if number <= self._last_opened:
            raise RemoteProtocolError(Code.STATE, f"session {number} came after {self._last_opened}; numbers must rise")
        self._last_opened = number
        if len(self._sessions) >= self._limits.max_sessions:
            what = f"{len(self._sessions)} sessions are open on this connection; close one"
            return self._decline(number, Code.BUSY, what)
        try:
            session = self._session(message)
        except (BadParameterError, RefusedError, RemoteProtocolError) as error:
            return self._decline(number, error.code, str(error))
        self._sessions[number] = session
        cached = self.held(session.text.tokens[: message.private]) if self.held is not None else 0
        eos_ids = self._target.eos_ids
        reading = [] if message.guide is None else [Compile(number, message.guide, eos_ids, message.params)]
        return self._emit([*session.begin(message.prompt_length, cached, message.private), *reading])

    def guided(self, session: int, guide: Guide, now: float) -> list[Event]:
        """Take the guide that a `Compile` asked for."""
        return self._act(session, lambda found: found.guided(guide), now)

    def _decline(self, number: int, code: str, message: str) -> list[Event]:
        self._send(Error(number, code, clip(message)))
        return [Declined(number, code)]

    def _session(self, message: Open) -> EdgeSession:
        """Make the session that `message` opens. Raises an error for a bad message."""
        target = self._target
        if not 1 <= message.prompt_length <= message.length:
            what = "the prompt is empty, or longer than the tokens that came with it"
            raise RemoteProtocolError(Code.STATE, what)
        for length, what in ((message.length, "prompt"), (message.predicted, "prediction")):
            if length >= target.max_context:
                raise RemoteProtocolError(Code.CONTEXT, too_long(length, target.max_context, target.model, what))
        if message.private is not None and not (target.private and message.private < message.prompt_length):
            raise RemoteProtocolError(Code.STATE, "a private part is beyond the prompt, or this edge takes none")
        if message.guide is not None and not target.guides:
            raise RemoteProtocolError(Code.STATE, "a guide came, and this edge takes none")
        tokens = unpack(message.tokens, message.length, target.vocab_size)
        prediction = unpack(message.prediction, message.predicted, target.vocab_size)
        text = Prefix(tokens, min(message.prompt_length + message.max_tokens, target.max_context), target.eos_ids)
        text.unguided = None if message.guide is None else message.prompt_length
        if text.digest != message.digest:
            raise RemoteProtocolError(Code.GARBAGE, "the prompt does not match its digest")
        if text.over:
            raise RemoteProtocolError(Code.STATE, "nothing is left to write: every token asked for is committed")
        proposers = self._propose(prediction, message.private is not None)
        stream = EdgeStream(text, self._limits.max_draft, proposers, target.trees)
        session = opened(
            message.session, text, message.params, message.seed, message.scheme, target, stream, message.logprobs,
            self._help, self.pace, self._make,
        )  # fmt: skip
        if self.admit is not None:
            self.admit()
        return session
