"""The two machines at the wire: any cuts, every message in every state, hostile peers, silence, misuse."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from airdraft.core import schemes, states
from airdraft.core.edge import Limits
from airdraft.core.events import Committed, Failed, Finished
from airdraft.core.law import Law, Place
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
    Ping,
    Pong,
    SchemeSpec,
    Switch,
    Tokens,
    Verdict,
    Welcome,
    encode,
)
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import DEVICE, EDGE
from airdraft.core.states import Action, EdgeState
from airdraft.errors import BadParameterError, LocalProtocolError, RefusedError, RemoteProtocolError
from airdraft.sim import alone
from airdraft.sim.pair import Pair

from ..suites import examples
from .tables import (
    SPECS,
    DeviceSide,
    EdgeSide,
    alike,
    drafting,
    hello,
    opening,
    packed,
    request,
    table,
    welcome,
)

TARGET = table(2, eos_ids=(4,))
CANDIDATES = SchemeSpec("split", bits=6, downlink="candidates")


# ---- Any cuts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_texts_do_not_depend_on_how_the_wire_cuts(spec: SchemeSpec) -> None:
    whole = Pair(table(1), TARGET).write(request(spec))
    for chunk in (1, 2, 3, 7, 64):
        assert Pair(table(1), TARGET, chunk=chunk).write(request(spec)) == whole, f"in pieces of {chunk} bytes"


def _uplink() -> bytes:
    """Bytes of a lively connection, with a fault at its end."""
    texts: list[Message] = [
        hello(),
        opening(1),
        opening(2, scheme=SPECS["server"]),
        Ping(1.5),
        drafting((0, 1), (1, 2, 3)),
        opening(3, (2,)),
        drafting((2,), (0,), session=3),
        Close(2, "enough"),
        drafting((9, 9), (0,), session=3),  # wrong
    ]
    return b"".join(encode(message) for message in texts) + b"\x03\xff\xff\xff" + encode(Ping(2.0))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
@examples(60)
def test_events_do_not_depend_on_the_cuts(sizes: list[int]) -> None:
    data = _uplink()
    whole = EdgeSide(TARGET, run=False)
    expected = whole.feed(data)
    cut, answers, at = EdgeSide(TARGET, run=False), [], 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        answers += cut.feed(data[at : at + size])
        at += size
    assert (answers, cut.events, cut.forwards) == (expected, whole.events, whole.forwards)
    assert cut.machine.closed
    assert isinstance(cut.events[-1], Failed)


# ---- Every message in every state of the edge ------------------------------------------------------------------------


def in_state(state: str) -> EdgeSide:
    """Make an edge whose session 1 is in `state`. Session 2 waits for a draft, except before `greeted`."""
    edge = EdgeSide(table(2), run=False)
    if state == "new":
        return edge
    edge.send(hello())
    if state == "greeted":
        return edge
    streams = state in ("preloading", "streaming", "switching", "streamed")
    spec = SPECS["server" if streams else "split-candidates-6" if state == "recovering" else "coupled"]
    text = (2,) if state == "idle" else (0, 1)
    edge.send(opening(1, text, spec, 1 if state == "streamed" else 3))
    if state == "waiting":
        edge.send(drafting((0, 1), (0,)))
    if state in ("streaming", "switching", "streamed"):
        edge.forward()
    if state == "switching":
        edge.send(Switch(1, SPECS["coupled"]))
    if state == "streamed":
        edge.forward()
    if state in ("verifying", "done"):
        edge.forward()
        written = tuple(alone.write(table(2), (0, 1), SamplingParams(), 7, 2))  # accepted
        edge.send(drafting((0, 1), written))
        while state == "done" and edge.forwards:
            edge.forward()
    if state == "recovering":
        edge.forward()
        edge.send(_refused())
        edge.forward()
    assert edge.machine._sessions[1].state.value == state
    return edge


def _refused() -> Draft:
    """Make a `split` draft that the target rejects: its least likely token, of which the device was sure."""
    scheme = schemes.make(SPECS["split-candidates-6"], Law(SamplingParams(), 7, 5), DEVICE)
    token = int(np.argmin(table(2).row((0, 1))))
    body = scheme.encode(schemes.Drafts((scheme.draw(token, Place(2)),)))
    return Draft(1, 1, 2, 2, Digest((0, 1)).value, 1, body)


EDGE_MESSAGES: dict[str, Callable[[], Message]] = {
    "Hello": hello,
    "Open": lambda: opening(9),
    "Open again": lambda: opening(1),
    "Draft": lambda: drafting((2,), (0,), seq=2),
    "More": lambda: More(1, 1),
    "Switch": lambda: Switch(1, SPECS["server"]),
    "Close": lambda: Close(1, "enough"),
    "Error": lambda: Error(1, "engine", "no"),
    "Ping": lambda: Ping(1.0),
    "Pong": lambda: Pong(1.0),
}


def message_in(state: str, name: str) -> Message:
    """Make the message of this name. If a recovery is due, drafts and switches bring the recovered token."""
    if state == "recovering" and name == "Draft":
        return structs.replace(drafting((0, 1, 0), (), seq=2), recovered=0)
    if state == "recovering" and name == "Switch":
        return Switch(1, SPECS["server"], 0)
    return EDGE_MESSAGES[name]()


def law(name: str, state: str) -> str:
    """Look up a message's outcome in the tables: ok, ignored, or the end of the session or connection.

    The draft sent to a stream is of a dead branch, and no recovery is due where `More` is sent.
    """
    kind: type[Message] = type(EDGE_MESSAGES[name]())
    if kind is Ping:
        return "ok"
    if kind is Pong:
        return "ignored"
    greeted = state != "new"
    if kind is Error:
        return "ok" if greeted and state != "greeted" else "ignored"
    action = states.CONNECTION[greeted].get(kind)
    if action is None or (name == "Open again" and state not in ("new", "greeted")):
        return "connection"
    if action is Action.RELAY:
        if state == "greeted":
            return "ignored"
        action = states.EDGE[EdgeState(state)].get(kind)
        if action is None:
            return "session"
        return "ignored" if action in (Action.OFFER, Action.IGNORE) else "ok"
    return "ignored" if action is Action.END and state == "greeted" else "ok"


STATES = ("new", "greeted", *(state.value for state in EdgeState))


def effect(edge: EdgeSide, message: Message) -> str:
    """Find the outcome of `message`: ok, ignored, or the end of the session or connection."""
    before, session = (len(edge.forwards), len(edge.events)), edge.machine._sessions.get(1)
    state = session and session.state
    answers = edge.send(message)
    for answer in answers:
        if isinstance(answer, Error):
            assert answer.code == "state"
            assert edge.machine.closed == (answer.session is None)
            return "session" if answer.session else "connection"
    session = edge.machine._sessions.get(1)
    moved = answers or len(edge.forwards) > before[0] or len(edge.events) > before[1]
    return "ok" if moved or (session and session.state != state) else "ignored"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", EDGE_MESSAGES)
def test_every_message_in_every_state_of_the_edge(state: str, name: str) -> None:
    edge = in_state(state)
    assert effect(edge, message_in(state, name)) == law(name, state)
    if state == "new" or edge.machine.closed:
        assert edge.send(Ping(1.0)) == [] or not edge.machine.closed
        return
    # Whatever happened to session 1, the connection goes on.
    edge.run = True
    answers = edge.send(opening(20, (2,)), drafting((2,), (0,), session=20))
    (opened, verdict) = [answer for answer in answers if answer.session == 20]  # type: ignore[attr-defined]
    assert isinstance(opened, Opened)
    assert isinstance(verdict, Verdict)


def test_a_second_draft_while_one_waits_or_is_verified_ends_the_session_only() -> None:
    edge = EdgeSide(TARGET, run=False)
    edge.send(hello(), opening(1), opening(2), drafting((0, 1), (0,)))
    (error,) = edge.send(drafting((0, 1), (0,)))
    assert (error.session, error.code) == (1, "state")  # type: ignore[attr-defined]
    assert edge.forward() == []  # what was under way for it is dropped
    edge.run = True
    edge.forward()
    (verdict,) = edge.send(drafting((0, 1), (0,), session=2))
    assert isinstance(verdict, Verdict)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (opening(1, tuple([0] * 64)), "context"),
        (opening(1, scheme=SchemeSpec("telepathy")), "scheme"),
        (opening(1, scheme=SchemeSpec("topk", k=-3)), "scheme"),
        (opening(1, scheme=SchemeSpec("lattice", resolution=0)), "scheme"),
        (opening(1, scheme=SchemeSpec("lattice", verify="both")), "scheme"),
        (opening(1, (0, 7)), "garbage"),
        (opening(1, max_tokens=0), "state"),
        (Open(1, SPECS["coupled"], SamplingParams(), 1, 5, 2, 2, packed((0, 1), 5), 12345), "garbage"),
        (Open(1, SPECS["coupled"], SamplingParams(), 1, 5, 2, 3, packed((0, 1), 5), 0), "garbage"),
        (Open(1, SPECS["coupled"], SamplingParams(), 1, 5, 2, 2, packed((0, 1), 5) + b"\0", 0), "garbage"),
        (Open(1, SPECS["coupled"], SamplingParams(), 1, 5, 0, 2, packed((0, 1), 5), 0), "state"),
        (Open(1, SPECS["coupled"], SamplingParams(), 1, 5, 3, 2, packed((0, 1), 5), 0), "state"),
        (Open(1, SPECS["coupled"], SamplingParams(), 1, 5, 1, 1 << 40, b"", 0), "context"),
    ],
)
def test_a_bad_open_is_refused_and_the_connection_goes_on(bad: Open, code: str) -> None:
    edge = EdgeSide(table(2, context=64))
    _, error = edge.send(hello(), bad)
    assert (error.session, error.code) == (1, code)  # type: ignore[attr-defined]
    assert len(edge.send(opening(2), drafting((0, 1), (0,), session=2))) == 2


@pytest.mark.parametrize(
    "bad",
    [
        drafting((0, 2), (0,)),  # another text
        drafting((0,), (0,)),  # too short a start
        drafting((0, 1), (0,) * 8),  # longer than what may follow
        drafting((0, 1), (7,)),  # no token
        Draft(1, 1, 2, 2, Digest((0, 1)).value, 2, b""),
        Draft(1, 1, 2, 2, Digest((0, 1)).value, 1, bytes(9)),
        Draft(1, 1, 2, 2, Digest((0, 1)).value, 0, b"", recovered=1),
        Draft(1, 1, 2, 2, Digest((0, 1)).value, 1 << 60, b""),
    ],
)
def test_a_bad_draft_ends_its_session_only(bad: Draft) -> None:
    edge = EdgeSide(TARGET)
    edge.send(hello(), opening(1), opening(2))
    (error,) = edge.send(bad)
    assert isinstance(error, Error)
    assert error.session == 1
    assert edge.send(drafting((0, 1), (), seq=5)) == []  # it is gone
    (verdict,) = edge.send(drafting((0, 1), (), session=2))
    assert isinstance(verdict, Verdict)


def test_more_sessions_than_the_limit_are_turned_away_until_one_closes() -> None:
    edge = EdgeSide(TARGET, Limits(max_sessions=2))
    *_, refused = edge.send(hello(), opening(1), opening(2), opening(3))
    assert (refused.session, refused.code) == (3, "busy")  # type: ignore[attr-defined]
    (opened,) = edge.send(Close(1, "enough"), opening(4))
    assert isinstance(opened, Opened)


def test_a_session_number_is_never_used_again() -> None:
    """The forward of the first owner may still be under way; its result must not reach another text."""
    edge = EdgeSide(TARGET, run=False)
    edge.send(hello(), opening(1), Close(1, "enough"))
    (error,) = edge.send(opening(1))
    assert (error.session, error.code) == (None, "state")  # type: ignore[attr-defined]


def test_recovered_tokens_come_exactly_when_due() -> None:
    spec = SchemeSpec("split", bits=6)
    before = (0, 1)

    def rejected() -> tuple[EdgeSide, Verdict]:
        for seed in range(50):
            edge = EdgeSide(TARGET)
            sure = BodyOf(spec).one(token=1, weight=63)
            edge.send(hello(), opening(1, before, spec, seed=seed))
            (verdict,) = edge.send(Draft(1, 1, 2, 2, Digest(before).value, 1, sure))
            assert isinstance(verdict, Verdict)
            if verdict.token is None:
                return edge, verdict
        raise AssertionError("nothing was rejected")

    edge, verdict = rejected()
    assert (verdict.accepted, verdict.committed, bool(verdict.extra)) == (0, 2, True)
    after = Digest((*before, 2)).value
    (again,) = edge.send(Draft(1, 2, 3, 3, after, 0, b"", recovered=2))
    assert isinstance(again, Verdict)
    for bad in (
        Draft(1, 2, 2, 2, verdict.digest, 0, b""),
        Draft(1, 2, 3, 3, after, 0, b"", recovered=9),
        Draft(1, 2, 3, 3, Digest((*before, 4)).value, 0, b"", recovered=4),  # it ended the text
        More(1, 1),  # the row came, there is no more
    ):
        edge, _ = rejected()
        (error,) = edge.send(bad)
        assert isinstance(error, Error)
        assert error.session == 1


class BodyOf:
    """Bodies made by hand."""

    def __init__(self, spec: SchemeSpec, vocab: int = 5) -> None:
        self.scheme = schemes.make(spec, Law(SamplingParams(), 1, vocab), DEVICE)

    def one(self, token: int, weight: int) -> bytes:
        total = float((1 << 6) - 1)
        return self.scheme.encode(
            schemes.Drafts((schemes.Drafted(token, np.array([token]), np.array([weight]), total),))
        )


def test_candidates_run_out_into_the_row() -> None:
    """Each `More` brings eight times as many candidates, until the row is shorter and comes as the last answer."""
    edge = EdgeSide(table(2, vocab=200, scale=0.1))
    sure = BodyOf(CANDIDATES, 200).one(token=1, weight=63)
    edge.send(hello(200), opening(1, (0, 1), CANDIDATES, vocab=200))
    (verdict,) = edge.send(Draft(1, 1, 2, 2, Digest((0, 1)).value, 1, sure))
    assert isinstance(verdict, Verdict)
    assert verdict.token is None
    device = schemes.make(CANDIDATES, Law(SamplingParams(), 1, 200), DEVICE)
    sizes = [device._decode_extra(verdict.extra)[1].size]  # type: ignore[attr-defined]
    for _ in range(2):
        (extra,) = edge.send(More(1, 1))
        assert isinstance(extra, Extra)
        kind, ids, _ = device._decode_extra(extra.extra)  # type: ignore[attr-defined]
        sizes.append(ids.size)
    assert (sizes, kind) == ([8, 64, 200], 2)
    (error,) = edge.send(More(1, 1))
    assert (error.session, error.code) == (1, "state")  # type: ignore[attr-defined]


def test_near_equal_models_recover_without_endless_asking() -> None:
    """A total variation of 1e-5 takes 100 000 candidates; eight a round trip would take hours over a real link."""
    spec = SchemeSpec("split", bits=4, downlink="candidates")
    target = table(2, vocab=12, scale=0.01)
    pair = Pair(target, target)
    mores = 0
    receive = pair.edge._handle

    def counting(message: Message, now: float) -> object:
        nonlocal mores
        mores += isinstance(message, More)
        return receive(message, now)

    pair.edge._handle = counting  # type: ignore[method-assign,assignment]
    texts = [pair.write(request(spec, seed=seed)) for seed in range(40)]
    rejected = sum(text.counts.drafted - text.counts.accepted for text in texts)
    assert 0 < mores <= rejected


# ---- Garbage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("greeted", [False, True])
@given(data=st.binary(min_size=1, max_size=200))
@examples(150)
def test_random_bytes_never_raise(greeted: bool, data: bytes) -> None:
    edge = EdgeSide(TARGET)
    if greeted:
        edge.send(hello(), opening(1))
    edge.feed(data)
    DeviceSide(table(1), welcome() if greeted else None).feed(data)


@given(st.data())
@examples(150)
def test_damaged_connections_never_raise(data: st.DataObject) -> None:
    stream = bytearray(_uplink())
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    EdgeSide(TARGET).feed(bytes(stream))


# A Ping with a field more than it has, which holds arrays within arrays: 5011 bytes.
DEEP = b"\x93\x27\x93\x0b\xcb" + bytes(8) + b"\x91" * 4999 + b"\xc0"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xff\xff\xff\x0f", "frame"),
        (b"\x81\x80\x80\x80\x80\x80\x80\x80", "frame"),
        (b"\x80" * 20, "frame"),
        (b"\x00", "garbage"),
        (b"\x01\xc1", "garbage"),
        (b"\x02\x91\x63", "garbage"),
        (b"\x02\x91\x0b", "garbage"),
        (b"\x04\x92\x0b\xa1\x41", "garbage"),
        (
            b"\x8d\xa7\x02"[:3] and bytes([0x8B, 0x27]) + b"\x93\x0b\xcb" + bytes(8) + b"\x91" * 4999 + b"\xc0",
            "garbage",
        ),
    ],
)
def test_bytes_that_are_no_message_end_the_connection(data: bytes, code: str) -> None:
    edge = EdgeSide(TARGET)
    pong, error = edge.feed(encode(Ping(3.0)) + data)
    assert pong == Pong(3.0)
    assert (error.session, error.code) == (None, code)  # type: ignore[attr-defined]
    assert edge.machine.closed
    assert edge.events == [Failed(None, code, error.message, ours=True)]  # type: ignore[attr-defined]
    assert edge.send(hello()) == []
    assert edge.machine.deadline() is None
    assert edge.machine.tick(1e9) == []


def test_a_frame_may_be_as_long_as_the_limit_and_no_longer() -> None:
    greeting = encode(hello())
    size = len(greeting) - 1
    assert isinstance(EdgeSide(TARGET, Limits(max_frame=size)).feed(greeting)[0], Welcome)
    (error,) = EdgeSide(TARGET, Limits(max_frame=size - 1)).feed(greeting[:1])  # refused before it is read
    assert error.code == "frame"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("greeting", "code"),
    [
        (Hello(VERSION + 1, "test", "draft", bytes(16), 5), "version"),
        (Hello(VERSION, "test", "draft", bytes(15) + b"\1", 5), "vocabulary"),
        (Hello(VERSION, "test", "draft", bytes(16), 6), "vocabulary"),
    ],
)
def test_an_edge_turns_away_devices_it_cannot_serve(greeting: Hello, code: str) -> None:
    edge = EdgeSide(TARGET)
    (error,) = edge.send(greeting)
    assert (error.session, error.code) == (None, code)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["dense", "topk-3x8", "split-row-16", "split-candidates-6", "coupled", "server"])
@given(count=st.integers(0, 6), body=st.binary(max_size=80))
@examples(120)
def test_hostile_bodies_are_drafts_or_a_fault_of_the_peer(name: str, count: int, body: bytes) -> None:
    scheme = schemes.make(SPECS[name], Law(SamplingParams(), 1, 5), EDGE)
    with contextlib.suppress(RemoteProtocolError):
        drafts = scheme.decode(count, body)
        assert len(drafts) == count
        assert scheme.encode(drafts) == body
        ruling = scheme.verify(drafts, np.zeros((count + 1, 5), np.float32), Place(3))
        assert 0 <= ruling.accepted <= count
        assert ruling.token is None or 0 <= ruling.token < 5


@pytest.mark.parametrize("name", ["split-row-16", "split-candidates-6"])
@given(extra=st.binary(min_size=1, max_size=60))
@example(extra=b"\x80" + bytes(15) + b"\x1f\xe0\0\0@")  # a signalling NaN
@examples(200)
def test_hostile_extras_are_a_token_or_a_fault_of_the_peer(name: str, extra: bytes) -> None:
    scheme = schemes.make(SPECS[name], Law(SamplingParams(), 1, 5), DEVICE)
    draft = scheme.draw(np.zeros(5, np.float32), Place(0))
    with contextlib.suppress(RemoteProtocolError):
        token = scheme.recover(draft, extra, Place(0))
        assert token is None or 0 <= token < 5


# ---- A hostile edge --------------------------------------------------------------------------------------------------


def verifying(spec: SchemeSpec = SPECS["coupled"]) -> tuple[DeviceSide, Draft, tuple[int, ...]]:
    """Make a device that waits for the verdict on three drafts."""
    device = DeviceSide(table(1), welcome())
    sent = device.open(request(spec))
    draft = sent[1]
    assert isinstance(draft, Draft)
    device.send(Opened(1, 2, Digest((0, 1)).value))
    ids = tuple(d.token for d in device.machine._sessions[1]._rounds.drafts)
    return device, draft, ids


def ruling(before: tuple[int, ...], right: tuple[int, ...], last: int | None, **changes: object) -> Verdict:
    text = (*before, *right, *([] if last is None else [last]))
    fields: dict[str, object] = {
        "session": 1, "seq": 1, "accepted": len(right), "token": last, "committed": len(text),
        "digest": Digest(text).value,
    }  # fmt: skip
    return Verdict(**{**fields, **changes})  # type: ignore[arg-type]


def test_an_honest_verdict_is_taken() -> None:
    device, _, ids = verifying()
    device.send(ruling((0, 1), ids[:2], 3))
    assert not device.machine.closed
    assert device.events[0].tokens == (*ids[:2], 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change",
    [
        {"accepted": 4},
        {"accepted": 1 << 60},
        {"token": 5},
        {"token": None},
        {"digest": 1},
        {"committed": 4},
        {"seq": 2},
        {"extra": b"\0"},
        {"token": None, "extra": b"\0"},
    ],
)
def test_a_false_verdict_ends_the_connection(change: dict[str, object]) -> None:
    device, _, ids = verifying()
    (error,) = device.send(ruling((0, 1), ids[:2], 3, **change))
    assert isinstance(error, Error)
    assert error.session is None
    assert device.machine.closed
    assert [type(event) for event in device.events] == [Failed]


@pytest.mark.parametrize("downlink", ["row", "candidates"])
@pytest.mark.parametrize(
    "extra",
    [b"", b"\xc0" + bytes(20), b"\0" * 5, b"\x80" + bytes(20), b"\x80" + b"\xff" * 20, b"\0\0\0\0\x7f" + b"\xff" * 12],
)
def test_a_false_residual_ends_the_connection(downlink: str, extra: bytes) -> None:
    device, *_ = verifying(SchemeSpec("split", downlink=downlink))
    (error,) = device.send(ruling((0, 1), (), None, extra=extra))
    assert isinstance(error, Error)
    assert device.machine.closed


HOSTILE: dict[str, Callable[[], Message]] = {
    "Tokens": lambda: Tokens(1, 2, (1,), Digest((0, 1, 1)).value),
    "Extra": lambda: Extra(1, 1, b"\x80" + bytes(20)),
    "Opened twice": lambda: Opened(1, 2, Digest((0, 1)).value),
    "Welcome twice": welcome,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_messages_out_of_place_end_the_connection(name: str) -> None:
    device, *_ = verifying()
    (error,) = device.send(HOSTILE[name]())
    assert (error.session, error.code) == (None, "state")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("tokens", "start", "changed"),
    [((5,), 2, 0), ((), 2, 0), ((1,), 3, 0), ((1,), 2, 1), ((4, 1), 2, 0), ((1,) * 9, 2, 0)],
)
def test_false_streams_end_the_connection(tokens: tuple[int, ...], start: int, changed: int) -> None:
    device = DeviceSide(table(1), welcome())
    device.open(request(SPECS["server"]))
    device.send(Opened(1, 2, Digest((0, 1)).value))
    answers = device.send(Tokens(1, start, tokens, Digest((0, 1, *tokens)).value ^ changed))
    assert isinstance(answers[-1], Error)
    assert device.machine.closed


def test_before_opened_and_with_another_prefix_nothing_is_taken() -> None:
    for bad in (Opened(1, 3, 0), Opened(1, 2, 1), ruling((0, 1), (), 3)):
        device = DeviceSide(table(1), welcome())
        device.open(request())
        (error,) = device.send(bad)
        assert (error.session, error.code) == (None, "state")  # type: ignore[attr-defined]


@pytest.mark.parametrize("beat", [0.0, -1.0, float("nan"), float("inf"), 1e-9])
def test_a_heartbeat_that_would_make_the_device_spin_is_refused(beat: float) -> None:
    device = DeviceSide(table(1))
    (error,) = device.send(welcome(heartbeat_s=beat))
    assert error.code == "garbage"  # type: ignore[attr-defined]


def test_a_device_turns_away_an_edge_of_another_version() -> None:
    device = DeviceSide(table(1))
    (error,) = device.send(welcome(version=VERSION + 1))
    assert error.code == "version"  # type: ignore[attr-defined]
    assert DeviceSide(table(1)).send(Opened(1, 2, 0))[0].code == "state"  # type: ignore[attr-defined]


def test_what_is_in_flight_for_a_text_given_up_is_ignored() -> None:
    device, _, ids = verifying()
    device.machine.cancel(1)
    assert device.send(ruling((0, 1), ids[:2], 3)) == [Close(1, "cancelled")]
    assert not device.machine.closed
    assert device.send(Error(1, "state", "late"), Error(99, "state", "never was")) == []
    assert device.events == []


def test_an_edge_that_refuses_is_reported() -> None:
    device, *_ = verifying()
    device.send(Error(1, "engine", "out of memory"))
    device.send(Error(None, "silent", "bye"))
    assert device.events == [
        Failed(1, "engine", "out of memory", ours=False),
        Failed(None, "silent", "bye", ours=False),
    ]
    assert device.machine.closed
    with pytest.raises(RefusedError) as refused:
        Pair(table(1), TARGET, limits=Limits(max_sessions=0)).write(request())
    assert refused.value.code == "busy"


# ---- Time ------------------------------------------------------------------------------------------------------------


def test_silence_is_answered_with_a_ping_and_then_given_up() -> None:
    edge = EdgeSide(TARGET, Limits(heartbeat_s=2.0)).machine
    assert edge.deadline() == 2.0
    assert edge.tick(1.9) == []
    assert edge.take() == b""
    edge.tick(2.0)
    assert edge.take() == encode(Ping(2.0))
    edge.receive(encode(Pong(2.0)), now=2.25)
    assert edge.rtt_s == 0.25
    edge.receive(encode(Pong(-1e300)), now=3.0)
    assert edge.rtt_s == 0.25  # it answers none of our pings
    edge.tick(4.0)
    edge.tick(6.0)
    edge.tick(8.0)
    assert edge.deadline() == 9.0
    (failed,) = edge.tick(9.0)
    assert isinstance(failed, Failed)
    assert failed.code == "silent"
    assert edge.closed


def test_any_byte_counts_as_a_sign_of_life() -> None:
    """A frame that takes half a minute to arrive, byte by byte, is slow and not silent."""
    edge = EdgeSide(TARGET, Limits(heartbeat_s=1.0)).machine
    frame = encode(Ping(1.0))
    for at in range(len(frame)):
        now = 2.5 * (at + 1)
        edge.receive(frame[at : at + 1], now)
        assert edge.tick(now + 2.4) == []
    assert encode(Pong(1.0)) in edge.take()
    assert not edge.closed


def test_the_device_keeps_the_edges_heartbeat() -> None:
    device = DeviceSide(table(1), welcome(heartbeat_s=3.0)).machine
    assert device.deadline() == 3.0


# ---- Misuse ----------------------------------------------------------------------------------------------------------


def test_misuse_is_a_local_error() -> None:
    with pytest.raises(LocalProtocolError, match="before the edge's welcome"):
        DeviceSide(table(1)).open(request())
    device, *_ = verifying()
    with pytest.raises(LocalProtocolError, match="no forward was asked for"):
        device.machine.forwarded(1, np.zeros((1, 5)), now=0.0)
    device.machine.fail("engine", "gone")
    with pytest.raises(LocalProtocolError, match="after the connection ended"):
        device.open(request())
    edge = EdgeSide(TARGET)
    edge.send(hello(), opening(1))
    with pytest.raises(LocalProtocolError, match="no forward was asked for"):
        edge.machine.forwarded(1, np.zeros((1, 5)), now=0.0)


@pytest.mark.parametrize("shape", [(0, 5), (2, 5), (1, 4), (5,)])
def test_logits_of_another_shape_are_a_local_error(shape: tuple[int, ...]) -> None:
    device = DeviceSide(table(1), welcome(), run=False)
    device.open(request())
    with pytest.raises(LocalProtocolError, match="asked for"):
        device.machine.forwarded(1, np.zeros(shape), now=0.0)
    edge = EdgeSide(TARGET, run=False)
    edge.send(hello(), opening(1, (2,)), drafting((2,), ()))
    with pytest.raises(LocalProtocolError, match="asked for"):
        edge.machine.forwarded(1, np.zeros(shape), now=0.0)


def test_forwards_that_fail_end_their_session_only() -> None:
    edge = EdgeSide(TARGET, run=False)
    edge.send(hello(), opening(1), opening(2))
    assert edge.machine.failed(1, "engine", "no") == [Failed(1, "engine", "no", ours=True)]
    assert edge.machine.failed(1, "engine", "no") == []
    assert edge.machine.forwarded(1, np.zeros((0, 5)), now=0.0) == []
    device = DeviceSide(table(1), welcome(), run=False)
    device.open(request())
    assert device.machine.failed(1, "engine", "no") == [Failed(1, "engine", "no", ours=True)]
    assert device.send()[-1] == Close(1, "failed")
    assert device.machine.forwarded(1, np.zeros((1, 5)), now=0.0) == []
    assert device.machine.failed(1, "engine", "no") == []


def test_the_edge_hears_when_a_device_is_done() -> None:
    edge = EdgeSide(TARGET)
    edge.send(hello(), opening(1), opening(2), Close(1, "enough"), Error(2, "engine", "no"))
    assert edge.events == [Finished(1, "enough"), Finished(2, "refused")]
    edge.send(Error(None, "engine", "all is lost"))
    assert edge.events[-1] == Failed(None, "engine", "all is lost", ours=False)
    assert edge.machine.closed


def test_a_scheme_without_a_residual_refuses_to_recover() -> None:
    for name in ("coupled", "dense"):
        scheme = schemes.make(SPECS[name], Law(SamplingParams(), 1, 5), DEVICE)
        with pytest.raises(RemoteProtocolError):
            scheme.recover(scheme.draw(np.zeros(5), Place(0)), b"x", Place(0))
        with pytest.raises(RemoteProtocolError):
            scheme.more()
    with pytest.raises(BadParameterError):
        schemes.make(SchemeSpec("x"), Law(SamplingParams(), 1, 5), DEVICE)
    bare = schemes.make(SPECS["dense"], Law(SamplingParams(), 1, 5), DEVICE)
    with pytest.raises(LocalProtocolError):
        bare.encode(schemes.Drafts((schemes.Drafted(1),)))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_many_texts_share_a_connection(spec: SchemeSpec) -> None:
    """Texts served in turn are the same as alone."""
    draft, target = alike(TARGET, 5), TARGET
    edge, device = EdgeSide(target), DeviceSide(draft)
    device.send(*edge.send(hello()))
    device.events.clear()
    wire = [message for seed in range(6) for message in device.open(request(spec, seed=seed))]
    while wire:
        wire = device.send(*edge.send(*wire))
    for seed in range(6):
        mine = [event for event in device.events if getattr(event, "session", None) == seed + 1]
        tokens = [token for event in mine if isinstance(event, Committed) for token in event.tokens]
        assert tokens == Pair(draft, target).write(request(spec, seed=seed)).tokens
        assert isinstance(mine[-1], Finished)
    assert len([event for event in edge.events if isinstance(event, Finished)]) == 6
