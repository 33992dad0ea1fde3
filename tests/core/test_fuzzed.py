"""Faults that fuzzing has found, each with its shortest reproduction."""

from __future__ import annotations

import pytest

from airdraft.control.machine import device_machine
from airdraft.core.events import Event, Forward
from airdraft.core.messages import (
    MAX_FILLER,
    Decoder,
    Digest,
    Draft,
    Open,
    Opened,
    Ping,
    Switch,
    ToEdge,
    Tokens,
    encode,
)
from airdraft.core.policy import Facts, Mode
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams

from .tables import SPECS, STREAMS, DeviceSide, EdgeSide, hello, table, welcome


class Once:
    """A policy for a stream, then for rounds after the first call."""

    def __init__(self) -> None:
        self._modes = [Mode("stream", 4, "off")]

    def choose(self, facts: Facts, now: float) -> Mode:
        return self._modes.pop() if self._modes else Mode("coupled", 3)

    def why(self) -> str:
        return ""


def test_after_a_switch_to_rounds_the_draft_model_is_fed_something() -> None:
    draft = table(1)
    device = device_machine(hello(), draft.max_context, 0.0)
    device.receive(encode(welcome(eos_ids=())), 0.0)
    cache: list[int] = []

    def draft_on(events: list[Event], now: float) -> list[Forward]:
        asked = []
        while forwards := [event for event in events if isinstance(event, Forward)]:
            (forward,) = forwards
            asked.append(forward)
            events = device.forwarded(1, draft.forward(cache, forward.keep, forward.tokens, forward.rows), now)
        return asked

    _, events = device.open(Request((0, 1), STREAMS["off"], SamplingParams(0.0), 1, 20, policy=Once()), 0.0)
    draft_on(events, 0.0)
    text = tuple(cache)  # the prompt, and drafts that the edge will agree with
    assert len(text) == 5
    first = (Opened(1, 2, Digest(text[:2]).value), Tokens(1, 2, (), Digest(text[:4]).value, 2, 2, 1))
    device.receive(b"".join(map(encode, first)), 1.0)
    assert any(isinstance(message, Switch) for message in Decoder(ToEdge).feed(device.take()))
    asked = draft_on(device.receive(encode(Opened(1, 4, Digest(text[:4]).value)), 1.1), 1.2)
    assert (asked[0].keep, asked[0].tokens) == (3, text[3:4])


@pytest.mark.parametrize("max_draft", [0, 1 << 63])
@pytest.mark.parametrize("name", ["coupled", "dense"])
def test_an_edge_may_allow_any_number_of_drafts(name: str, max_draft: int) -> None:
    device = DeviceSide(table(1), welcome(max_draft=max_draft, max_context=64), run=False)
    sent = device.open(Request((0, 1), SPECS[name], SamplingParams(), 1, 8))
    if max_draft:
        assert len(device.forwards) == 1
    else:  # rounds without a draft
        assert [type(message) for message in sent] == [Open, Draft]


def test_pings_that_want_much_cost_little() -> None:
    edge = EdgeSide(table(1))
    edge.send(hello())
    edge.machine.receive(b"".join(encode(Ping(float(at), b"", MAX_FILLER)) for at in range(1000)), 0.0)
    assert len(edge.machine.take()) < 2 * MAX_FILLER + 1000 * 30
    (pong,) = edge.send(Ping(1.0, b"", MAX_FILLER))  # an honest ping gets what it asks for
    assert len(pong.filler) == MAX_FILLER  # type: ignore[attr-defined]
