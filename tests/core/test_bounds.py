"""What one message may cost: of every type, with every field at its limit, in every state, at both machines."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache

import msgspec
import numpy as np
import pytest
from msgspec import structs

from airdraft.core import schemes
from airdraft.core.bits import id_width
from airdraft.core.events import Event, Offered
from airdraft.core.law import Law, Place
from airdraft.core.messages import (
    MAX_FRAME,
    MOST_TEXT,
    SHORT_FRAME,
    Close,
    Digest,
    Draft,
    Error,
    Extra,
    Logprobs,
    Message,
    More,
    Open,
    Opened,
    Ping,
    Pong,
    SchemeSpec,
    Switch,
    Tokens,
    Verdict,
    encode,
)
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.sim.conformance import TableModel

from ..cpu import slowness
from ..suites import mostly_slow
from .tables import DeviceSide, EdgeSide, hello, opening, table, welcome

BUDGET_S, BUDGET_BYTES = 0.05, 20_000_000
VOCAB, CONTEXT = 4096, 1 << 14
BODY = MAX_FRAME - 200
"""Bytes of a body in a frame as long as the edge takes."""
LARGE: dict[type, object] = {int: (1 << 64) - 1, str: "é" * (BODY // 2), bytes: bytes(BODY), tuple: (0,) * BODY}
PROMPT = tuple(range(8))
GREEDY = SamplingParams(0.0)
OPEN = ("opening", "under way")
SPECS = {
    name: SchemeSpec(name, k=VOCAB) for name in schemes.SCHEMES
} | {"off": SchemeSpec("stream", race="off")}  # fmt: skip


@cache
def model() -> TableModel:
    return table(1, VOCAB, context=CONTEXT)


def open_(spec: SchemeSpec, session: int = 1) -> Open:
    return opening(session, PROMPT, spec, 4000, VOCAB, GREEDY)


def edge(state: str, spec: SchemeSpec) -> EdgeSide:
    """An edge with text 1 in a state, without a forward run since."""
    side = EdgeSide(model(), run=False)
    if state != "new":
        side.send(hello(VOCAB))
    if state not in ("new", "greeted"):
        side.send(open_(spec))
    if state == "under way":
        side.forward()
    return side


def device(spec: SchemeSpec) -> DeviceSide:
    """A device that waits for what the edge says of its text."""
    side = DeviceSide(model(), welcome(max_context=CONTEXT, max_frame=MAX_FRAME))
    logprobs = None if spec.name == "split" else 3
    side.open(Request(PROMPT, spec, GREEDY, 7, 4000, 3, logprobs=logprobs))
    side.send(Opened(1, len(PROMPT), Digest(PROMPT).value))
    return side


def bits(spec: SchemeSpec) -> int:
    """Most bits of a draft."""
    probs = {"dense": 16 * VOCAB, "topk": VOCAB * (id_width(VOCAB) + 16), "lattice": 1334, "split": 16}
    return id_width(VOCAB) + probs.get(spec.name, 0)


def to_edge(spec: SchemeSpec) -> list[Message]:
    start, digest = len(PROMPT), Digest(PROMPT).value
    fits = max(1, 8 * BODY // bits(spec))
    some = max(1, min(32, fits))
    return [
        hello(VOCAB), open_(spec, 2), Close(1, "over"), Ping(1.0), Pong(1.0), Error(1, "state", "x"), More(1, 1),
        Error(None, "state", "x"), Switch(1, spec),
        Draft(1, 1, start, start, digest, some, bytes(-(-some * bits(spec) // 8))),
        Draft(1, 1, start, start, digest, fits, bytes(-(-fits * bits(spec) // 8))),  # the count and the body agree
    ]  # fmt: skip


def to_device() -> list[Message]:
    start, digest = len(PROMPT), Digest(PROMPT).value
    return [
        welcome(), Opened(1, start, digest), Verdict(1, 1, 0, 3, start + 1, digest), Extra(1, 1, b""),
        Tokens(1, start, (3,), digest), Close(1, "over"), Ping(1.0), Pong(1.0), Error(1, "state", "x"),
        Error(None, "state", "x"), Logprobs(1, start, 1, bytes(30)), Logprobs(1, start, 8 * BODY // 173, bytes(BODY)),
        Verdict(1, 1, 0, None, start, digest, b"\x40" + bytes(BODY)), Extra(1, 1, b"\x00\x20\x00\x00" + bytes(BODY)),
    ]  # fmt: skip


def swollen(message: Message) -> Iterator[tuple[str, Message]]:
    """The message, and with each of its fields, also of those inside, as large as can be sent."""
    yield "as it is", message
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, msgspec.Struct):
            for inner in value.__struct_fields__:
                if type(getattr(value, inner)) in (int, str):
                    large = LARGE[type(getattr(value, inner))]
                    changed = [large if each == inner else getattr(value, each) for each in value.__struct_fields__]
                    yield f"{name}.{inner}", structs.replace(message, **{name: changed})
        for kind in {type(value), int} if value is None else {type(value)}:
            if kind in LARGE:
                yield name, structs.replace(message, **{name: LARGE[kind]})


def spent(make: Callable[[], EdgeSide | DeviceSide], wire: bytes) -> tuple[float, int, list[Event]]:
    """Seconds of CPU (the best of some) and most bytes that some bytes cost, and the events."""
    best_s, events = float("inf"), list[Event]()
    for _ in range(8):
        side = make()
        began_s = time.process_time()
        events = side.machine.receive(wire, 0.0)
        side.machine.take()
        best_s = min(best_s, time.process_time() - began_s)
        if best_s < BUDGET_S / 2:
            break
    side = make()
    tracemalloc.start()
    try:
        side.machine.receive(wire, 0.0)
        side.machine.take()
        return best_s, tracemalloc.get_traced_memory()[1], events
    finally:
        tracemalloc.stop()


def affordable(cpu_s: float) -> bool:
    return cpu_s < BUDGET_S or cpu_s < BUDGET_S * slowness()


def check(make: Callable[[], EdgeSide | DeviceSide], message: Message, what: str) -> None:
    cpu_s, most, events = spent(make, encode(message))
    name = f"{type(message).__name__}, {what}"
    assert affordable(cpu_s), f"{name}: {1e3 * cpu_s:.0f} ms"
    assert most < BUDGET_BYTES, f"{name}: {most / 1e6:.0f} MB"
    for event in events:  # what metrics count, and logs and traces write
        for text in (getattr(event, each, "") for each in ("code", "message", "reason", "scheme")):
            assert len(str(text)) <= 2 * MOST_TEXT, name
        if isinstance(event, Offered):
            assert event.drafted <= 128, name


def check_edge(state: str, spec: SchemeSpec) -> None:
    for message in to_edge(spec):
        for what, large in swollen(message):
            check(lambda: edge(state, spec), large, what)


@pytest.mark.parametrize("state", ["new", "greeted"])
def test_no_message_before_a_text_costs_the_edge_much(state: str) -> None:
    check_edge(state, SPECS["stream"])


@pytest.mark.parametrize("name", mostly_slow(SPECS, often=("topk", "stream")))
@pytest.mark.parametrize("state", OPEN)
def test_no_message_costs_the_edge_much(state: str, name: str) -> None:
    check_edge(state, SPECS[name])


@pytest.mark.parametrize("name", mostly_slow(SPECS, often=("topk", "stream")))
def test_no_message_costs_the_device_much(name: str) -> None:
    for message in to_device():
        for what, large in swollen(message):
            check(lambda: device(SPECS[name]), large, what)


def test_every_message_is_tried() -> None:
    tried = {type(each) for each in (*to_edge(SPECS["coupled"]), *to_device())}
    assert tried == set(Message.__subclasses__())


@pytest.mark.parametrize("name", ["dense", "topk"])
def test_honest_rows_that_fill_a_frame_cost_little_more_than_their_bytes(name: str) -> None:
    vocab = 150_000
    law = Law(GREEDY, 7, vocab)
    scheme = schemes.make(SchemeSpec(name, k=vocab // 4), law, schemes.DEVICE)
    count = 8 * BODY // scheme.draft_bits
    row = np.random.default_rng(1).normal(size=vocab)
    warm = schemes.make(SchemeSpec(name, k=vocab // 4), Law(SamplingParams(), 7, vocab), schemes.DEVICE)
    drafted = warm.draw(row, Place(0))
    body = warm.encode(schemes.Drafts((drafted,) * count))
    assert MAX_FRAME * 0.7 < len(body) <= BODY
    took_s = []
    for _ in range(5):
        began_s = time.process_time()
        scheme.decode(count, body)
        took_s.append(time.process_time() - began_s)
    assert affordable(min(took_s))
    tracemalloc.start()
    found = scheme.decode(count, body)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most + 2 * MAX_FRAME < BUDGET_BYTES  # with the frame, and the body in it
    assert found.tokens == (drafted.token,) * count
    assert found.said[-1].prob() == drafted.prob()
    assert (found.said[-1].probs() == drafted.probs()).all()


def test_a_long_frame_of_a_short_message_is_refused_before_it_has_come() -> None:
    side = edge("opening", SPECS["coupled"])
    (error,) = side.feed(encode(Close(1, "x" * SHORT_FRAME))[:12])
    assert isinstance(error, Error)
    assert error.code == "frame"


def test_what_is_said_of_a_stranger_is_short_enough_to_be_received() -> None:
    long = structs.replace(hello(7), model="m" * MOST_TEXT)
    (error,) = EdgeSide(table(1), run=False).send(long)  # which the device's decoder takes
    assert isinstance(error, Error)
    assert error.code == "vocabulary"
    assert len(error.message) == MOST_TEXT
