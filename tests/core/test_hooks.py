"""What a shell may hang on to a machine: a tap that sees messages, a say in what is opened."""

from __future__ import annotations

from airdraft.core.messages import Close, Draft, Error, Hello, Message, Open, Opened, Ping, Verdict, Welcome
from airdraft.errors import RefusedError

from .tables import EdgeSide, drafting, hello, opening, table


def test_a_tap_sees_messages_both_ways_in_their_order_and_no_heartbeats() -> None:
    edge = EdgeSide(table(1))
    seen: list[tuple[type[Message], bool, int]] = []
    edge.machine.tap = lambda message, sent: seen.append((type(message), sent, len(edge.machine.text(1))))
    edge.send(hello(), Ping(1.0), opening())
    (verdict,) = edge.send(drafting((0, 1), (2, 3)))
    assert isinstance(verdict, Verdict)
    edge.send(Close(1, "over"))
    assert seen == [
        (Hello, False, 0),
        (Welcome, True, 0),
        (Open, False, 0),
        (Opened, True, 2),
        (Draft, False, 2),
        (Verdict, True, verdict.committed),  # the text holds by then what the message says
        (Close, False, verdict.committed),
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
    full = False
    (answer,) = edge.send(opening(2))
    assert isinstance(answer, Opened)
