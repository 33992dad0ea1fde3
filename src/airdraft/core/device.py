"""The device's machine: drafts, sends, and commits what the edge rules.

    DRAFTING ──Draft──▶ VERIFYING ──Verdict──▶ DRAFTING … ──▶ DONE
                            │ `split`, no candidate taken
                            └──More──▶ RECOVERING ──Extra──▶ DRAFTING
    STREAMING ──Tokens──▶ STREAMING … ──▶ DONE                            scheme `server`

The first draft is sent right behind `Open`, without waiting for `Opened`: a text costs no round trip to start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from airdraft.core import schemes
from airdraft.core.bits import BitWriter, id_width
from airdraft.core.connection import Connection, known_rows
from airdraft.core.events import Committed, Event, Failed, Finished, Forward, Ready
from airdraft.core.messages import (
    VERSION,
    Close,
    Digest,
    Draft,
    Error,
    Extra,
    Hello,
    Message,
    More,
    Open,
    Opened,
    SchemeSpec,
    ToDevice,
    Tokens,
    Verdict,
    Welcome,
    encode,
)
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import DEVICE, Drafted
from airdraft.errors import BadParameterError, LocalProtocolError, RemoteProtocolError

DRAFT_HEADER = 80
"""Most bytes of a `Draft` message around its body."""


class State(Enum):
    """Where a session stands."""

    DRAFTING = "drafting"
    VERIFYING = "verifying"
    RECOVERING = "recovering"
    STREAMING = "streaming"
    DONE = "done"


@dataclass
class Counts:
    """What a session has cost so far."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0
    """Drafted tokens that were judged and refused: at most one a round, for nothing after it is judged."""
    committed: int = 0
    uplink_payload_bytes: int = 0
    """Bodies of drafts: ids and probabilities, without any header."""
    downlink_payload_bytes: int = 0
    """What `split` sends down for the device to recover from."""

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted share of the tokens that were judged, the literature's α; None before the first is."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else None


@dataclass(frozen=True)
class Request:
    """One text to be written."""

    prompt: Sequence[int]
    scheme: SchemeSpec
    params: SamplingParams
    seed: int
    max_tokens: int
    draft_length: int = 4
    """Most tokens drafted in one round (γ)."""
    committed: Sequence[int] = ()
    """Tokens an earlier session committed, when a text is resumed."""
    counts: Counts = field(default_factory=Counts)
    """Filled while the text is written."""


class DeviceMachine(Connection):
    """The device's end of one connection to an edge."""

    def __init__(self, hello: Hello, draft_context: int, now: float) -> None:
        """`draft_context` is the most positions the draft model holds; beyond it the target goes on alone."""
        super().__init__(ToDevice, now)
        self._hello = hello
        self._draft_context = draft_context
        self._welcome: Welcome | None = None
        self._sessions: dict[int, _Session] = {}
        self._opened = 0
        self._send(hello)

    def open(self, request: Request) -> tuple[int, list[Event]]:
        """Start a text. Returns its session's number and the first events.

        Raises: `BadParameterError` for a request that cannot be served, before anything is sent.
        """
        if self._welcome is None or self.closed:
            raise LocalProtocolError("open() before the edge's welcome, or after the connection ended")
        welcome, vocab = self._welcome, self._hello.vocab_size
        tokens = [*request.prompt, *request.committed]
        if not request.prompt:
            raise BadParameterError("the prompt is empty; give at least one token")
        if any(not 0 <= token < vocab for token in tokens):
            raise BadParameterError(
                f"the prompt holds an id outside the vocabulary of {vocab}; encode it with this model"
            )
        if len(tokens) >= welcome.max_context:
            raise BadParameterError(
                f"the prompt is {len(tokens)} tokens, the target's context is {welcome.max_context}; shorten the prompt"
            )
        if request.max_tokens < 1 or request.draft_length < 0:
            raise BadParameterError("max-tokens must be at least 1 and draft-length at least 0")
        if not 0 <= request.seed < 1 << 63:
            raise BadParameterError(f"seed is {request.seed}; give a whole number from 0 to 2^63 - 1")
        ended = request.committed and request.committed[-1] in welcome.eos_ids
        if ended or len(request.committed) >= request.max_tokens:
            raise BadParameterError("nothing is left to write: the text to be resumed is complete")
        scheme = schemes.make(request.scheme, request.params, request.seed, vocab, DEVICE, len(tokens))
        self._opened += 1
        session = _Session(self, self._opened, request, scheme, tokens, welcome, self._draft_context)
        message = session.opening(vocab)
        if len(frame := encode(message)) > welcome.max_frame:
            raise BadParameterError(
                f"the prompt takes {len(frame)} bytes, the edge takes {welcome.max_frame}; shorten it"
            )
        self._sessions[session.number] = session
        self._send(message)
        return session.number, session.advance()

    def forwarded(self, session: int, logits: np.ndarray) -> list[Event]:
        """Told: the logits that a `Forward` asked for, [rows, vocab]."""
        return self._sessions[session].forwarded(logits) if session in self._sessions else []

    def cancel(self, session: int, reason: str = "cancelled") -> None:
        """Give a text up."""
        if self._sessions.pop(session, None):
            self._send(Close(session, reason))

    def failed(self, session: int, code: str, message: str) -> list[Event]:
        """Told: a `Forward` cannot be run. Ends that session only."""
        if session not in self._sessions:
            return []
        self.cancel(session, "failed")
        return [Failed(session, code, message, ours=True)]

    def _handle(self, message: Message, now: float) -> Iterable[Event]:
        if isinstance(message, Error):
            if message.session is None:
                self.closed = True
            elif not self._sessions.pop(message.session, None):
                return []
            return [Failed(message.session, message.code, message.message, ours=False)]
        if isinstance(message, Welcome):
            return self._welcomed(message)
        if self._welcome is None:
            raise RemoteProtocolError("state", f"{type(message).__name__} arrived before Welcome")
        session = self._sessions.get(message.session)  # type: ignore[attr-defined]
        if session is None:  # what was in flight when we gave the text up
            return []
        if isinstance(message, Close):
            del self._sessions[session.number]
            return [Finished(session.number, message.reason)]
        return session.handle(message)

    def _welcomed(self, welcome: Welcome) -> list[Event]:
        if self._welcome is not None:
            raise RemoteProtocolError("state", "a second Welcome arrived")
        if welcome.version != VERSION:
            raise RemoteProtocolError(
                "version",
                f"the edge speaks protocol version {welcome.version}, this device {VERSION}; upgrade the older",
            )
        self._welcome = welcome
        self.heartbeat_s = welcome.heartbeat_s
        return [Ready(welcome)]


