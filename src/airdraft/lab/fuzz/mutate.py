"""Inputs for the fuzzers: what two honest machines say to each other, and changes that keep part of its sense."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import Any

import msgspec

from airdraft.core.device import DeviceMachine
from airdraft.core.edge import EdgeMachine
from airdraft.core.events import Event
from airdraft.core.messages import Open
from airdraft.core.schemes import SPLIT, STREAM
from airdraft.lab.fuzz import HEADER_BYTES, PARTS, WORLDS, guides, models, requests, trees
from airdraft.sim.pair import Pair

MOST_BYTES = 1 << 15
"""Most bytes of an input; a longer one is cut."""
INTERESTING: tuple[Any, ...] = (
    0, 1, 2, 3, 5, 6, 7, -1, 31, 32, 33, 47, 48, 49, 63, 64, 127, 128, 255, 256, 4095, 4096, 65535, 65536,
    (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63),
    0.0, -0.0, 0.5, 1e-320,
    0.01, 3600.0, 1e308, math.inf, -math.inf, math.nan, None, True, False, "", "x", "\u0000", STREAM, SPLIT, "off",
    "candidates", "x" * 3000, b"", b"\0", b"\xff" * 7, bytes(3000), [], [[]], [5, 5, 5], [1] * 500, {}, {"a": 1},
)  # fmt: skip

_GUIDE = 1 + Open.__struct_fields__.index("guide")
_LOOP = (
    '{"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, '
    '{"type": "array", "items": {"$ref": "#"}}]}}}'
)
HOSTILE: tuple[tuple[str, str], ...] = (
    ("json", "{}"), ("json", "false"), ("json", _LOOP), ("json", '{"enum": []}'), ("json", "[" * 5000 + "]" * 5000),
    ("json", '{"allOf": [' * 200 + "{}" + "]}" * 200), ("json", '{"type": "array", "minItems": 1000000000}'),
    ("json", '{"type": "number", "multipleOf": 1e-300, "maximum": 1e308}'), ("json", '{"pattern": "(a|aa)+$"}'),
    ("json", '{"type": "string", "minLength": 100000, "maxLength": 100000}'), ("json", '{"$ref": "http://a/b"}'),
    ("json", '{"required": [' + ",".join(f'"{at}"' for at in range(2000)) + "]}"),
    ("json", '{"properties": {' + ",".join(f'"{at}": {{}}' for at in range(1500)) + "}}"),
    ("regex", "(" * 2000 + "a" + ")" * 2000), ("regex", "(a{1000}){1000}"), ("regex", "(((a|b)*a){50}){50}"),
    ("regex", "[^a]|"), ("regex", "a{999999999}"), ("regex", "(?=a)b"), ("regex", "\\p{L}{200,400}"), ("regex", ""),
    ("regex", "(.*a.{12}){3}"), ("lark", "start: start"), ("lark", "start: start start | "), ("lark", ""),
    ("lark", "start: " + "(" * 3000 + '"a"' + ")" * 3000), ("lark", 'start: "a"{1000000}'),
    ("lark", "start: a\na: b\nb: a"),
    ("lark", "start: %json " + "[" * 500), ("lark", "start: @x"), ("lark", 'start: <|a|> "b" <[5]>'),
    ("lark", 'start: x*\nx: "a" | x x | "" x'), ("x", "a"), ("biased", "{}"), ("biased", '{"typical_p": 1e-300}'),
    ("biased", '{"logit_bias": {"5": -100, "9": 1}}'), ("biased", '{"allowed_token_ids": [0]}'), ("biased", "[" * 9000),
    ("biased", '{"bad_words": [[0], [1], [2], [3], [4], [5]]}'), ("biased", '{"min_tokens": 9223372036854775807}'),
    ("biased", '{"guide": ["biased", "{}"]}'), ("biased", '{"guide": ["regex", "a"], "allowed_token_ids": [1]}'),
    ("biased", '{"repetition_penalty": 1e-300, "written": 4611686018427387904, "frequency_penalty": 2}'),
    ("biased", '{"stop_token_ids": [0, 1, 2, 3, 4], "min_tokens": 100, "ignore_eos": true}'),
)  # fmt: skip
"""Guides in their languages that are endless, empty, contradictory or dear."""


class _Tapped(Pair):
    """A pair whose wires are tapped."""

    def __init__(self, world: int) -> None:
        self.wires = {"edge": b"", "device": b""}
        draft, target, limits = models(world)
        super().__init__(draft, target, limits=limits, trees=trees(world), read=guides().make)

    def _carry(self, data: bytes, to: DeviceMachine | EdgeMachine) -> list[Event]:
        self.wires["edge" if isinstance(to, EdgeMachine) else "device"] += data
        return super()._carry(data, to)


@lru_cache(maxsize=WORLDS)
def overheard(world: int) -> dict[str, bytes]:
    """The bytes that go to the edge and to the device while the texts of a world are written."""
    pair = _Tapped(world)
    for request in requests(world):
        pair.write(request)
    return pair.wires


def seeds() -> list[bytes]:
    """Valid inputs: every part in every world."""
    return [
        bytes((part, world, 0)) + overheard(world)["edge" if "edge" in name else "device"]
        for part, name in enumerate(PARTS)
        for world in range(WORLDS)
    ]


def frames(wire: bytes) -> list[bytes]:
    """The bodies of the frames of `wire`, up to where it cannot be read; the rest is one more."""
    bodies, at = [], 0
    while at < len(wire):
        length = shift = 0
        start = at
        while start < len(wire) and shift < 28:
            octet = wire[start]
            start += 1
            length |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                break
        bodies.append(wire[start : start + length])
        at = start + length
    return bodies


def framed(body: bytes) -> bytes:
    """One frame."""
    head, length = bytearray(), len(body)
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*head, length)) + body


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Make one input from another."""
    header, wire = bytearray(data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")), data[HEADER_BYTES:]
    if rng.random() < 0.3:
        header[2] = rng.randrange(256)
    if rng.random() < 0.05:
        header[1] = rng.randrange(WORLDS)
    bodies = frames(wire)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        _change_list(bodies, header[0], rng)
    wire = b"".join(map(framed, bodies))
    if rng.random() < 0.15:
        wire = _change_bytes(wire, rng)
    return bytes(header) + wire[:MOST_BYTES]


def _change_list(bodies: list[bytes], part: int, rng: random.Random) -> None:
    """Change one message, or the list of messages."""
    if not bodies:
        bodies.append(b"\x90")
    at = rng.randrange(len(bodies))
    kind = rng.randrange(10)
    if kind == 0:
        del bodies[at]
    elif kind == 1:
        bodies.insert(rng.randint(0, len(bodies)), bodies[at])
    elif kind == 2:
        other = rng.randrange(len(bodies))
        bodies[at], bodies[other] = bodies[other], bodies[at]
    elif kind == 3:
        name = "edge" if "edge" in PARTS[part % len(PARTS)] else "device"
        bodies.insert(at, rng.choice(frames(overheard(rng.randrange(WORLDS))[name])))
    elif kind == 4:
        bodies[at] = _change_bytes(bodies[at], rng)
    elif kind == 5:
        bodies[at : at + 1] = [bodies[at]] * rng.choice((2, 3, 50, 400))
    else:
        bodies[at] = _change_field(bodies[at], rng)


def _change_field(body: bytes, rng: random.Random) -> bytes:
    """Change a field of a message, or the number of fields."""
    try:
        fields = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _change_bytes(body, rng)
    if not isinstance(fields, list) or not fields:
        return msgspec.msgpack.encode(rng.choice(INTERESTING))
    message = fields
    if message[0] == Open.__struct_config__.tag and len(message) > _GUIDE and rng.random() < 0.3:
        message[_GUIDE] = _guide(message[_GUIDE], rng)
        return msgspec.msgpack.encode(message)
    at = rng.randrange(len(fields))
    if isinstance(fields[at], list) and fields[at] and rng.random() < 0.8:  # a scheme, parameters, tokens
        fields = fields[at]
        at = rng.randrange(len(fields))
    kind = rng.randrange(6)
    value = fields[at]
    if kind <= 1 and isinstance(value, int) and -(1 << 62) < value < 1 << 62:
        fields[at] = value + rng.choice((-2, -1, 1, 2, 5))
    elif kind <= 2 and isinstance(value, bytes):
        fields[at] = _change_bytes(value, rng)
    elif kind == 3:
        del fields[at]
    elif kind == 4:
        fields.insert(at, rng.choice(INTERESTING))
    else:
        fields[at] = rng.choice(INTERESTING)
    return msgspec.msgpack.encode(message)


def _guide(spec: Any, rng: random.Random) -> list[Any]:
    """A hostile guide, or one with a changed text."""
    kind, text = rng.choice(HOSTILE) if not isinstance(spec, list) or rng.random() < 0.5 else spec
    if rng.random() < 0.5 and isinstance(text, str):
        text = _change_bytes(text.encode(), rng).decode(errors="replace")
    return [kind, text]


def _change_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    at = rng.randint(0, len(changed))
    kind = rng.randrange(5)
    if kind == 0:
        del changed[at:]
    elif kind == 1:
        changed[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
    elif kind == 2:
        changed[at:at] = rng.choice((b"\x91", b"\xdd", b"\xc6")) * rng.choice(
            (1, 5, 2000)
        )  # nested, or said to be long
    elif at < len(changed):
        changed[at] = rng.randrange(256) if kind == 3 else changed[at] ^ 1 << rng.randrange(8)
    return bytes(changed)
