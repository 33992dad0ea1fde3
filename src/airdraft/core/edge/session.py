"""One text at the edge, which verifies drafts, writes without them, and reports commits.

OPENING ──prefill──▶ IDLE ──Draft──▶ VERIFYING ──Verdict──▶ IDLE … ──▶ (Close)
PRELOADING ──prefill──▶ STREAMING ──Tokens──▶ STREAMING … ──▶ (Close)       without rounds: `stream`, `server`

Without rounds, drafts may arrive at any time. Each forward takes those that follow the committed text when it starts.
If there are none, the race policy decides whether the edge writes a token on its own or waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from airdraft.core import schemes
from airdraft.core.connection import known_rows
from airdraft.core.edge.proposing import Help, Load, Pace
from airdraft.core.edge.rounds import EdgeRounds
from airdraft.core.edge.stream import EdgeStream
from airdraft.core.edge.target import Target
from airdraft.core.events import Begun, Forward, Offered, Out, Recovering, Taken, Turning
from airdraft.core.law import Guide, Law
from airdraft.core.logprobs import Logprob, check_logprobs, encode_logprobs, logprob_of
from airdraft.core.messages import Draft, Extra, Logprobs, Message, More, Opened, SchemeSpec, Switch
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Ruling, Scheme
from airdraft.core.states import EDGE, Action
from airdraft.core.states import EdgeState as State
from airdraft.core.text import Prefix
from airdraft.errors import Code, LocalProtocolError, RemoteProtocolError

_METHODS = {
    Action.KEEP: "_keep", Action.OFFER: "_offer", Action.VERIFY: "_verify", Action.SWITCH: "_to_switch",
    Action.ADD: "_add", Action.IGNORE: "_ignore",
}  # fmt: skip
"""The methods that act on messages, by name: a session that held its own methods would outlive its last use."""

SPARE_SWITCHES = 16
"""A device may switch twice for each token that is committed, and so often besides: each switch costs an answer."""


class EdgeSession:
    """One text at the edge."""

    def __init__(
        self,
        number: int,
        text: Prefix,
        law: Law,
        spec: SchemeSpec,
        target: Target,
        stream: EdgeStream,
        logprobs: int | None = None,
        make: Callable[[SchemeSpec, Law, int], Scheme] = schemes.make,
    ) -> None:
        """
        Args:
            text: prompt and committed tokens; only the session writes to it.
            stream: of this text, for while it has no rounds; it knows how many drafts a forward takes.
            logprobs: as in `Open`.
        Raises: `BadParameterError` for a text that the target cannot write exactly, or a bad scheme.
        """
        target.check(law.params, logprobs)
        self.text = text
        self._number, self._law, self._make_scheme = number, law, make
        self._logprobs, self._target = logprobs, target
        self._scheme, self._name = self._make(spec), spec.name
        self.rounds, self._stream = EdgeRounds(stream.leaves), stream
        self.state = State.OPENING if self._scheme.traits.rounds else State.PRELOADING
        self._seq = self._switches = 0  # the last draft that arrived, and how many switches
        self._load = Load()  # of the forward under way
        self._picks: tuple[int, ...] = ()  # see `Forward.picks`
        self._forwarding = self._recovery_due = False
        self._is_read = self._loaded = False  # whether the prompt is read, and the guide too
        self._switch: SchemeSpec | None = None  # the scheme that follows the forward under way

    def _make(self, spec: SchemeSpec) -> Scheme:
        check_logprobs(self._logprobs, spec.name)
        return self._make_scheme(spec, self._law, schemes.EDGE)

    def begin(self, prompt_length: int, cached: int = 0, private: int | None = None) -> list[Out]:
        """Answer the device and prefill the prompt, except its last token, which the first verification feeds."""
        text = self.text
        begun = Begun(self._number, prompt_length, text.length, int(text.end) - prompt_length, self._name, private)
        prefill = Forward(self._number, 0, tuple(text.tokens[:-1]), 0)
        return [begun, *self._confirm(cached), *([prefill] if text.length > 1 else self._prefilled())]

    def guided(self, guide: Guide | None) -> list[Out]:
        """Let the text keep to a grammar. Raises: `RemoteProtocolError` if what is committed does not."""
        self.text.guided(guide, self.text.length if self.text.unguided is None else self.text.unguided)
        return self._prefilled() if self._is_read else []

    def latest(self, forward: Forward) -> Forward:
        """Return the forward to run when its turn comes, with any drafts that arrived since."""
        streams = self.state in (State.STREAMING, State.SWITCHING) and not self._scheme.traits.rounds
        return self._next() if streams and forward.rows and not forward.draft else forward

    def handle(self, message: Message) -> list[Out]:
        """Act on a message from the device. Raises: `RemoteProtocolError`, or `BadParameterError` for a bad scheme."""
        action = EDGE[self.state].get(type(message))
        if action is None:
            raise RemoteProtocolError(Code.STATE, f"{type(message).__name__} arrived while {self.state.value}")
        return getattr(self, _METHODS[action])(message)  # type: ignore[no-any-return]

    def judge(self, logits: np.ndarray) -> Ruling | None:
        """Rule on the drafts in the target's forward under way, as `forwarded` would, in any thread; on no prefill."""
        if not self._loaded or self._stream.drafting:
            return None
        drafts = self._load.drafts
        return self._scheme.verify(drafts, known_rows(logits, len(drafts) + 1, self._law.vocab_size), self.text.place)

    def forwarded(self, logits: np.ndarray, ruling: Ruling | None = None) -> list[Out]:
        """Commit tokens from the rows asked for, [rows, vocab or more]. `ruling`: what `judge` has said of them."""
        if not self._loaded:
            return self._prefilled()
        if self._stream.drafting:
            self._stream.told(logits, self._law.vocab_size)
            return self._drafted()
        if not self._forwarding:
            raise LocalProtocolError(f"forwarded() while {self.state.value}: no forward was asked for")
        text, load, start = self.text, self._load, self.text.length
        if ruling is None and (ruling := self.judge(logits)) is None:
            return []
        self._forwarding = False
        ruling, path = _ended(ruling, load.drafts.tokens, text.eos_ids)
        tokens, self._picks = path if ruling.token is None else [*path, ruling.token], load.picks(ruling)
        self._append(tokens)
        rounds = self._scheme.traits.rounds
        self._recovery_due = rounds and ruling.token is None and text.over is None
        committed = len(tokens) + self._recovery_due
        outs: list[Out] = [load.progress(self._number, start, ruling, committed, rounds)]
        if self._logprobs is not None:
            rows = logits[[0, *(node + 1 for node in ruling.path)]]
            outs.append(_said(self._number, start, tokens, rows, self._logprobs, self._target))
        if not rounds:
            return outs + self._streamed(start, ruling)
        self.state = State.DONE if text.over else State.RECOVERING if self._recovery_due else State.IDLE
        return [*outs, self.rounds.verdict(self._number, self._seq, ruling, text)]

    def unhelped(self) -> list[Out]:
        """Go on without the edge's own draft model, whose forward cannot run."""
        self._stream.unhelped()
        return self._drafted()

    def _drafted(self) -> list[Out]:
        self._forwarding = False
        return self._go_on() if self._switch is None else self._switched()

    def _streamed(self, start: int, ruling: Ruling) -> list[Out]:
        outs: list[Out] = [self._stream.tokens(self._number, self._seq, start, ruling, self._load)]
        if self.text.over:
            self.state = State.STREAMED
            return outs
        return outs + (self._go_on() if self._switch is None else self._switched())

    def _confirm(self, cached: int = 0) -> list[Out]:
        """Confirm the scheme, and the position where the text goes on."""
        length, digest = self.text.length, self.text.digest
        return [Taken(self._number, length), Opened(self._number, length, digest, cached)]

    def _prefilled(self) -> list[Out]:
        self._is_read = True
        if self.text.unguided is not None:
            return []
        self._loaded = True
        if self._switch is not None:
            return self._switched()
        self.state = State.IDLE if self._scheme.traits.rounds else State.STREAMING
        waiting, self.rounds.waiting = self.rounds.waiting, None
        return self._start(waiting) if waiting else self._go_on()

    def _go_on(self) -> list[Out]:
        """Without rounds, start the next forward if one is due and none is under way."""
        if self.state is not State.STREAMING or self._forwarding:
            return []
        forward = self._next()
        if self._stream.waits(self._scheme):
            return []
        self._forwarding = True
        return [self._stream.ask(self._number, forward.spare) or forward]

    def _next(self) -> Forward:
        self._load = self._stream.next()
        spare = self._stream.is_spare(self._scheme)
        return self._load.forward(self._number, self.text, self._picks, self._scheme, self._logprobs, spare)

    def _keep(self, message: Draft) -> list[Out]:
        self.rounds.keep(message, self._scheme, self._stream.room)
        self.state = State.WAITING
        return [_offered(self._number, message)]

    def _offer(self, message: Draft) -> list[Out]:
        self._stream.offer(message, self._scheme)
        self._seq = message.seq
        return [_offered(self._number, message), *self._go_on()]

    def _ignore(self, message: Message) -> list[Out]:
        drafts = [message] if isinstance(message, Draft) else []
        return [_offered(self._number, self._stream.checked(each, self._scheme)) for each in drafts]

    def _verify(self, message: Draft) -> list[Out]:
        return [_offered(self._number, message), *self._start(message)]

    def _start(self, message: Draft) -> list[Out]:
        self._recover(message.recovered)
        drafts = self.rounds.open(message, self.text, self._scheme, self._stream.room)
        self._load = Load(drafts, len(drafts))
        self._seq, self.state, self._forwarding = message.seq, State.VERIFYING, True
        return [self._load.forward(self._number, self.text, self._picks, self._scheme, self._logprobs, spare=False)]

    def _add(self, message: More) -> list[Out]:
        if message.seq != self._seq:
            raise RemoteProtocolError(Code.STATE, f"draft {message.seq} is not the one that was rejected last")
        extra = Extra(self._number, self._seq, self._scheme.more())
        return [Recovering(self._number, answered=False), Recovering(self._number, answered=True), extra]

    def _to_switch(self, message: Switch) -> list[Out]:
        self._switches += 1
        if self._switches > SPARE_SWITCHES + 2 * (self.text.length - self.text.begin):
            raise RemoteProtocolError(Code.STATE, f"{self._switches} switches came, for few tokens; switch less often")
        outs: list[Out] = [Turning(self._number, message.scheme.name)]
        self._recover(message.recovered)
        if self.text.over:
            raise RemoteProtocolError(Code.STATE, "a switch came after the recovered token that ended the text")
        scheme = self._make(message.scheme)
        rounds = scheme.traits.rounds
        if not self._loaded and not (rounds or self._scheme.traits.rounds):
            self._scheme = scheme
            return outs + self._confirm()
        self._switch = message.scheme
        # A race policy may change at any time, but rounds wait for the forward under way.
        if not self._loaded or (self._forwarding and rounds):
            self.state = State.SWITCHING
            return outs
        return outs + self._switched()

    def _switched(self) -> list[Out]:
        """Change to the new scheme, from the next commit on."""
        spec, self._switch = self._switch, None
        if spec is not None:
            self._scheme = self._make(spec)
        rounds = self._scheme.traits.rounds
        self.state = State.IDLE if rounds else State.STREAMING
        if rounds:
            self._stream.tail.clear()
        return self._confirm() + self._go_on()

    def _recover(self, token: int | None) -> None:
        """Take the token that the device drew after a rejection."""
        if (token is not None) != self._recovery_due:
            raise RemoteProtocolError(Code.STATE, "a recovered token is missing, or came where none was due")
        if token is not None:
            if token >= self._law.vocab_size:
                raise RemoteProtocolError(Code.GARBAGE, "the recovered token is outside the vocabulary")
            self._append([token])
            self._recovery_due = False

    def _append(self, tokens: Sequence[int]) -> None:
        self.text.append(tokens)
        self._stream.advance(tokens)


