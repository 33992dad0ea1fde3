"""A machine's hooks for its shell: the events that it reports, and the choice of which texts to open."""

from __future__ import annotations

import gc
import weakref

from airdraft.core.events import Begun, Declined, Event, Finished, Offered, Progress, Taken
from airdraft.core.messages import Close, Error, Opened, Ping, Verdict
from airdraft.errors import RefusedError

from .tables import SPECS, EdgeSide, drafting, hello, opening, table


def test_an_edge_reports_what_becomes_of_a_text_in_its_order_and_no_heartbeats() -> None:
    edge = EdgeSide(table(1))
    seen: list[tuple[Event, int]] = []
    edge.on_event = lambda event: seen.append((event, len(edge.machine.text(1))))
    edge.send(hello(), Ping(1.0), opening())
    (verdict,) = edge.send(drafting((0, 1), (2, 3)))
    assert isinstance(verdict, Verdict)
    edge.send(Close(1, "over"))
    assert seen == [
        (Begun(1, 2, 2, 8, "coupled"), 2),
        (Taken(1, 2), 2),
        (Offered(1, 2, 2, 1), 2),
        (Progress(1, 2, verdict.accepted, 1, 2, raced=False), verdict.committed),  # the text contains it by then
        (Finished(1, "over"), 0),
    ]
    assert len(edge.machine.text(1)) == 0


def test_what_is_not_admitted_is_refused_and_the_connection_goes_on() -> None:
    edge = EdgeSide(table(1))
    edge.send(hello())
    full = True

    def admit() -> None:
        if full:
            raise RefusedError("quota", "no more")

    edge.machine.admit = admit
    assert edge.send(opening(1)) == [Error(1, "quota", "no more")]
    assert edge.notes == [Declined(1, "quota")]
    full = False
    (answer,) = edge.send(opening(2))
    assert isinstance(answer, Opened)


def test_a_session_that_is_over_is_freed_at_once() -> None:
    """It may hold rows of the whole vocabulary, which should not wait for the garbage collector."""
    edge = EdgeSide(table(1))
    edge.send(hello(), opening(), drafting((0, 1), (2, 3)))
    session = weakref.ref(edge.machine._sessions[1])
    gc.disable()
    try:
        edge.send(Close(1, "over"))
        assert session() is None
    finally:
        gc.enable()


def test_what_a_forward_gave_to_a_connection_that_has_failed_is_no_progress() -> None:
    edge = EdgeSide(table(1), run=False)
    edge.send(hello(), opening(1, (0,), SPECS["server"]))
    edge.machine.fail("idle", "no more")
    edge.notes.clear()
    edge.forward()
    assert edge.notes == []
