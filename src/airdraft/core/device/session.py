"""One text on the device, which drafts, sends and commits.

    DRAFTING ──Draft──▶ VERIFYING ──Verdict──▶ DRAFTING … ──▶ DONE            schemes with rounds
                            │ `split`, no candidate taken
                            └──More──▶ RECOVERING ──Extra──▶ DRAFTING
    STREAMING ──Tokens──▶ STREAMING … ──▶ DONE                                `stream`, `server`
    STREAMING ──Switch──▶ SWITCHING ──Opened──▶ DRAFTING                      back to rounds

The first draft follows `Open` without waiting for `Opened`, so a text costs no round trip to start.

A stream keeps drafting while earlier drafts are in flight, up to its window beyond the committed text. A commit that
differs from a draft ends that branch. Drafting then starts again after the commit, and drafts in flight are wasted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import structs

from airdraft.core.bits import pack
from airdraft.core.connection import known_rows
from airdraft.core.device.pen import Making, Pen
from airdraft.core.events import Begun, Committed, Finished, Out, Recovering, Taken, Turning
from airdraft.core.law import Guide, Law
from airdraft.core.logprobs import Logprob, bounded, check_logprobs, decode_logprobs
from airdraft.core.messages import (
    Close,
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
    encode,
)
from airdraft.core.policy import Given, Judged, Mode
from airdraft.core.request import Request
from airdraft.core.schemes import DEVICE as SIDE
from airdraft.core.schemes import SERVER, Scheme
from airdraft.core.states import DEVICE
from airdraft.core.states import DeviceState as State
from airdraft.core.text import Prefix
from airdraft.errors import Code, LocalProtocolError, RemoteProtocolError

HEADER_BYTES = 46
"""Approximate size of the TCP/IP and WebSocket headers of a packet."""
VERDICT_BYTES = 14
"""Approximate size of a `Verdict`, without the `extra` of `split`."""
REVIEW_S = 0.25
"""Seconds after which the next commit asks the policy again."""


class DeviceSession:
    """One text on the device."""

    def __init__(self, number: int, request: Request, making: Making, now: float, guide: Guide | None = None) -> None:
        welcome, tokens = making.peer.welcome, [*request.prompt, *request.committed]
        self.number, self.counts, end = number, request.counts, len(request.prompt) + request.max_tokens
        self.text = Prefix(tokens, min(end, welcome.max_context), welcome.eos_ids)
        self.text.guided(guide, len(request.prompt))
        self._peer, self._request, self._learner, self._make_scheme = making.peer, request, making.learner, making.make
        self._law = Law(request.params, request.seed, making.vocab_size)
        self._pen = Pen(number, self.text, self._law, request, making)
        self._rounds = self._pen.rounds
        self._logprobs: Logprobs | None = None  # for the tokens that the next message commits
        self._answers_due, self._is_open = 1, False  # the `Opened` for `Open` and for every `Switch`
        self._now = self._opened_s = self._reviewed_s = self._ruled_s = now
        self._queued_s, self._opening_bytes = self._learner.queued_s(now), 0  # how long `Open` waits to leave, its size
        self._facts = making.facts
        self._policy = request.policy or making.plan(request, making.vocab_size, self._pen.most)
        self.curious = not isinstance(self._policy, Given) or request.rule is not None or self._pen.measures
        """Whether any decision depends on measurements."""
        self._pen.facts = self._facts()
        self._pen.mode = self._policy.choose(self._pen.facts, now)
        scheme = self._make()
        self._pen.begin(State.DRAFTING if scheme.traits.rounds else State.STREAMING, scheme)

    @property
    def state(self) -> State:
        """The text's state."""
        return self._pen.state

    @property
    def owes(self) -> bool:
        """Whether the edge must answer, even if the device sends nothing more."""
        return self._answers_due > 0 or self._pen.is_answer_due

    def _spec(self) -> SchemeSpec:
        return self._pen.mode.spec(self._request.scheme)

    def _make(self) -> Scheme:
        spec = self._spec()
        check_logprobs(self._request.logprobs, spec.name)
        return self._make_scheme(spec, self._law, SIDE)

    def opening(self) -> Open:
        """Make the message that opens the session."""
        request, text, vocab = self._request, self.text, self._law.vocab_size
        prompt_length = len(request.prompt)
        message = Open(
            self.number, self._spec(), request.params, request.seed,
            int(text.end) - prompt_length,  # no more than fit
            prompt_length, text.length, pack(text.tokens, vocab), text.digest, request.logprobs,
            len(request.prediction), pack(request.prediction, vocab), request.private, request.guide,
        )  # fmt: skip
        self._opening_bytes = len(encode(message))
        return message

    def begin(self, opening: Open, now: float) -> list[Out]:
        """Open the text with its message, and start to draft."""
        name, private = opening.scheme.name, opening.private
        begun = Begun(self.number, opening.prompt_length, opening.length, opening.max_tokens, name, private)
        self._now = now
        return [begun, opening, *self._advance()]

    def handle(self, message: Message, now: float) -> list[Out]:
        """Act on a message from the edge. Raises: `RemoteProtocolError` if it does not fit the state."""
        self._now, state = now, self.state
        if isinstance(message, Opened) and self._answers_due:
            return self._answered(message)
        if not self._is_open:
            raise RemoteProtocolError(Code.STATE, f"{type(message).__name__} arrived before Opened")
        if type(message) in DEVICE[state]:
            if isinstance(message, Verdict) and message.seq == self._pen.seq:
                return self._ruled(message)
            if isinstance(message, Extra) and message.seq == self._pen.seq:
                return [Recovering(self.number, answered=True), *self._recover(message.extra)]
            if isinstance(message, Tokens) and message.start == self.text.length:
                return self._streamed(message)
            if isinstance(message, Logprobs) and self._logprobs is None and self._request.logprobs is not None:
                self._logprobs = bounded(message, self._pen.branch.depth, self._request.logprobs, self._law.vocab_size)
                return []
        raise RemoteProtocolError(Code.STATE, f"{type(message).__name__} arrived while {state.value}")

    def forwarded(self, logits: np.ndarray, now: float) -> list[Out]:
        """Take the draft model's row for the next token, [1, vocab or more]."""
        self._now = now
        if not self._pen.branch.asking:
            raise LocalProtocolError(f"forwarded() while {self.state.value}: no forward was asked for")
        self._pen.told(known_rows(logits, self._pen.rows, self._law.vocab_size), now)
        return self._advance()

    def _advance(self) -> list[Out]:
        """Draft, and send the drafts that are due."""
        outs = self._pen.advance(self._now)
        cannot = self.state is State.STREAMING and self._pen.reach <= self.text.length
        if cannot and self._pen.scheme.race == "off":
            outs += self._apply(Mode(SERVER, 0))  # no drafts are allowed, so the edge goes on alone
        return outs

    def _answered(self, message: Opened) -> list[Out]:
        if (message.committed, message.digest) != (self.text.length, self.text.digest):
            raise RemoteProtocolError(Code.STATE, "the edge goes on from another prefix than ours")
        if not self._is_open:
            elapsed_s = self._now - self._opened_s
            self._request.counts.cached = min(message.cached, self.text.length)
            self._exchanged(elapsed_s, self._opening_bytes, len(encode(message)), min(elapsed_s, self._queued_s))
        self._is_open, self._answers_due = True, self._answers_due - 1
        taken = Taken(self.number, self.text.length)
        if self.state is not State.SWITCHING or self._answers_due:
            return [taken]
        self._pen.begin(State.DRAFTING, self._make())
        return [taken, *self._advance()]

    def _ruled(self, verdict: Verdict) -> list[Out]:
        rounds, verify_s = self._rounds, self._peer.verify_s
        probs = tuple(rounds.probs)
        if self.curious and self._pen.seq > 1 and verify_s:  # the first waits for the prefill
            self._exchanged(self._now - rounds.sent_s, rounds.sent_bytes, VERDICT_BYTES + len(verdict.extra), verify_s)
        ruled = rounds.ruled(verdict, self.text.eos_ids, self._peer.welcome.max_draft)
        accepted, rejected, rule = ruled.accepted, ruled.failed, self._request.rule
        if rule and self._pen.seq > 1:
            rule.learn(len(ruled.tokens) + (ruled.rejected is not None), self._now - self._ruled_s)
        self._ruled_s, self._pen.state = self._now, State.DRAFTING
        outs = self._commit(ruled.tokens, accepted, ruled.kind, (verdict.committed, verdict.digest))
        self._judged(Judged(accepted, rejected, accepted, accepted, accepted + rejected, False, True, probs))
        return outs + (self._go_on() if ruled.rejected is None else self._recover(verdict.extra))

    def _recover(self, extra: bytes) -> list[Out]:
        self.counts.downlink_payload_bytes += len(extra)
        token = self._rounds.recover(self._pen.scheme, extra, self.text.place)
        if token is None:
            self._pen.state = State.RECOVERING
            return [Recovering(self.number, answered=False), More(self.number, self._pen.seq)]
        self._pen.state = State.DRAFTING
        return self._commit([token], 0, "recovered", None) + self._go_on()

    def _streamed(self, message: Tokens) -> list[Out]:
        branch = self._pen.branch
        tokens = self._pen.stream.committed(branch, message, self._pen.seq)
        judged = self._pen.stream.judged(branch, message, tokens, self._pen.mode, self._now)
        kind = "target" if not message.drafted else "bonus" if message.accepted == message.drafted else "recovered"
        outs = self._commit(tokens, message.accepted, kind, (self.text.length + len(tokens), message.digest))
        self._judged(judged)
        self.counts.raced += 0 if message.drafted else len(message.tokens)
        return outs + self._go_on()

    def _judged(self, verdict: Judged) -> None:
        """Count a target forward."""
        self.counts.forwards += 1
        self.counts.accepted += verdict.accepted
        self.counts.rejected += verdict.rejected
        self._learner.judged(verdict)

    def _exchanged(self, seconds: float, up_bytes: int, down_bytes: int, held_s: float) -> None:
        self._learner.exchanged(seconds, up_bytes + HEADER_BYTES, down_bytes + HEADER_BYTES, held_s)

    def _commit(self, tokens: list[int], accepted: int, kind: str, theirs: tuple[int, int] | None) -> list[Out]:
        """Append `tokens` to the text, after checking length and digest against the edge's."""
        text, branch = self.text, self._pen.branch
        if any(token >= self._law.vocab_size for token in tokens):
            raise RemoteProtocolError(Code.GARBAGE, "the edge committed an id outside the vocabulary")
        if text.length + len(tokens) > text.end or not text.eos_ids.isdisjoint(tokens[:-1]):
            raise RemoteProtocolError(Code.STATE, "the edge committed more tokens than were asked for")
        if theirs is not None and theirs != (text.length + len(tokens), text.digest_after(tokens).value):
            what = "the edge's text differs from ours: its length or digest does not match"
            raise RemoteProtocolError(Code.STATE, what)
        if not tokens:  # the first draft was rejected, and the device must replace it
            return []
        logprobs, copied = self._logprobs_of(tokens), self._pen.copies(tokens[:accepted])
        over = branch.commit(tokens)
        if self.state is State.DRAFTING:  # all drafts of the round are judged
            branch.clear()
        self.counts.committed += len(tokens)
        outs: list[Out] = [Committed(self.number, tuple(tokens), accepted, kind, logprobs, copied)]
        if over:
            self._pen.state = State.DONE
            outs += [Close(self.number, over), Finished(self.number, over)]
        return outs

    def _logprobs_of(self, tokens: Sequence[int]) -> tuple[Logprob, ...]:
        """Return the log-probabilities of the tokens that the edge commits now."""
        most, message, self._logprobs = self._request.logprobs, self._logprobs, None
        if most is None:
            return ()
        if message is None or (message.start, message.count) != (self.text.length, len(tokens)):
            raise RemoteProtocolError(Code.STATE, "the edge did not say how likely the tokens are that it commits")
        return decode_logprobs(message.body, tokens, most, self._law.vocab_size)

    def _go_on(self) -> list[Out]:
        """Ask the policy again, if enough time has passed, and draft."""
        outs, settled = list[Out](), self.state in (State.DRAFTING, State.STREAMING)
        if settled and self.curious and self._now - self._reviewed_s >= REVIEW_S:
            self._reviewed_s = self._now
            self._pen.facts = self._facts()
            outs = self._apply(self._policy.choose(self._pen.facts, self._now))
        return outs + self._advance()

    def _apply(self, mode: Mode) -> list[Out]:
        """Change to `mode`, at once or when the edge has answered a switch.

        The choice must not depend on drafts beyond the committed text. Tokens there are drawn again, and a choice that
        knew the noise of their positions would bias them.
        """
        before, spec, self._pen.mode = self._pen.scheme, self._spec(), mode
        scheme = self._make()
        rounds, had_rounds = scheme.traits.rounds, before.traits.rounds
        alike = structs.replace(self._spec(), race=spec.race) == spec if rounds else scheme.race == before.race
        if rounds == had_rounds and alike:
            return []
        recovered, self._rounds.recovered = self._rounds.recovered, None
        self._pen.stream.changed()
        self._answers_due += 1
        if rounds and not had_rounds:
            self._pen.state = State.SWITCHING
        elif had_rounds and not rounds:
            self._pen.begin(State.STREAMING, scheme)
        else:
            self._pen.scheme = scheme
        return [Turning(self.number, self._spec().name), Switch(self.number, self._spec(), recovered)]
