"""Small random models, and machines with a test at the other end of the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from airdraft.control.machine import device_machine
from airdraft.core.bits import BitWriter, id_width
from airdraft.core.edge import EdgeMachine, Limits, Propose, Target, nobody
from airdraft.core.events import Event, Forward, Note, Ready
from airdraft.core.messages import (
    VERSION,
    Decoder,
    Digest,
    Draft,
    Hello,
    Message,
    Open,
    SchemeSpec,
    ToDevice,
    ToEdge,
    Welcome,
    encode,
)
from airdraft.core.policy import Facts, Mode
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.models.base import FloatArray
from airdraft.sim.conformance import TableModel
from airdraft.sim.running import run as rows_of

SPECS = {
    "server": SchemeSpec("server"),
    "dense": SchemeSpec("dense"),
    "topk-2x4": SchemeSpec("topk", k=2, bits=4),
    "topk-3x8": SchemeSpec("topk", k=3, bits=8),
    "topk-64x16": SchemeSpec("topk"),
    "lattice-3x9": SchemeSpec("lattice", k=3, resolution=9),
    "lattice-64x240": SchemeSpec("lattice"),
    "dense-block": SchemeSpec("dense", verify="block"),
    "topk-3x8-block": SchemeSpec("topk", k=3, bits=8, verify="block"),
    "lattice-3x9-block": SchemeSpec("lattice", k=3, resolution=9, verify="block"),
    "topk-mass": SchemeSpec("topk", k=4, bits=8, mass=0.8),
    "topk-candidates": SchemeSpec("topk", k=4, bits=8, candidates=3),
    "topk-candidates-mass": SchemeSpec("topk", k=4, bits=6, candidates=2, mass=0.7),
    "lattice-mass-block": SchemeSpec("lattice", k=4, resolution=9, verify="block", mass=0.8),
    "lattice-conformal": SchemeSpec("lattice", k=4, resolution=9, mass=0.2, cut="conformal"),
    "split-row-4": SchemeSpec("split", bits=4),
    "split-row-16": SchemeSpec("split"),
    "split-candidates-6": SchemeSpec("split", bits=6, downlink="candidates"),
    "coupled": SchemeSpec("coupled"),
}

OFTEN = ("topk-3x8", "dense-block", "split-row-16", "coupled")
"""Schemes whose tests run often where those of the others run in the slow suite: one of each kind."""

STREAMS = {race: SchemeSpec("stream", race=race) for race in ("off", "idle", "always")}


def table(
    seed: int, vocab: int = 5, scale: float = 1.5, context: int = 4096, eos_ids: tuple[int, ...] = ()
) -> TableModel:
    """Make a model whose row after each prefix is drawn once. Models of two seeds are unrelated."""

    def row(prefix: tuple[int, ...]) -> FloatArray:
        return np.random.default_rng([seed, *prefix]).normal(0.0, scale, vocab).astype(np.float32)

    return TableModel(row, vocab, context, eos_ids)


def alike(base: TableModel, seed: int, noise: float = 0.5, context: int | None = None) -> TableModel:
    """Make a model that resembles `base`, as a draft model resembles its target."""

    def row(prefix: tuple[int, ...]) -> FloatArray:
        bent = np.random.default_rng([seed, *prefix]).normal(0.0, noise, base.vocab_size)
        return (base.row(prefix) + bent).astype(np.float32)

    return TableModel(row, base.vocab_size, context or base.max_context, base.eos_ids)


def packed(tokens: Iterable[int], vocab: int) -> bytes:
    """Pack ids as on the wire."""
    out = BitWriter()
    out.write(list(tokens), id_width(vocab))
    return out.bytes()


def hello(vocab: int = 5) -> Hello:
    return Hello(VERSION, "test", "draft", bytes(16), vocab)


def welcome(**changes: object) -> Welcome:
    fields: dict[str, object] = {
        "version": VERSION, "software": "test", "model": "target", "max_context": 64, "max_frame": 4096,
        "max_draft": 8, "max_sessions": 4, "heartbeat_s": 10.0, "eos_ids": (4,),
    }  # fmt: skip
    return Welcome(**{**fields, **changes})  # type: ignore[arg-type]


def opening(
    session: int = 1,
    tokens: tuple[int, ...] = (0, 1),
    scheme: SchemeSpec = SPECS["coupled"],
    max_tokens: int = 8,
    vocab: int = 5,
    params: SamplingParams | None = None,
    seed: int = 7,
) -> Open:
    return Open(
        session, scheme, params or SamplingParams(), seed, max_tokens, len(tokens), len(tokens),
        packed(tokens, vocab), Digest(tokens).value,
    )  # fmt: skip


def drafting(before: tuple[int, ...], drafts: tuple[int, ...], session: int = 1, seq: int = 1, vocab: int = 5) -> Draft:
    """Make a `coupled` draft after the text `before`."""
    return Draft(session, seq, len(before), len(before), Digest(before).value, len(drafts), packed(drafts, vocab))


@dataclass
class Fickle:
    """A policy that changes its mind at every call."""

    modes: list[Mode]
    asked: int = 0

    def choose(self, facts: Facts, now: float) -> Mode:
        self.asked += 1
        return self.modes[(self.asked - 1) % len(self.modes)]


class EdgeSide:
    """An edge's machine with its model; the test is the device."""

    def __init__(
        self,
        target: TableModel,
        limits: Limits | None = None,
        *,
        run: bool = True,
        propose: Propose = nobody,
        trees: bool = False,
    ) -> None:
        """If `run` is False, forwards wait in `forwards`."""
        vocab, context = target.vocab_size, target.max_context
        identity = Target("test", "target", bytes(16), vocab, context, target.eos_ids, trees=trees)
        self.machine = EdgeMachine(identity, limits or Limits(), now=0.0, propose=propose)
        self.events: list[Event] = []
        self.notes: list[Note] = []
        self.on_event: Callable[[Event], None] = lambda event: None
        self.forwards: list[Forward] = []
        self.run = run
        self._target = target
        self._caches: dict[int, list[int]] = {}
        self._decoder = Decoder(ToDevice)

    def send(self, *messages: Message) -> list[Message]:
        """Send messages and return the answers."""
        return self.feed(b"".join(encode(message) for message in messages))

    def feed(self, data: bytes) -> list[Message]:
        """Send bytes and return the answers."""
        self._serve(self.machine.receive(data, now=0.0))
        return list(self._decoder.feed(self.machine.take()))

    def forward(self) -> list[Message]:
        """Run the oldest waiting forward, and return the edge's messages."""
        event = self.forwards.pop(0)
        cache = self._caches.setdefault(event.session, self._target.new_cache())
        logits = rows_of(self._target, cache, event)
        self._serve(self.machine.forwarded(event.session, logits, now=0.0))
        return list(self._decoder.feed(self.machine.take()))

    def _serve(self, events: list[Event]) -> None:
        for event in events:
            if not isinstance(event, Forward):
                self.on_event(event)
            if isinstance(event, Note):
                self.notes.append(event)
                continue
            if not isinstance(event, Forward):
                self.events.append(event)
                continue
            self.forwards.append(event)
        while self.run and self.forwards:
            event = self.forwards.pop(0)
            cache = self._caches.setdefault(event.session, self._target.new_cache())
            logits = rows_of(self._target, cache, event)
            self._serve(self.machine.forwarded(event.session, logits, now=0.0))


