"""Input that no honest peer would send, made from valid streams of messages, and what both machines do with it.

An input is a string of bytes: the part to feed, a world (models, limits, requests), a schedule (cuts, late forwards),
and then what comes over the wire. Every input must end in events or in an error of the protocol, in bounded time and
memory, and may ask of a model only what it can do.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np

from airdraft.control.auto import Auto
from airdraft.control.machine import device_machine
from airdraft.core import schemes
from airdraft.core.device import DeviceMachine
from airdraft.core.edge import EdgeMachine, Limits, Target
from airdraft.core.events import Compile, Event, Failed, Finished, Forward, Ready
from airdraft.core.messages import ERROR_CODES, VERSION, Decoder, Hello, SchemeSpec, ToDevice, ToEdge
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, Code, ModelError, RemoteProtocolError
from airdraft.guides import Bias, Guides, of_bias, of_json, of_lark, of_regex
from airdraft.lab import spelling
from airdraft.lab.helps import PREDICTIONS, predicted, tenant
from airdraft.models.base import FloatArray
from airdraft.proposers import PROPOSERS, USUAL, drafting
from airdraft.sim import alone
from airdraft.sim.conformance import TableCache, TableModel
from airdraft.sim.running import run as run_forward

PARTS = ("edge", "device", "decoder at the edge", "decoder on the device")
HEADER_BYTES = 3
VOCAB, CONTEXT = 6, 48
MAX_FRAME, WIDE_FRAME = 1 << 12, 4 << 20
"""Longest frame that the edge takes, and the one it takes if `WIDE` is set in the byte that names the part."""
WIDE = 0x80
PIECE = 1 << 16
"""Bytes of a wide input that are handed over at once, as the transport does."""
VERIFY_S, OWN_DRAFT_S = 1e-3, 1e-4
"""Seconds of a forward, and of one of the edge's own draft model, which then is worth it."""
MOST_FORWARDS = 600
"""Most forwards of one input: far more than its texts have positions."""
MOST_SAID = 1 << 20
"""Most bytes that a machine may have to send at once: far more than any answer takes."""
KNOWN_ENDS = {*ERROR_CODES, "stop", "length", "refused"}
SPECS = (
    SchemeSpec(schemes.COUPLED),
    SchemeSpec(schemes.STREAM),
    SchemeSpec(schemes.STREAM, race="off"),
    SchemeSpec(schemes.STREAM, race="idle"),
    SchemeSpec(schemes.SERVER),
    SchemeSpec(schemes.DENSE),
    SchemeSpec(schemes.TOPK, k=3, bits=5),
    SchemeSpec(schemes.LATTICE, k=3, resolution=9),
    SchemeSpec(schemes.LATTICE, k=VOCAB, resolution=30, verify="block"),
    SchemeSpec(schemes.SPLIT, bits=5),
    SchemeSpec(schemes.SPLIT, bits=6, downlink="candidates"),
    SchemeSpec(schemes.TOPK, k=5, bits=4, mass=0.8, candidates=3),
    SchemeSpec(schemes.LATTICE, k=5, resolution=9, mass=0.8, cut="conformal"),
)
WORLDS = 3 * len(SPECS)
PIECES = ("a", "b", "1", "[", "]", "</s>")
WORDS = of_regex(r"[ab1]*\]{2}")
FORMS = (
    None, None, of_json({"type": "array", "items": {"const": 11}, "maxItems": 1}), WORDS, None,
    of_bias(Bias(1.0, -0.5, 1.3, {1: 2.0}, bad_words=((0,), (1, 1)), min_tokens=4, typical_p=0.9, guide=WORDS)),
    of_lark('start: "[" start "]" | "a" start "b" | "1"'),
)  # fmt: skip
"""Guides of worlds, by their number."""


T = TypeVar("T")


class BrokenError(Exception):
    """A machine did what it must never do."""


def _table(seed: int, context: int = CONTEXT) -> TableModel:
    def row(prefix: tuple[int, ...]) -> FloatArray:
        return np.random.default_rng([seed, *prefix]).normal(0.0, 1.5, VOCAB).astype(np.float32)

    return TableModel(row, VOCAB, context, (5,))


