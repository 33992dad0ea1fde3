"""Inputs at the limits: every message type, with each of its fields as large as it can be in the longest frame.

An honest exchange goes on up to the message; then it comes with one field changed. So every message arrives in a state
in which it is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec

from airdraft.core.messages import Close, Error, Extra, Logprobs, Message, More, Ping, Pong, Switch, ToDevice, ToEdge
from airdraft.lab.fuzz import PARTS, SPECS, WIDE, WIDE_FRAME
from airdraft.lab.fuzz.mutate import framed, frames, overheard

ROOM = WIDE_FRAME - 256
"""Bytes that one field can have."""
NUMBERS = ((1 << 64) - 1, (1 << 63) - 1, 8 * ROOM // 3)
"""Counts: the largest of MessagePack, the largest of the protocol, and what a full frame holds in tokens of a world."""
ARRAY = msgspec.Raw(b"\xdd" + ROOM.to_bytes(4, "big") + b"\x01" * ROOM)
"""An array of as many numbers as fit, encoded."""
ZEROS, ONES, LONG, LINES = bytes(ROOM), b"\xff" * ROOM, "x" * ROOM, "\n" * ROOM
NAMES = {kind.__struct_config__.tag: kind for side in (ToEdge, ToDevice) for kind in side.__args__}


def _larger(value: Any) -> Iterator[Any]:
    """Values of the same type, at its limits."""
    if isinstance(value, bool) or value is None:
        yield from (NUMBERS[0], ZEROS)
    elif isinstance(value, int):
        yield from NUMBERS
    elif isinstance(value, bytes):
        yield from (ZEROS, ONES)
    elif isinstance(value, str):
        yield from (LONG, LINES)
    elif isinstance(value, float):
        yield from (1e308, -1e308)


def _at_limits(message: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """The message with one field at a limit, or with a body and a count, each with the names of these fields."""
    kind = NAMES[message[0]]
    names = kind.__struct_fields__
    for at, value in enumerate(message[1:], 1):
        name = names[at - 1]
        if isinstance(value, list):
            yield name, [*message[:at], ARRAY, *message[at + 1 :]]
            for inner, each in enumerate(value):
                for larger in _larger(each):
                    yield name, [*message[:at], [*value[:inner], larger, *value[inner + 1 :]], *message[at + 1 :]]
        for larger in _larger(value):
            changed = [*message[:at], larger, *message[at + 1 :]]
            yield name, changed
            if isinstance(value, bytes):
                for other, count in enumerate(message[1:], 1):
                    if isinstance(count, int) and not isinstance(count, bool):
                        both = [*changed[:other], NUMBERS[-1], *changed[other + 1 :]]
                        yield f"{name} and {names[other - 1]}", both
    yield "a field too many", [*message, ARRAY]


def _of_no_exchange(session: int) -> list[Message]:
    """Messages that an honest exchange may lack."""
    return [
        More(session, 1), Close(session, "x"), Ping(0.0, b"x", 1), Pong(0.0, b"x"), Error(session, "x", "x"),
        Error(None, "x", "x"), Switch(session, SPECS[0], 1), Extra(session, 1, b"x"), Logprobs(session, 4, 1, b"x"),
    ]  # fmt: skip


def limits() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """What every input is, and how to make it: each is as long as a frame."""
    for part, side, kinds in ((0, "edge", ToEdge), (1, "device", ToDevice)):
        seen = set[tuple[Any, ...]]()
        for world, spec in enumerate(SPECS):
            exchange = frames(overheard(world)[side])
            first = {msgspec.msgpack.decode(body)[0]: at for at, body in reversed(list(enumerate(exchange)))}
            more = [(2, message) for message in _of_no_exchange(1) if isinstance(message, kinds)]
            todo = [(at, exchange[at]) for at in first.values()]
            todo += [(at, msgspec.msgpack.encode(message)) for at, message in more if len(exchange) > at]
            for at, body in todo:
                kind = NAMES[msgspec.msgpack.decode(body)[0]]
                # Bodies are each scheme's own; the rest is the same in all worlds.
                own = spec.name if {"body", "extra"} & set(kind.__struct_fields__) else None
                if (kind, own) in seen:
                    continue
                seen.add((kind, own))
                head = bytes((part | WIDE, world, 0)) + b"".join(map(framed, exchange[:at]))
                for field, message in _at_limits(msgspec.msgpack.decode(body)):
                    about = f"{kind.__name__}: {field}, {spec.name}, to the {PARTS[part]}"
                    yield about, partial(_input, head, message)


def _input(head: bytes, message: list[Any]) -> bytes:
    return head + framed(msgspec.msgpack.encode(message)[:WIDE_FRAME])