class DeviceSide:
    """A device's machine with its model; the test is the edge."""

    def __init__(self, draft: TableModel, answer: Welcome | None = None, *, run: bool = True) -> None:
        self.machine = device_machine(hello(draft.vocab_size), draft.max_context, now=0.0)
        self.events: list[Event] = []
        self.forwards: list[Forward] = []
        self.run = run
        self._draft = draft
        self._caches: dict[int, list[int]] = {}
        self._decoder = Decoder(ToEdge)
        self.said = list(self._decoder.feed(self.machine.take()))
        if answer:
            self.send(answer)
            assert isinstance(self.events.pop(), Ready)

    def send(self, *messages: Message) -> list[Message]:
        """Send the edge's messages, and return the device's answers."""
        return self.feed(b"".join(encode(message) for message in messages))

    def feed(self, data: bytes) -> list[Message]:
        self._serve(self.machine.receive(data, now=0.0))
        return self._heard()

    def open(self, request: Request) -> list[Message]:
        """Start a text, and return the device's messages."""
        _, events = self.machine.open(request, now=0.0)
        self._serve(events)
        return self._heard()

    def _heard(self) -> list[Message]:
        return list(self._decoder.feed(self.machine.take()))

    def _serve(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Note):
                continue
            if not isinstance(event, Forward):
                self.events.append(event)
                continue
            self.forwards.append(event)
        while self.run and self.forwards:
            event = self.forwards.pop(0)
            cache = self._caches.setdefault(event.session, self._draft.new_cache())
            logits = self._draft.forward(cache, event.keep, event.tokens, event.rows)
            self._serve(self.machine.forwarded(event.session, logits, now=0.0))


def request(
    scheme: SchemeSpec = SPECS["coupled"],
    params: SamplingParams | None = None,
    seed: int = 7,
    max_tokens: int = 8,
    draft_length: int = 3,
    prompt: tuple[int, ...] = (0, 1),
    committed: tuple[int, ...] = (),
) -> Request:
    return Request(prompt, scheme, params or SamplingParams(), seed, max_tokens, draft_length, committed)