def requests(world: int) -> list[Request]:
    """The texts of a world: of one scheme, or in every third world with a policy that chooses."""
    spec = SPECS[world % len(SPECS)]
    params = SamplingParams(0.0 if world % 2 else 0.8, 3 if world % 5 == 0 else 0)
    policy = (
        Auto(VOCAB, (schemes.SERVER, schemes.STREAM, schemes.COUPLED), dwell_s=0) if world >= 2 * len(SPECS) else None
    )
    logprobs = None if schemes.traits(spec.name).recovers_on == schemes.DEVICE else (None, 2, 0)[world // len(SPECS)]
    tree = (None, 1, 4, 0)[world % 4]
    prediction = () if schemes.traits(spec.name).rounds else _prediction(world, params)
    return [
        Request(
            (1, 2, 3),
            spec,
            params,
            world,
            12,
            1 + world % 4,
            policy=policy,
            logprobs=logprobs,
            branches=tree,
            guide=FORMS[world % len(FORMS)],
            prediction=prediction,
        ),
        Request((0,), spec, params, 1 + world, 7, None, committed=(1, 2), logprobs=logprobs),
    ]


@cache
def _prediction(world: int, params: SamplingParams) -> Sequence[int]:
    """What the first text of a world is expected to be: nothing, or something true, half true or false."""
    kind = (None, *PREDICTIONS)[world // 2 % 4]
    if kind is None:
        return ()
    text = list(alone.write(_table(world), (1, 2, 3), params, world, 12))
    return predicted(kind, text, VOCAB, random.Random(world))  # noqa: S311


def trees(world: int) -> bool:
    """Whether the models of a world run trees."""
    return world % 3 > 0


def part_of(data: bytes) -> str:
    """The part that an input is for."""
    return PARTS[data[0] % WIDE % len(PARTS)]


def guides() -> Guides:
    """What reads guides, on both sides."""
    return spelling.guides(PIECES, (), len(PIECES) - 1)


def models(world: int) -> tuple[TableModel, TableModel, Limits]:
    """Draft, target and limits of a world. In every other world the draft is the target itself, so every draft is
    accepted."""
    draft, target = _table(world + world % 2, CONTEXT - 10), _table(world)
    return draft, target, Limits(MAX_FRAME, 1 + world % 7, 3, 10.0)


def _machine(part: str, world: int, wide: bool) -> tuple[EdgeMachine | DeviceMachine, TableModel]:
    draft, target, limits = models(world)
    limits = replace(limits, max_frame=WIDE_FRAME) if wide else limits
    if part == "edge":
        identity = Target("fuzz", "t", bytes(16), VOCAB, CONTEXT, target.eos_ids, trees=trees(world), guides="x")
        propose = tenant(tuple(PROPOSERS), [(1, 2, 3, 4, 2, 0, 1, 2, 0)]) if world % 3 else tenant(USUAL, [])
        help = drafting(draft.max_context) if world % 5 else None
        return EdgeMachine(identity, limits, 0.0, VERIFY_S, propose=propose, help=help, draft_s=OWN_DRAFT_S), target
    hello = Hello(VERSION, "fuzz", "d", bytes(16), VOCAB)
    return device_machine(hello, draft.max_context, 0.0, wide=trees(world)), draft


class _Shell:
    """Drives one machine as a driver does, and checks what it asks for and says."""

    def __init__(self, part: str, world: int, schedule: random.Random, wide: bool) -> None:
        self.machine, self._model = _machine(part, world, wide)
        own, _, _ = models(world)
        self._own = None if world % 5 == 1 else own  # an edge's own draft model, which fails in some worlds
        self._requests = requests(world) if part == "device" else []
        self._said = Decoder(ToEdge if part == "device" else ToDevice, 1 << 30)
        self._schedule = schedule
        self._late = schedule.random() < 0.5
        self._pieces = (PIECE,) if wide else (1, 2, 7, 30, 200, 20000) if self._late else (8,)
        self._caches: dict[tuple[int, bool], TableCache] = {}  # by session, and whether the edge's own draft model's
        self._forwards: dict[int, Forward] = {}
        self._guides: list[Compile] = []
        self._ran = 0
        self._now = 0.0
        self.ends: set[str] = set()
        """Codes of errors and reasons of ends."""
        self.dearest_s = 0.0
        """CPU of the machine's dearest call: so long nobody else is served."""

    def _call(self, act: Callable[[], T]) -> T:
        """Call the machine, and time it."""
        before_s = time.thread_time()
        try:
            return act()
        finally:
            self.dearest_s = max(self.dearest_s, time.thread_time() - before_s)

    def receive(self, data: memoryview) -> None:
        """Feed bytes, cut anywhere; without delays in pieces no longer than a message, like those of an honest peer."""
        at = 0
        while at < len(data) and not self.machine.closed:
            size = self._schedule.choice(self._pieces)
            piece = bytes(data[at : at + size])
            self._serve(self._call(lambda: self.machine.receive(piece, self._now)))  # noqa: B023  called at once
            at += size
            self._run(self._schedule.randint(0, 3) if self._late else MOST_FORWARDS)
            if self._late:
                self._now += self._schedule.choice((0.0, 0.01, 1.0))
                self._serve(self._call(lambda: self.machine.tick(self._now)))

    def finish(self) -> None:
        """Run the remaining forwards, and then let the peer be silent."""
        self._run(MOST_FORWARDS)
        while not self.machine.closed:
            deadline_s = self.machine.deadline()
            if deadline_s is None or not deadline_s >= self._now:
                raise BrokenError(f"the deadline is {deadline_s} at {self._now}")
            self._now = deadline_s
            self._serve(self._call(lambda: self.machine.tick(self._now)))

    def _serve(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Forward):
                if event.session in self._forwards:
                    raise BrokenError(f"two forwards of session {event.session} at once")
                self._forwards[event.session] = event
            elif isinstance(event, Compile):
                self._guides.append(event)
            elif isinstance(event, Ready):
                for request in self._requests:
                    self._open(request, event.welcome.eos_ids)
            elif isinstance(event, Failed | Finished):
                end = event.code if isinstance(event, Failed) else event.reason
                self.ends.add(end if end in KNOWN_ENDS else "other")  # a peer may send any code
                if event.session is not None:
                    self._forwards.pop(event.session, None)
                    for own in (False, True):
                        self._caches.pop((event.session, own), None)
        said = self.machine.take()
        if len(said) > MOST_SAID:
            raise BrokenError(f"{len(said)} bytes would be sent at once")
        for _ in self._said.feed(said):  # raises on anything but messages
            pass

    def _open(self, request: Request, eos_ids: Sequence[int]) -> None:
        if not isinstance(self.machine, DeviceMachine) or self.machine.closed:
            return
        try:
            guide = None if request.guide is None else guides().make(request.guide, eos_ids)
            _, events = self.machine.open(request, self._now, guide)
        except BadParameterError:  # the welcome allows no such text
            return
        self._serve(events)

    def _read(self, event: Compile) -> None:
        """Read a guide as an edge does, beside its loop."""
        machine, session = self.machine, event.session
        if not isinstance(machine, EdgeMachine):
            raise BrokenError("a device was asked to read a guide for its peer")
        try:
            guide = guides().make(event.spec, event.eos_ids)
        except BadParameterError as error:
            self._serve(machine.failed(session, Code.SCHEME, str(error)))
        else:
            self._answer(session, lambda: machine.guided(session, guide, self._now))

    def _run(self, most: int) -> None:
        while self._guides and not self.machine.closed and (not self._late or self._schedule.random() < 0.5):
            self._read(self._guides.pop(0))
        while self._forwards and most and not self.machine.closed:
            most -= 1
            self._ran += 1
            if self._ran > MOST_FORWARDS:
                raise BrokenError(f"more than {MOST_FORWARDS} forwards were asked for")
            number = self._schedule.choice(list(self._forwards)) if self._late else next(iter(self._forwards))
            asked = self._forwards.pop(number)
            try:
                forward = self.machine.latest(asked)
            except ModelError as error:  # the guide has given up, which a driver's scheduler tells the text
                self._serve(self.machine.failed(number, error.code, str(error)))
                continue
            model = self._own if forward.draft else self._model
            if model is None:
                self._serve(self._call(lambda: self._unhelped(number)))  # noqa: B023  at once
                continue
            cache = self._caches.setdefault((number, forward.draft), model.new_cache())
            self._check(forward, len(cache), model)
            self._now += OWN_DRAFT_S if forward.draft else VERIFY_S
            logits = run_forward(model, cache, forward)
            self._answer(number, lambda: self.machine.forwarded(number, logits, self._now))  # noqa: B023  at once

    def _unhelped(self, session: int) -> list[Event]:
        if not isinstance(self.machine, EdgeMachine):
            raise BrokenError("a device asked for the edge's own draft model")
        return self.machine.unhelped(session, self._now)

    def _answer(self, session: int, give: Callable[[], list[Event]]) -> None:
        """Give the machine what it asked for. What its model or guide cannot do ends the session, as with a driver."""
        try:
            events = self._call(give)
        except ModelError as error:
            events = self.machine.failed(session, error.code, str(error))
        self._serve(events)

    def _check(self, forward: Forward, cached: int, model: TableModel) -> None:
        fits = (
            0 <= forward.keep <= cached
            and 0 <= forward.rows <= len(forward.tokens)
            and 0 < len(forward.tokens) <= model.max_context - forward.keep - len(forward.picks)
            and list(forward.picks) == sorted(set(forward.picks) & set(range(cached - forward.keep)))
            and all(0 <= token < VOCAB for token in forward.tokens)
        )
        if not fits:
            raise BrokenError(f"{cached} positions are cached, and {forward} was asked for")


@dataclass(frozen=True)
class Ran:
    """What came of an input."""

    ending: str
    dearest_s: float
    """CPU of the dearest call."""


def run(data: bytes) -> Ran:
    """Try one input. Raises whatever it broke."""
    header, wire = data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"), memoryview(data)[HEADER_BYTES:]
    part, world, schedule = part_of(header), header[1] % WORLDS, random.Random(header[2])  # noqa: S311
    if part.startswith("decoder"):
        return Ran(_decode(Decoder(ToEdge if "edge" in part else ToDevice, MAX_FRAME), bytes(wire), schedule), 0.0)
    shell = _Shell(part, world, schedule, wide=header[0] >= WIDE)
    shell.receive(wire)
    shell.finish()
    return Ran(" ".join(sorted(shell.ends)), shell.dearest_s)


def _decode(decoder: Decoder, wire: bytes, schedule: random.Random) -> str:
    at = 0
    try:
        while at < len(wire):
            size = schedule.choice((1, 3, 20, 500))
            for _ in decoder.feed(wire[at : at + size]):
                pass
            at += size
    except RemoteProtocolError as error:
        return error.code
    return "messages"