def opened(
    number: int, text: Prefix, params: SamplingParams, seed: int, spec: SchemeSpec, target: Target, stream: EdgeStream,
    logprobs: int | None, help: Help | None, pace: Pace, make: Callable[[SchemeSpec, Law, int], Scheme] = schemes.make,
) -> EdgeSession:  # fmt: skip
    """Open a text, with a helper if the edge has a draft model of its own. Raises: as `EdgeSession`."""
    law = Law(params, seed, target.vocab_size, target.doubt)
    if help is not None:
        stream.helped(help, make(SchemeSpec(schemes.STREAM), law, schemes.DEVICE), pace)
    return EdgeSession(number, text, law, spec, target, stream, logprobs, make)


def _ended(ruling: Ruling, ids: Sequence[int], eos_ids: Collection[int]) -> tuple[Ruling, list[int]]:
    """Cut a ruling at an accepted token that ends the text, as nothing follows it. Returns its accepted tokens too."""
    path = [ids[node] for node in ruling.path]
    ending = next((at for at, token in enumerate(path) if token in eos_ids), None)
    if ending is None:
        return ruling, path
    return Ruling(ruling.path[: ending + 1], None), path[: ending + 1]


def _offered(number: int, message: Draft) -> Offered:
    return Offered(number, message.start, message.count, len(message.body))


def _said(number: int, start: int, tokens: Sequence[int], rows: np.ndarray, most: int, target: Target) -> Logprobs:
    """Say how likely committed tokens are, given the rows that they were chosen from, [rows, vocab or more]."""
    vocab_size, normalised = target.vocab_size, target.top_k is not None
    known = [
        row if isinstance(row, Logprob) else logprob_of(row[:vocab_size], token, most, normalised=normalised)
        for row, token in zip(rows, tokens, strict=False)
    ]
    return Logprobs(number, start, len(tokens), encode_logprobs(known, vocab_size))
