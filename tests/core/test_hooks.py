"""A machine's hooks for its shell: the events that it reports, and the choice of which texts to open."""

from __future__ import annotations

from airdraft.core.events import Begun, Declined, Event, Finished, Offered, Progress, Taken
from airdraft.core.messages import Close, Error, Opened, Ping, Verdict
from airdraft.errors import RefusedError

from .tables import EdgeSide, drafting, hello, opening, table


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
