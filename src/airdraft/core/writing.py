"""One text on the device: drafts, sends, and commits what the edge rules.

    DRAFTING ──Draft──▶ VERIFYING ──Verdict──▶ DRAFTING … ──▶ DONE            schemes with rounds
                            │ `split`, no candidate taken
                            └──More──▶ RECOVERING ──Extra──▶ DRAFTING
    STREAMING ──Tokens──▶ STREAMING … ──▶ DONE                                `stream`, `server`
    STREAMING ──Switch──▶ SWITCHING ──Opened──▶ DRAFTING                      back to rounds

The first draft is sent right behind `Open`, without waiting for `Opened`: a text costs no round trip to start.

A stream drafts on while its earlier drafts are in flight, as far as its window reaches beyond what is committed. A
commit that differs from a draft ends that branch: drafting begins again behind it, and what is in flight is in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from airdraft.control.plan import plan
from airdraft.core import schemes
from airdraft.core.bits import BitWriter, id_width
from airdraft.core.branch import Branch
from airdraft.core.connection import known_rows
from airdraft.core.events import Committed, Event, Finished, Forward
from airdraft.core.law import Law, Place
from airdraft.core.logprobs import Logprob, check_logprobs, decode_logprobs
from airdraft.core.messages import (
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
    Welcome,
    encode,
)
from airdraft.core.policy import Given, Judged, Mode
from airdraft.core.request import Request
from airdraft.core.schemes import DEVICE, Drafted, Drafts
from airdraft.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from airdraft.core.device import DeviceMachine

DRAFT_HEADER = 80
"""Most bytes of a `Draft` message around its body."""
DRAFT_BYTES, VERDICT_BYTES = 19, 14
"""What the two take apart from their bodies, nearly: good enough to learn the link's rate from."""
MOST_DRAFT = 256
"""Tokens drafted in one round at most, whatever the edge allows."""
QUEUE = 2
"""Drafts of a stream that may wait for the uplink."""
REVIEW_S = 0.25
"""Seconds after which the policy is asked again, at the next commit."""


class State(Enum):
    """Where a text stands."""

    DRAFTING = "drafting"
    VERIFYING = "verifying"
    RECOVERING = "recovering"
    STREAMING = "streaming"
    SWITCHING = "switching"
    DONE = "done"


