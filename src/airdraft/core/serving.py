"""One text at the edge: verifies drafts, writes where there are none, and says what is committed.

OPENING ──prefill──▶ IDLE ──Draft──▶ VERIFYING ──Verdict──▶ IDLE … ──▶ (Close)
OPENING ──prefill──▶ STREAMING ──Tokens──▶ STREAMING … ──▶ (Close)          without rounds: `stream`, `server`

Without rounds, drafts arrive when they like. Each forward takes those that follow the committed text at its start, and
if there are none the edge writes a token by itself, or waits for one, as the race policy says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from airdraft.core import schemes
from airdraft.core.bits import BitReader, id_width
from airdraft.core.connection import HEARTBEAT_S, known_rows
from airdraft.core.events import Event, Forward
from airdraft.core.law import Law, Place
from airdraft.core.logprobs import check_logprobs, encode_logprobs, logprob_of
from airdraft.core.messages import (
    MAX_FRAME,
    REACH,
    Draft,
    Extra,
    Logprobs,
    Message,
    More,
    Open,
    Opened,
    SchemeSpec,
    Switch,
    Tokens,
    Verdict,
)
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import EDGE, Drafts
from airdraft.core.tail import Tail
from airdraft.errors import BadParameterError, LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from airdraft.core.edge import EdgeMachine


@dataclass(frozen=True)
class Target:
    """What the edge serves."""

    software: str
    model: str
    tokenizer: bytes
    vocab_size: int
    max_context: int
    eos_ids: tuple[int, ...]
    top_k: int | None = None
    """How many of the most likely tokens its rows hold; None: all."""

    def check(self, params: SamplingParams, logprobs: int | None = None) -> None:
        """Whether texts with these parameters can be exact, under any scheme, and `logprobs` are to be had.

        A row that lacks the unlikely tokens says all about a distribution that is cut to fewer, and nothing about the
        sum that any other is divided by. Raises: `BadParameterError`.
        """
        if self.top_k is not None and (logprobs or 0) > self.top_k:
            raise BadParameterError(
                f"logprobs is {logprobs}, and the engine of {self.model} tells only its {self.top_k} most likely "
                f"tokens; ask for at most {self.top_k}",
                field="logprobs",
            )
        if self.top_k is not None and params.temperature != 0 and not 1 <= params.top_k <= self.top_k:
            raise BadParameterError(
                f"top-k is {params.top_k}, and the engine of {self.model} tells only its {self.top_k} most likely "
                f"tokens, so the text would not be exact; give top-k 1 to {self.top_k}, or temperature 0",
                field="top_k",
            )


@dataclass(frozen=True)
class Limits:
    """What one connection may ask of the edge."""

    max_frame: int = MAX_FRAME
    max_draft: int = 32
    max_sessions: int = 16
    heartbeat_s: float = HEARTBEAT_S


class State(Enum):
    """Where a session stands."""

    OPENING = "opening"
    IDLE = "idle"
    VERIFYING = "verifying"
    STREAMING = "streaming"
    DONE = "done"


class Session:
    """One text at the edge. The machine's own."""

    def __init__(self, machine: EdgeMachine, message: Open, target: Target, limits: Limits) -> None:
        if not 1 <= message.prompt_length <= message.length:
            raise RemoteProtocolError("state", "the prompt is empty, or longer than the tokens that came with it")
        if message.length >= target.max_context:
            raise RemoteProtocolError(
                "context",
                f"the prompt is {message.length} tokens, the context of {target.model} is {target.max_context}; "
                "shorten the prompt",
            )
        packed = BitReader(message.tokens)
        self._tokens: list[int] = packed.read(message.length, id_width(target.vocab_size)).tolist()
        packed.finish()
        self._tail = Tail(self._tokens)  # which knows the digest of the text, too
        if max(self._tokens) >= target.vocab_size or self._tail.digest != message.digest:
            raise RemoteProtocolError("garbage", "the prompt does not match its digest, or leaves the vocabulary")
        self._begin = message.length
        self._end = min(message.prompt_length + message.max_tokens, target.max_context)
        if self._end <= message.length:
            raise RemoteProtocolError("state", "nothing is left to write: every token asked for is committed")
        self._number = message.session
        self._machine = machine
        self._vocab_size = target.vocab_size
        target.check(message.params, message.logprobs)
        self._law = Law(message.params, message.seed, target.vocab_size)
        self._logprobs, self._normalised = message.logprobs, target.top_k is not None
        self._scheme = self._make(message.scheme)
        self._eos = frozenset(target.eos_ids)
        self._max_draft = limits.max_draft
        self._state = State.OPENING
        self._waiting: Draft | None = None  # a draft that came before the prefill was done
        self._seq = 0
        self._drafts = Drafts()  # those of the forward under way
        self._awaits_recovery = False
        self._forwarding = False
        self._asked_s = 0.0
        self._switch: SchemeSpec | None = None  # what to go on with, once the forward under way is done

    def _make(self, spec: SchemeSpec) -> schemes.Scheme:
        check_logprobs(self._logprobs, spec.name)
        return self._machine.make(spec, self._law, EDGE)

    @property
    def text(self) -> Sequence[int]:
        """Prompt and committed tokens."""
        return self._tokens

    def opened(self) -> list[Event]:
        """Tell the device, and prefill all of the prompt but its last token, which the first verification feeds."""
        self._confirm()
        if len(self._tokens) > 1:
            return [Forward(self._number, 0, tuple(self._tokens[:-1]), 0)]
        return self._prefilled()

    def _confirm(self) -> None:
        """Say from where it goes on, and so that the scheme is as asked for."""
        self._machine._send(Opened(self._number, len(self._tokens), self._tail.digest))

    def _prefilled(self) -> list[Event]:
        if self._switch is not None:
            return self._switched()
        self._state = State.IDLE if self._scheme.traits.rounds else State.STREAMING
        waiting, self._waiting = self._waiting, None
        return self._verify(waiting) if waiting else self._go_on()

    def _ask(self, drafts: Sequence[int], spare: bool = False) -> Forward:
        """A forward of the last committed token and the drafts: one row for each draft, and one for the token after."""
        length = len(drafts) + 1
        return Forward(self._number, len(self._tokens) - 1, (self._tokens[-1], *drafts), length, spare)

    def _start(self, forward: Forward) -> list[Event]:
        self._forwarding = True
        self._asked_s = self._machine._now
        return [forward]

    def _go_on(self) -> list[Event]:
        """Without rounds: start the next forward, if one is due and none is under way."""
        if self._state is not State.STREAMING or self._forwarding:
            return []
        forward = self._next()
        self._drafts = Drafts.of_tokens(forward.tokens[1:])
        # The last token allowed can have no draft: the edge writes it under every policy.
        if not self._drafts and self._scheme.race == "off" and self._room():
            return []
        return self._start(forward)

    def _next(self) -> Forward:
        drafts = self._tail.drafts[: self._room()]
        return self._ask(drafts, spare=not drafts and self._scheme.race == "idle")

    def _room(self) -> int:
        """Drafts that a forward may take: the token that follows them needs a place as well."""
        return min(self._max_draft, self._end - len(self._tokens) - 1)

    def latest(self, forward: Forward) -> Forward:
        """The forward to run instead of one whose turn has come."""
        if self._state is not State.STREAMING or not forward.rows:
            return forward
        forward = self._next()
        self._drafts = Drafts.of_tokens(forward.tokens[1:])
        return forward

    def handle(self, message: Message) -> list[Event]:
        """A message of the device's to this session."""
        if self._state is State.DONE and not self._scheme.traits.rounds:  # what was in flight when the text ended
            return []
        if isinstance(message, Draft) and self._switch is None:
            if not self._scheme.traits.rounds:
                return self._offered(message)
            if self._state is State.OPENING and self._waiting is None:
                self._waiting = message
                return []
            if self._state is State.IDLE:
                return self._verify(message)
        settled = self._state not in (State.VERIFYING, State.DONE) and self._waiting is None
        if isinstance(message, Switch) and self._switch is None and settled:
            return self._to_switch(message)
        if isinstance(message, More) and self._state is State.IDLE and self._awaits_recovery:
            if message.seq != self._seq:
                raise RemoteProtocolError("state", f"draft {message.seq} is not the one that was rejected last")
            self._machine._send(Extra(self._number, self._seq, self._scheme.more()))
            return []
        raise RemoteProtocolError("state", f"{type(message).__name__} arrived while {self._state.value}")

    def _offered(self, message: Draft) -> list[Event]:
        """Drafts without rounds: welcome if they follow the text, dropped if their branch is dead."""
        drafts = self._scheme.decode(message.count, message.body).tokens
        end = message.start + message.count
        if message.recovered is not None or end > min(self._end - 1, len(self._tokens) + REACH * self._max_draft):
            raise RemoteProtocolError("state", f"drafts up to position {end} are beyond what may be drafted")
        self._seq = message.seq
        self._tail.offer(message.start, message.digest, drafts)
        return self._go_on()

    def _to_switch(self, message: Switch) -> list[Event]:
        self._recover(message.recovered)
        if self._over():
            raise RemoteProtocolError("state", "a switch came after the recovered token that ended the text")
        scheme = self._make(message.scheme)
        if self._state is State.OPENING and not (scheme.traits.rounds or self._scheme.traits.rounds):
            self._scheme = scheme
            self._confirm()
            return []
        self._switch = message.scheme
        # A race policy may change at any time; rounds begin when what is under way is done.
        if self._state is State.OPENING or (self._forwarding and scheme.traits.rounds):
            return []
        return self._switched()

    def _switched(self) -> list[Event]:
        """The next commit is the new scheme's."""
        spec, self._switch = self._switch, None
        if spec is not None:
            self._scheme = self._make(spec)
        self._state = State.IDLE if self._scheme.traits.rounds else State.STREAMING
        if self._scheme.traits.rounds:
            self._tail.drafts.clear()
        self._confirm()
        return self._go_on()

    def _recover(self, token: int | None) -> None:
        """Take the token that the device drew after a rejection."""
        if (token is not None) != self._awaits_recovery:
            raise RemoteProtocolError("state", "a recovered token is missing, or came where none was due")
        if token is not None:
            if token >= self._vocab_size:
                raise RemoteProtocolError("garbage", "the recovered token is outside the vocabulary")
            self._append([token])
            self._awaits_recovery = False

    def _verify(self, message: Draft) -> list[Event]:
        self._recover(message.recovered)
        if (message.start, message.digest) != (len(self._tokens), self._tail.digest):
            raise RemoteProtocolError("state", "the draft follows another text: its start or digest does not match")
        if self._over():
            raise RemoteProtocolError("state", "a draft came after the recovered token that ended the text")
        if message.count > self._room():
            what = f"a draft of {message.count} tokens where at most {self._room()} may follow"
            raise RemoteProtocolError("state", what)
        self._seq = message.seq
        self._drafts = self._scheme.decode(message.count, message.body)
        self._state = State.VERIFYING
        return self._start(self._ask(self._drafts.tokens))

    def forwarded(self, logits: np.ndarray) -> list[Event]:
        """The target's rows."""
        if self._state is State.OPENING:
            return self._prefilled()
        if self._state not in (State.STREAMING, State.VERIFYING):
            raise LocalProtocolError(f"forwarded() while {self._state.value}: no forward was asked for")
        if not self._forwarding:
            raise LocalProtocolError("forwarded() where no forward was asked for")
        self._forwarding = False
        logits = known_rows(logits, len(self._drafts) + 1, self._vocab_size)
        self._machine._took(self._machine._now - self._asked_s)
        start = len(self._tokens)
        ruling = self._scheme.verify(self._drafts, logits, Place(start))
        tokens = list(self._drafts.tokens[: ruling.accepted])
        ending = next((at for at, token in enumerate(tokens) if token in self._eos), None)
        if ending is not None:  # an accepted token ended the text: nothing follows it
            ruling = schemes.Ruling(ruling.path[: ending + 1], None)
            tokens = tokens[: ending + 1]
        if ruling.token is not None:
            tokens.append(ruling.token)
        self._append(tokens)
        if self._logprobs is not None:
            self._tell_logprobs(start, tokens, logits)
        if self._state is State.STREAMING:
            return self._streamed(start, ruling)
        self._state = State.DONE if self._over() else State.IDLE
        self._awaits_recovery = ruling.token is None and self._state is State.IDLE
        length, digest = len(self._tokens), self._tail.digest
        self._machine._send(
            Verdict(self._number, self._seq, ruling.accepted, ruling.token, length, digest, ruling.extra)
        )
        return []

    def _tell_logprobs(self, start: int, tokens: Sequence[int], logits: np.ndarray) -> None:
        most = self._logprobs or 0
        known = [
            logprob_of(row, token, most, normalised=self._normalised)
            for row, token in zip(logits, tokens, strict=False)
        ]
        self._machine._send(Logprobs(self._number, start, len(tokens), encode_logprobs(known, self._vocab_size)))

    def _streamed(self, start: int, ruling: schemes.Ruling) -> list[Event]:
        last = () if ruling.token is None else (ruling.token,)
        self._machine._send(
            Tokens(self._number, start, last, self._tail.digest, ruling.accepted, len(self._drafts), self._seq)
        )
        if self._over():
            self._state = State.DONE
            return []
        return self._go_on() if self._switch is None else self._switched()

    def _append(self, tokens: list[int]) -> None:
        self._tokens += tokens
        self._tail.advance()

    def _over(self) -> bool:
        # A prompt may end with what would end a text: many models have one token for both ends.
        written = len(self._tokens) > self._begin
        return len(self._tokens) >= self._end or (written and self._tokens[-1] in self._eos)
