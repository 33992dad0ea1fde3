"""Private parts at the wire: who may be sent them, how they are said, and that they are said again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from airdraft.core.events import Begun, Committed, Declined
from airdraft.core.messages import Error, Open, Opened, Welcome
from airdraft.device.resume import Resumable
from airdraft.errors import BadParameterError
from airdraft.proposers import LEARNING, maker

from .tables import DeviceSide, EdgeSide, hello, opening, request, table, welcome


def _edge(takes: bool) -> tuple[EdgeSide, Welcome]:
    edge = EdgeSide(table(2))
    edge.machine._target = replace(edge.machine._target, private=takes)
    answer = edge.send(hello())[0]
    assert isinstance(answer, Welcome)
    return edge, answer


@pytest.mark.parametrize(("takes", "private", "refused"), [
    (True, None, False), (True, 0, False), (True, 1, False), (True, 2, True), (True, 1 << 40, True),
    (False, None, False), (False, 0, True),
])  # fmt: skip
def test_an_edge_opens_what_it_keeps_to(takes: bool, private: int | None, refused: bool) -> None:
    edge, answer = _edge(takes)
    assert answer.private is takes
    said = edge.send(structs.replace(opening(), private=private))
    if refused:
        assert isinstance(said[0], Error)
        assert (said[0].session, said[0].code, edge.machine.closed) == (1, "state", False)
        assert isinstance(edge.notes[-1], Declined)
    else:
        assert isinstance(said[0], Opened)
        assert next(note for note in edge.notes if isinstance(note, Begun)).private == private


def test_what_is_held_is_asked_of_the_public_part_alone() -> None:
    edge, _ = _edge(takes=True)
    asked: list[list[int]] = []
    edge.machine.held = lambda tokens: asked.append(list(tokens)) or 0  # type: ignore[func-returns-value]
    edge.send(structs.replace(opening(1), private=1), opening(2))
    assert asked == [[0], [0, 1]]


def test_a_device_sends_nothing_to_an_edge_that_takes_no_private_parts() -> None:
    asked = replace(request(), private=1)
    old = DeviceSide(table(1), welcome())
    with pytest.raises(BadParameterError, match="takes no private parts") as refused:
        old.open(asked)
    assert refused.value.field == "private"
    assert old.machine.take() == b""
    device = DeviceSide(table(1), welcome(private=True))
    for wrong in (-1, 2):
        with pytest.raises(BadParameterError, match="no position in a prompt of 2 tokens"):
            device.open(replace(request(), private=wrong))
    message = device.open(asked)[0]
    assert isinstance(message, Open)
    assert message.private == 1


def test_it_is_said_again_wherever_the_text_goes_on() -> None:
    text = Resumable(replace(request(), private=1))
    text.take(Committed(1, (2, 3), 0, "target"))
    device = DeviceSide(table(1), welcome(private=True))
    message = device.open(text.next_request())[0]
    assert isinstance(message, Open)
    assert (message.length, message.private) == (4, 1)
    with pytest.raises(BadParameterError, match="takes no private parts"):
        DeviceSide(table(1), welcome()).open(text.next_request())


@pytest.mark.parametrize("private", [False, True])
def test_no_other_text_learns_from_a_private_one(private: bool) -> None:
    propose, run = maker(LEARNING), [1, 2, 3]
    [first] = propose((), private)
    for end in range(3, 9):
        first.propose([*run, 4, *run, 5][:end], (), 4)
    [second] = propose((), False)
    assert bool(second._table.after(run)) is not private  # type: ignore[attr-defined]