class Session:
    """One text on the device. The machine's own; use `DeviceMachine.open`."""

    def __init__(
        self,
        machine: DeviceMachine,
        number: int,
        request: Request,
        tokens: list[int],
        welcome: Welcome,
        draft_context: int,
        vocab_size: int,
    ) -> None:
        self.number = number
        self.counts = request.counts
        self._machine = machine
        self._request = request
        self._vocab_size = vocab_size
        # Whatever the edge allows: every length up to this is considered.
        self._max_frame, self._max_draft = welcome.max_frame, min(welcome.max_draft, MOST_DRAFT)
        self._branch = Branch(tokens)
        self._end = min(len(request.prompt) + request.max_tokens, welcome.max_context)
        self._draft_end = min(self._end - 1, draft_context)  # the bonus token needs a place of its own
        self._eos = frozenset(welcome.eos_ids)
        self._asked_s = 0.0
        self._drafts: list[Drafted] = []
        self._probs: list[float] = []  # the draft model's, of its drafts, for a rule to judge by
        self._logprobs: Logprobs | None = None  # of the tokens that the next message commits
        self._recovered: int | None = None
        self._rejected: Drafted | None = None
        self._seq = self._heard = 0  # the last draft that was sent, and that the edge is known to have
        self._opened = False
        self._answers_due = 1  # `Opened`s: the answers to `Open` and to every `Switch`
        self._opened_s = self._sent_s = machine._now
        self._queued_s = machine.estimator.queued_s(machine._now)  # what `Open` waits behind
        self._opening_bytes = self._sent_bytes = 0
        self._policy = request.policy or plan(request, vocab_size, self._max_draft)
        self.curious = not isinstance(self._policy, Given) or request.rule is not None
        """Whether anything is decided by what is measured."""
        self._facts = machine.estimator.facts()
        self._mode = self._policy.choose(self._facts, machine._now)
        self._reviewed_s = machine._now
        self._spec = self._spec_of(self._mode)
        self._law = Law(request.params, request.seed, vocab_size)
        self._scheme = self._make()
        self._state = State.DRAFTING if self._scheme.traits.rounds else State.STREAMING

    def _spec_of(self, mode: Mode) -> SchemeSpec:
        return structs.replace(self._request.scheme, name=mode.scheme, race=mode.race)

    def _make(self) -> schemes.Scheme:
        request = self._request
        check_logprobs(request.logprobs, self._spec.name)
        make = self._machine.make
        return make(self._spec, self._law, DEVICE)

    @property
    def text(self) -> Sequence[int]:
        """Prompt and committed tokens."""
        return self._branch.tokens[: self._branch.committed]

    def opening(self) -> Open:
        """The message that opens the session."""
        packed = BitWriter()
        tokens = self._branch.tokens
        packed.write(tokens, id_width(self._vocab_size))
        request = self._request
        message = Open(
            self.number,
            self._spec,
            request.params,
            request.seed,
            self._end - len(request.prompt),  # no more than fit, however many were asked for
            len(request.prompt),
            len(tokens),
            packed.bytes(),
            self._branch.digest.value,
            request.logprobs,
        )
        self._opening_bytes = len(encode(message))
        return message

    def advance(self) -> list[Event]:
        """Do what is to be done next: draft one token more, or send what is drafted."""
        if self._state is State.STREAMING:
            return self._advance_stream()
        if self._state is not State.DRAFTING:
            return []
        fitting = max(0, self._max_frame - DRAFT_HEADER) * 8 // self._scheme.draft_bits
        length = self._max_draft if self._request.rule else self._mode.length
        most = min(length, self._max_draft, fitting, self._draft_end - self._branch.committed)
        if len(self._drafts) < most and not (self._drafts and self._round_ends()):
            return self._ask()
        self._send_drafts(self._branch.committed, self._branch.digest.value, self._drafts)
        self.counts.rounds += 1
        self._recovered = None
        self._sent_s = self._machine._now
        self._state = State.VERIFYING
        return []

    def _round_ends(self) -> bool:
        """Whether what is drafted is enough, though more would be allowed."""
        rule = self._request.rule
        if self._drafts[-1].token in self._eos:
            return True
        chance = self._machine.estimator.chance
        return rule is not None and not rule.more([chance(p) for p in self._probs], self._facts)

    def _advance_stream(self) -> list[Event]:
        branch = self._branch
        window = min(self._mode.length, REACH * self._max_draft) if self._mode.traits.drafts else 0
        end = min(branch.committed + window, self._draft_end)
        ended = len(branch.tokens) > branch.committed and branch.tokens[-1] in self._eos
        more = len(branch.tokens) < end and not ended
        unsent = len(branch.tokens) - branch.sent
        enough = self._mode.first if branch.fresh else self._mode.then
        if unsent and (not more or unsent >= enough) and (branch.fresh or not self._congested()):
            start, digest, drafts = branch.send()
            self._send_drafts(start, digest, [Drafted(token) for token in drafts])
        if end <= branch.committed and self._scheme.race == "off":
            self._apply(Mode(schemes.SERVER, 0))  # nothing may be drafted: from here on the edge writes alone
        return self._ask() if more else []

    def _congested(self) -> bool:
        """Whether drafts pile up before the uplink: more of them wait for the edge's word than a free one would leave.

        Then they are better kept and sent together, once the edge has heard of the others. The first packet of a branch
        always goes, so the edge has always something to answer.
        """
        facts = self._facts
        answered_s = facts.rtt_s + 2 * facts.verify_s
        return self._seq - self._heard > QUEUE + answered_s / (self._mode.then * facts.draft_s)

    def _ask(self) -> list[Event]:
        if self._branch.asking:
            return []
        keep, tokens = self._branch.ask()
        self._asked_s = self._machine._now
        return [Forward(self.number, keep, tokens, 1)]

    def _send_drafts(self, start: int, digest: int, drafts: Sequence[Drafted]) -> None:
        body = self._scheme.encode(Drafts(tuple(drafts)))
        self._seq += 1
        self.counts.drafted += len(drafts)
        self.counts.uplink_payload_bytes += len(body)
        message = Draft(
            self.number, self._seq, start, self._branch.committed, digest, len(drafts), body, self._recovered
        )
        self._sent_bytes = len(body) + DRAFT_BYTES
        self._machine._send(message)

    def forwarded(self, logits: np.ndarray) -> list[Event]:
        """The draft model's row for the next token."""
        if not self._branch.asking:
            raise LocalProtocolError(f"forwarded() while {self._state.value}: no forward was asked for")
        row = known_rows(logits, 1, self._vocab_size)[0]
        self._machine.estimator.drafted(self._machine._now - self._asked_s)
        position = self._branch.answered()
        if position is not None and self._state in (State.DRAFTING, State.STREAMING):
            drafted = self._scheme.draw(row, Place(position))
            self._branch.tokens.append(drafted.token)
            if self._state is State.DRAFTING:
                self._drafts.append(drafted)
                if self._request.rule:
                    self._probs.append(float(self._law.probs(row, Place(position))[drafted.token]))
        return self.advance()

    def handle(self, message: Message) -> list[Event]:
        """A message of the edge's to this session."""
        if isinstance(message, Opened) and self._answers_due:
            return self._answered(message)
        if not self._opened:
            raise RemoteProtocolError("state", f"{type(message).__name__} arrived before Opened")
        if isinstance(message, Verdict) and self._state is State.VERIFYING and message.seq == self._seq:
            return self._ruled(message)
        if isinstance(message, Extra) and self._state is State.RECOVERING and message.seq == self._seq:
            return self._recover(message.extra)
        streaming = self._state in (State.STREAMING, State.SWITCHING)
        if isinstance(message, Tokens) and streaming and message.start == self._branch.committed:
            return self._streamed(message)
        due = streaming or self._state is State.VERIFYING
        if isinstance(message, Logprobs) and due and self._logprobs is None and self._request.logprobs is not None:
            self._logprobs = message
            return []
        raise RemoteProtocolError("state", f"{type(message).__name__} arrived while {self._state.value}")

    def _answered(self, message: Opened) -> list[Event]:
        if (message.committed, message.digest) != (self._branch.committed, self._branch.digest.value):
            raise RemoteProtocolError("state", "the edge goes on from another prefix than ours")
        if not self._opened:
            elapsed_s = self._machine._now - self._opened_s
            waited_s = min(elapsed_s, self._queued_s)
            self._machine.exchanged(elapsed_s, self._opening_bytes, len(encode(message)), waited_s)
        self._opened = True
        self._answers_due -= 1
        if self._state is not State.SWITCHING or self._answers_due:
            return []
        self._branch.diverge(self._branch.committed)
        self._scheme = self._make()
        self._state = State.DRAFTING
        return self.advance()

    def _ruled(self, verdict: Verdict) -> list[Event]:
        if verdict.accepted > len(self._drafts):
            raise RemoteProtocolError("state", f"{verdict.accepted} of {len(self._drafts)} drafts were accepted")
        answer_bytes = VERDICT_BYTES + len(verdict.extra)
        refused = int(verdict.accepted < len(self._drafts))
        told = Judged(verdict.accepted, refused, 0, 0, 0, raced=False, rounds=True, probs=tuple(self._probs))
        self._judged(told, answer_bytes)
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
        return events + self._next_round()

    def _recover(self, extra: bytes) -> list[Event]:
        if self._rejected is None:
            raise RemoteProtocolError("state", "nothing is to be recovered")
        token = self._scheme.recover(self._rejected, extra, Place(self._branch.committed))
        if token is None:
            self._state = State.RECOVERING
            self._machine._send(More(self.number, self._seq))
            return []
        self._rejected = None
        self._recovered = token
        self._state = State.DRAFTING
        events = self._commit([token], 0, "recovered", None)
        return events + self._next_round()

    def _next_round(self) -> list[Event]:
        if self._state is State.DRAFTING:
            self._review()
        return self.advance()

    def _streamed(self, message: Tokens) -> list[Event]:
        branch = self._branch
        accepted = branch.tokens[branch.committed : branch.committed + message.accepted]
        if len(accepted) < message.accepted or message.accepted > message.drafted:
            raise RemoteProtocolError("state", "the edge accepted drafts that were never made")
        if not self._heard <= message.seq <= self._seq:
            raise RemoteProtocolError("state", "the edge has heard of drafts that were never sent")
        self._heard = message.seq
        tokens = [*accepted, *message.tokens]
        if not tokens:
            raise RemoteProtocolError("state", "the edge committed nothing")
        drafted = branch.tokens[branch.committed : branch.committed + len(tokens)]
        agreeing = branch.agreeing(tokens)
        rejected = int(message.accepted < message.drafted and bool(message.tokens))
        self._judged(
            Judged(
                message.accepted, rejected, agreeing, len(tokens), len(drafted), raced=self._mode.races, rounds=False
            )
        )
        self.counts.raced += not message.drafted
        kind = "target" if not message.drafted else "bonus" if message.accepted == message.drafted else "recovered"
        theirs = (branch.committed + len(tokens), message.digest)
        events = self._commit(tokens, message.accepted, kind, theirs)
        if self._state is State.STREAMING:
            self._review()
        return events + self.advance()

    def _judged(self, verdict: Judged, answer_bytes: int = 0) -> None:
        """Count a forward of the target's."""
        self.counts.forwards += 1
        self.counts.accepted += verdict.accepted
        self.counts.rejected += verdict.rejected
        machine = self._machine
        machine.estimator.judged(verdict)
        if verdict.rounds and self.curious and self._seq > 1 and machine.verify_s:  # the first waits for the prefill
            elapsed_s = machine._now - self._sent_s
            machine.exchanged(elapsed_s, self._sent_bytes, answer_bytes, machine.verify_s)
        if self.curious:
            machine.wonder()

    def _commit(self, tokens: list[int], accepted: int, kind: str, theirs: tuple[int, int] | None) -> list[Event]:
        """Make `tokens` part of the text, after checking it against the edge's: its length and digest."""
        if any(token >= self._vocab_size for token in tokens):
            raise RemoteProtocolError("garbage", "the edge committed an id outside the vocabulary")
        branch = self._branch
        if branch.committed + len(tokens) > self._end or not self._eos.isdisjoint(tokens[:-1]):
            raise RemoteProtocolError("state", "the edge committed more tokens than were asked for")
        branch.digest.extend(tokens)
        if theirs is not None and theirs != (branch.committed + len(tokens), branch.digest.value):
            raise RemoteProtocolError("state", "the edge's text differs from ours: its length or digest does not match")
        if not tokens:  # the first draft was rejected, and its replacement is the device's to draw
            return []
        logprobs = self._logprobs_of(tokens)
        branch.commit(tokens)
        if self._state is State.DRAFTING:  # all drafts of the round are judged
            branch.diverge(branch.committed)
        self._drafts, self._probs = [], []
        self.counts.committed += len(tokens)
        events: list[Event] = [Committed(self.number, tuple(tokens), accepted, kind, logprobs)]
        reason = "stop" if tokens[-1] in self._eos else "length" if branch.committed == self._end else None
        if reason:
            self._state = State.DONE
            self._machine.cancel(self.number, reason)
            events.append(Finished(self.number, reason))
        return events

    def _logprobs_of(self, tokens: Sequence[int]) -> tuple[Logprob, ...]:
        """What the edge has said of tokens that it commits now."""
        most, message, self._logprobs = self._request.logprobs, self._logprobs, None
        if most is None:
            return ()
        if message is None or (message.start, message.count) != (self._branch.committed, len(tokens)):
            raise RemoteProtocolError("state", "the edge did not say how likely the tokens are that it commits")
        return decode_logprobs(message.body, tokens, most, self._vocab_size)

    def _review(self) -> None:
        """Ask the policy again, if the last time was a while ago."""
        now = self._machine._now
        if self.curious and now - self._reviewed_s >= REVIEW_S:
            self._reviewed_s = now
            self._facts = self._machine.estimator.facts()
            self._apply(self._policy.choose(self._facts, now))

    def _apply(self, mode: Mode) -> None:
        """Go on as `mode` says: at once, or once the edge has answered the switch that it takes.

        May look at nothing that was drafted beyond the committed text: what follows is drawn afresh, and a choice that
        knew the noise of those positions would bias it.
        """
        before, self._mode = self._scheme, mode
        self._spec = self._spec_of(mode)
        scheme = self._make()
        alike = type(scheme) is type(before) if scheme.traits.rounds else scheme.race == before.race
        if scheme.traits.rounds == before.traits.rounds and alike:
            return
        self._machine._send(Switch(self.number, self._spec, self._recovered))
        self._recovered = None
        self._answers_due += 1
        if scheme.traits.rounds and not before.traits.rounds:
            self._state = State.SWITCHING
            return
        self._scheme = scheme
        if not scheme.traits.rounds:
            self._state = State.STREAMING