class _Session:
    """One text on the device."""

    def __init__(
        self,
        machine: DeviceMachine,
        number: int,
        request: Request,
        scheme: schemes.Scheme,
        tokens: list[int],
        welcome: Welcome,
        draft_context: int,
    ) -> None:
        self.number = number
        self.counts = request.counts
        self._machine = machine
        self._request = request
        self._scheme = scheme
        self._tokens = tokens  # prompt, committed, then the drafts under way
        self._committed = len(tokens)
        self._end = min(len(request.prompt) + request.max_tokens, welcome.max_context)
        self._draft_end = min(self._end - 1, draft_context)  # the bonus token needs a place of its own
        fitting = max(0, welcome.max_frame - DRAFT_HEADER) * 8 // scheme.draft_bits
        self._draft_length = min(request.draft_length, welcome.max_draft, fitting)
        self._eos = frozenset(welcome.eos_ids)
        self._digest = Digest(tokens)
        self._cached = 0  # positions in the draft model's cache that agree with `_tokens`
        self._drafts: list[Drafted] = []
        self._recovered: int | None = None
        self._rejected: Drafted | None = None
        self._seq = 0
        self._opened = False
        self._state = State.DRAFTING if scheme.rounds else State.STREAMING

    def opening(self, vocab_size: int) -> Open:
        """The message that opens the session."""
        packed = BitWriter()
        packed.write(self._tokens, id_width(vocab_size))
        request = self._request
        return Open(
            self.number,
            request.scheme,
            request.params,
            request.seed,
            request.max_tokens,
            len(request.prompt),
            len(self._tokens),
            packed.bytes(),
            self._digest.value,
        )

    def advance(self) -> list[Event]:
        """Draft one token more, or send what is drafted."""
        if self._state is not State.DRAFTING:
            return []
        room = min(self._draft_length, self._draft_end - self._committed) - len(self._drafts)
        if room > 0 and not (self._drafts and self._drafts[-1].token in self._eos):
            return [Forward(self.number, self._cached, tuple(self._tokens[self._cached :]), 1)]
        body = self._scheme.encode(self._drafts)
        self._seq += 1
        self.counts.rounds += 1
        self.counts.drafted += len(self._drafts)
        self.counts.uplink_payload_bytes += len(body)
        self._machine._send(
            Draft(
                self.number,
                self._seq,
                self._committed,
                self._committed,
                self._digest.value,
                len(self._drafts),
                body,
                self._recovered,
            )
        )
        self._recovered = None
        self._state = State.VERIFYING
        return []

    def forwarded(self, logits: np.ndarray) -> list[Event]:
        """The draft model's row for the next token."""
        if self._state is not State.DRAFTING:
            raise LocalProtocolError(f"forwarded() while {self._state.value}: no forward was asked for")
        row = known_rows(logits, 1, self._machine._hello.vocab_size)[0]
        drafted = self._scheme.propose(row, len(self._tokens))
        self._cached = len(self._tokens)
        self._drafts.append(drafted)
        self._tokens.append(drafted.token)
        return self.advance()

    def handle(self, message: Message) -> list[Event]:
        """A message of the edge's to this session."""
        if isinstance(message, Opened) and not self._opened:
            self._opened = True
            if (message.committed, message.digest) != (self._committed, self._digest.value):
                raise RemoteProtocolError("state", "the edge opened the session with another prefix")
            return []
        if not self._opened:
            raise RemoteProtocolError("state", f"{type(message).__name__} arrived before Opened")
        if isinstance(message, Verdict) and self._state is State.VERIFYING and message.seq == self._seq:
            return self._ruled(message)
        if isinstance(message, Extra) and self._state is State.RECOVERING and message.seq == self._seq:
            return self._recover(message.extra)
        tokens = list(message.tokens) if isinstance(message, Tokens) and message.start == self._committed else []
        if isinstance(message, Tokens) and tokens and self._state is State.STREAMING:
            return self._commit(tokens, 0, "target", (self._committed + len(tokens), message.digest))
        raise RemoteProtocolError("state", f"{type(message).__name__} arrived while {self._state.value}")

    def _ruled(self, verdict: Verdict) -> list[Event]:
        if verdict.accepted > len(self._drafts):
            raise RemoteProtocolError("state", f"{verdict.accepted} of {len(self._drafts)} drafts were accepted")
        self.counts.accepted += verdict.accepted
        self.counts.rejected += verdict.accepted < len(self._drafts)
        self.counts.downlink_payload_bytes += len(verdict.extra)
        tokens = [draft.token for draft in self._drafts[: verdict.accepted]]
        rejected = self._drafts[verdict.accepted] if verdict.accepted < len(self._drafts) else None
        ended = bool(tokens) and tokens[-1] in self._eos
        to_recover = rejected is not None and bool(verdict.extra) and not ended
        if (verdict.token is None) != (ended or to_recover) or (verdict.extra and not to_recover):
            raise RemoteProtocolError("state", "a verdict must hold one of a token and the means to draw one")
        if verdict.token is not None:
            tokens.append(verdict.token)
        kind = "bonus" if rejected is None else "recovered"
        self._state = State.DRAFTING
        events = self._commit(tokens, verdict.accepted, kind, (verdict.committed, verdict.digest))
        if to_recover:
            self._rejected = rejected
            return events + self._recover(verdict.extra)
        return events + self.advance()

    def _recover(self, extra: bytes) -> list[Event]:
        if self._rejected is None:
            raise RemoteProtocolError("state", "nothing is to be recovered")
        token = self._scheme.recover(self._rejected, extra)
        if token is None:
            self._state = State.RECOVERING
            self._machine._send(More(self.number, self._seq))
            return []
        self._rejected = None
        self._recovered = token
        self._state = State.DRAFTING
        events = self._commit([token], 0, "recovered", None)
        return events + self.advance()

    def _commit(self, tokens: list[int], accepted: int, kind: str, theirs: tuple[int, int] | None) -> list[Event]:
        """Make `tokens` part of the text, after checking it against the edge's: its length and digest."""
        if any(token >= self._machine._hello.vocab_size for token in tokens):
            raise RemoteProtocolError("garbage", "the edge committed an id outside the vocabulary")
        if self._committed + len(tokens) > self._end or not self._eos.isdisjoint(tokens[:-1]):
            raise RemoteProtocolError("state", "the edge committed more tokens than were asked for")
        self._digest.extend(tokens)
        if theirs is not None and theirs != (self._committed + len(tokens), self._digest.value):
            raise RemoteProtocolError("state", "the edge's text differs from ours: its length or digest does not match")
        if not tokens:  # the first draft was rejected, and its replacement is the device's to draw
            return []
        # Drafts that were accepted are in the cache already, all but the last, which was never fed.
        self._cached = min(self._cached, self._committed + accepted)
        self._tokens[self._committed :] = tokens
        self._committed = len(self._tokens)
        self._drafts = []
        self.counts.committed += len(tokens)
        events: list[Event] = [Committed(self.number, tuple(tokens), accepted, kind)]
        reason = "stop" if tokens[-1] in self._eos else "length" if self._committed == self._end else None
        if reason:
            self._state = State.DONE
            self._machine.cancel(self.number, reason)
            events.append(Finished(self.number, reason))
        return events
