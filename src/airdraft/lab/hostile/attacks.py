"""Attacks: hostile peers of an edge, each on one connection at full speed, and in a process of its own.

`python -m airdraft.lab.hostile.attacks '<json>'` runs one until it is killed or its standard input ends. It prints
a line once it is at it, and one for each time that the edge ends its connection; then it comes back.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from airdraft.core import schemes
from airdraft.core.bits import BitWriter, id_width
from airdraft.core.messages import Close, Draft, Error, Opened, SchemeSpec, Tokens, Verdict, Welcome, encode
from airdraft.errors import AirdraftError
from airdraft.lab.hostile.floods import FLOODS, Victim
from airdraft.lab.hostile.peer import CONTINUATION, PING, RawPeer, frame

AGAIN_S = 0.5
"""Seconds after which a peer that was cut off comes back."""
SILENT = 150
"""Silent connections."""
TEXTS = 16
"""Texts that an attacker has open at once; more are refused."""
PROMPT = 1000
"""Tokens of a prompt that is paid by nobody."""
TOKENS = 100
"""Tokens of an honest neighbour's texts."""
NEIGHBOUR = "none: one more honest device"
"""No attack, for comparison: what it costs to share an edge at all."""
MESSAGE_BYTES = 1 << 16
"""Most bytes in a WebSocket message of a flood, as our own sides cut them."""


class Order(msgspec.Struct, frozen=True):
    """What to do to whom."""

    attack: str
    url: str
    tokenizer: bytes
    vocab_size: int
    token: str | None = None


@dataclass(frozen=True)
class Attack:
    """One kind of hostile peer."""

    act: Callable[[Order], None]
    """What it does, until the edge ends it: then it returns, or raises OSError or `LinkError`."""
    quota: float | None = None
    """Tokens/s that the edge allows this peer; None: it needs no token."""
    descriptors: int | None = None
    """Files that the edge may have open; None: as many as usual."""


def _connected(act: Callable[[RawPeer, Victim], None]) -> Callable[[Order], None]:
    """Act on one connection, and begin with a greeting."""

    def on_connection(order: Order) -> None:
        victim = Victim(order.tokenizer, order.vocab_size)
        with RawPeer(order.url, order.token) as peer:
            peer.send(victim.hello)
            act(peer, victim)

    return on_connection


def _flood(name: str, *, reads: bool = True, message_bytes: int = MESSAGE_BYTES) -> Attack:
    """The frames of a flood, as fast as the edge takes them."""

    def act(peer: RawPeer, victim: Victim) -> None:
        if reads:
            threading.Thread(target=peer.discard, daemon=True).start()
        for chunk in FLOODS[name](victim):
            for at in range(0, len(chunk), message_bytes):
                peer.send(chunk[at : at + message_bytes])

    return Attack(_connected(act))


def _websocket_pings(peer: RawPeer, _: Victim) -> None:
    """Pings of WebSocket itself, whose answers nobody reads."""
    data = frame(bytes(125), PING) * 512
    while True:
        peer.socket.sendall(data)


def _fragments(peer: RawPeer, _: Victim) -> None:
    """A WebSocket message that never ends: fragments of it without a byte."""
    peer.socket.sendall(frame(b"", final=False))
    data = frame(b"", CONTINUATION, final=False) * 8192
    while True:
        peer.socket.sendall(data)


def _prompts(peer: RawPeer, victim: Victim) -> None:
    """Long prompts for one token each: dear to read, and nearly nothing is written."""
    number = 0

    def ask() -> None:
        nonlocal number
        number += 1
        prompt = [(number + at) % victim.vocab_size for at in range(PROMPT)]
        peer.send(encode(victim.opening(number, prompt, 1, SchemeSpec(schemes.SERVER))))

    for _ in range(TEXTS):
        ask()
    for message in peer.messages():
        if isinstance(message, Tokens | Error) and message.session is not None:
            peer.send(encode(Close(message.session, "")))
            ask()


def _texts(peer: RawPeer, victim: Victim) -> None:
    """One text after another, without drafts, as an honest device asks for them."""
    number = 0

    def ask() -> int:
        nonlocal number
        number += 1
        peer.send(encode(victim.opening(number, range(1, 20), TOKENS, SchemeSpec(schemes.SERVER), seed=number)))
        return TOKENS

    left, ends = ask(), set[int]()
    for message in peer.messages():
        if isinstance(message, Welcome):
            ends = set(message.eos_ids)
        elif isinstance(message, Tokens):
            left -= len(message.tokens)
            if left <= 0 or ends.intersection(message.tokens):
                peer.send(encode(Close(message.session, "")))
                left = ask()


def _wrong_drafts(peer: RawPeer, victim: Victim) -> None:
    """Texts whose drafts are all wrong and as long as may be: each costs a forward of 33 tokens and gains one."""
    count, long = 32, 1 << 20
    packed = BitWriter()
    packed.write([0] * count, id_width(victim.vocab_size))
    body = packed.bytes()
    opened = 0

    def ask() -> None:
        nonlocal opened
        opened += 1
        spec = SchemeSpec(schemes.COUPLED)
        peer.send(encode(victim.opening(opened, range(1, 200), long, spec, seed=opened)))

    for _ in range(TEXTS):
        ask()
    for message in peer.messages():
        if isinstance(message, Opened | Verdict):
            start, digest = message.committed, message.digest
            seq = message.seq + 1 if isinstance(message, Verdict) else 1
            peer.send(encode(Draft(message.session, seq, start, start, digest, count, body)))
        elif isinstance(message, Error) and message.session is not None:
            ask()


def _silent(order: Order) -> None:
    """Connections that say nothing; one that is ended is opened again."""
    parts = urlsplit(order.url)
    with selectors.DefaultSelector() as waiting:
        missing = SILENT
        while True:
            while missing:
                try:
                    waiting.register(socket.create_connection((parts.hostname, parts.port), 1.0), selectors.EVENT_READ)
                except OSError:
                    break
                missing -= 1
            for key, _ in waiting.select(0.1):
                waiting.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                missing += 1


ATTACKS: dict[str, Attack] = {
    NEIGHBOUR: Attack(_connected(_texts)),
    **{name: _flood(name) for name in FLOODS},
    "pings, 4 MiB to a message": _flood("pings", message_bytes=4 << 20),
    "pings that fill a frame, never read": _flood("pings that fill a frame", reads=False, message_bytes=4 << 20),
    "pings that ask for much, never read": _flood("pings that ask for much", reads=False),
    "unknown schemes, never read": _flood("unknown schemes", reads=False),
    "WebSocket pings, never read": Attack(_connected(_websocket_pings)),
    "fragments without a byte": Attack(_connected(_fragments)),
    "prompts for one token, at a quota": Attack(_connected(_prompts), quota=5.0),
    "wrong drafts, at a quota": Attack(_connected(_wrong_drafts), quota=5.0),
    "silent connections, few descriptors": Attack(_silent, descriptors=64),
}
"""Attacks by name."""


def _say(word: str, seconds: float) -> None:
    sys.stdout.buffer.write(msgspec.json.encode([word, seconds]) + b"\n")
    sys.stdout.buffer.flush()


def run(order: Order) -> None:
    """Attack for ever."""
    _say("began", 0.0)
    while True:
        began_s = time.monotonic()
        with contextlib.suppress(OSError, AirdraftError):
            ATTACKS[order.attack].act(order)
        _say("ended", time.monotonic() - began_s)
        time.sleep(AGAIN_S)


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    run(msgspec.json.decode(sys.argv[1], type=Order))
