"""`python hostile.py PORT KIND [CONNECTIONS]`: a device that sends one thing as fast as it goes, until it is ended."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator

from airdraft.core.bits import BitWriter, id_width
from airdraft.core.messages import VERSION, Close, Digest, Draft, Hello, Message, Open, Ping, SchemeSpec, Switch, encode
from airdraft.core.sampling import SamplingParams

VOCAB = 40
PROMPT = (1, 2, 3)
MESSAGE_BYTES = 1 << 16
READS = ("pings", "dead drafts", "switches", "unknown schemes", "opened and closed", "fragments", "empty messages")
"""Kinds that read what comes, as far as there is anything."""
NEVER_READS = ("long pings", "wanting pings", "websocket pings", "a long frame", "texts unread", "long messages")
KINDS = (*READS, *NEVER_READS)


def opening(session: int, scheme: str, race: str = "off") -> Open:
    packed = BitWriter()
    packed.write(list(PROMPT), id_width(VOCAB))
    return Open(
        session, SchemeSpec(scheme, race=race), SamplingParams(0.0), 0, 400, 3, 3, packed.bytes(), Digest(PROMPT).value
    )


def frame(data: bytes, opcode: int = 2, last: bool = True) -> bytes:
    """A WebSocket frame whose mask is zero."""
    length = len(data)
    if length < 1 << 16:
        size = bytes([0x80 | length]) if length < 126 else bytes([0x80 | 126]) + length.to_bytes(2, "big")
    else:
        size = bytes([0x80 | 127]) + length.to_bytes(8, "big")
    return bytes([0x80 * last | opcode]) + size + bytes(4) + data


def small(kind: str) -> Iterator[Message]:
    """Frames of a few bytes without end."""
    at = 2
    while True:
        at += 1
        if kind == "pings":
            yield Ping(1.0)
        elif kind == "dead drafts":
            yield Draft(1, at, 3, 3, 99, 1, b"\x04")
        elif kind == "switches":
            yield Switch(1, SchemeSpec("stream", race=("off", "idle")[at % 2]))
        elif kind == "unknown schemes":
            yield opening(at, "nope")
        elif kind == "opened and closed":
            yield opening(at, "stream")
            yield Close(at, "x")
        elif kind == "long pings":
            yield Ping(1.0, bytes(60_000))
        elif kind == "wanting pings":
            yield Ping(1.0, want=MESSAGE_BYTES)


def wire(kind: str) -> Iterator[bytes]:  # noqa: PLR0912 - a branch for each kind
    """What comes after the greeting."""
    if kind == "websocket pings":
        while True:
            yield frame(bytes(125), 9) * 400
    if kind == "fragments":
        yield frame(b"", 2, last=False)
        while True:
            yield frame(b"", 0, last=False) * 10_000
    if kind == "empty messages":
        while True:
            yield frame(b"") * 10_000
    if kind == "a long frame":  # all of it but its end
        whole = encode(Draft(1, 1, 3, 3, 0, 1, bytes((4 << 20) - 100)))[:-1]
        for at in range(0, len(whole), MESSAGE_BYTES - 1):
            yield frame(whole[at : at + MESSAGE_BYTES - 1])
        return
    if kind == "long messages":
        while True:
            yield frame(encode(Ping(1.0, bytes((4 << 20) - 100))))
    if kind == "texts unread":
        for session in range(2, 17):
            yield frame(encode(opening(session, "server")))
        while True:
            yield frame(encode(Ping(1.0)))
    if kind in ("dead drafts", "switches"):
        yield frame(encode(opening(1, "stream")))
    data = bytearray()
    for message in small(kind):
        data += encode(message)
        if len(data) > MESSAGE_BYTES - 2000:
            while data:
                yield frame(bytes(data[: MESSAGE_BYTES - 1]))
                del data[: MESSAGE_BYTES - 1]


def attack(port: int, kind: str) -> None:
    """Attack over one connection until the edge ends it."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        while not peer.recv(4096).endswith(b"\r\n\r\n"):
            pass
        peer.sendall(frame(encode(Hello(VERSION, "x", "x", bytes(range(16)), VOCAB))))
        if kind in READS:
            threading.Thread(target=lambda: all(iter(lambda: peer.recv(1 << 16), b"")), daemon=True).start()
        for data in wire(kind):
            peer.sendall(data)
        threading.Event().wait()


def main() -> None:
    """Attack over some connections at once."""
    port, kind, connections = int(sys.argv[1]), sys.argv[2], int((sys.argv[3:] or ["1"])[0])

    def again() -> None:
        while True:
            try:
                attack(port, kind)
            except OSError:
                threading.Event().wait(0.05)

    for _ in range(connections):
        threading.Thread(target=again, daemon=True).start()
    sys.stdin.read()  # until whoever started it is done
    os._exit(0)


if __name__ == "__main__":
    main()
