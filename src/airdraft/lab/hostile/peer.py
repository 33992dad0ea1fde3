"""A peer that writes WebSocket frames by hand, because no library would send what it sends.

It masks with zeros, which is allowed and costs nothing, so the edge's work is what limits it.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit

from airdraft.core.messages import Decoder, Message, ToDevice
from airdraft.errors import LinkError

CONTINUATION, TEXT, BINARY, CLOSE, PING = 0x0, 0x1, 0x2, 0x8, 0x9
"""Opcodes of RFC 6455 §5.2."""
TIMEOUT_S = 10.0
"""Time that the handshake may take."""


def frame(data: bytes, opcode: int = BINARY, final: bool = True) -> bytes:
    """One WebSocket frame of a client."""
    size = len(data)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return bytes([0x80 * final | opcode]) + length + bytes(4) + data


class RawPeer:
    """A connection to an edge, on a blocking socket."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """Raises: `LinkError` if the edge does not let it in, OSError if it cannot be reached."""
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S)
        self._read = b""
        lines = [
            "GET / HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}", "Sec-WebSocket-Version: 13",
        ]  # fmt: skip
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._read:
            data = self.socket.recv(4096)
            if not data:
                self.socket.close()
                raise LinkError(f"{url} ended the handshake; is there an edge?")
            self._read += data
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        answer = head.decode("latin-1").partition("\r\n")[0]
        if " 101 " not in answer:
            self.socket.close()
            raise LinkError(f"{url} said {answer}")
        self.socket.settimeout(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def abort(self) -> None:
        """Go without a word, whatever is under way in other threads."""
        with contextlib.suppress(OSError):  # the edge has gone before
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send one binary message. Raises: OSError once the edge has gone."""
        self.socket.sendall(frame(data))

    def discard(self) -> None:
        """Read until the edge ends the connection."""
        try:
            while self.socket.recv(1 << 20):
                pass
        except OSError:
            pass

    def messages(self) -> Iterator[Message]:
        """The edge's messages, until it ends the connection."""
        decoder = Decoder(ToDevice)
        while (data := self._message()) is not None:
            yield from decoder.feed(data)

    def _message(self) -> bytes | None:
        """The payload of one frame, None at the end. An edge neither masks nor splits."""
        head = self._exactly(2)
        if head is None or head[0] & 0xF == CLOSE:
            return None
        size = head[1] & 0x7F
        if size >= 126:
            extended = self._exactly(2 if size == 126 else 8)
            if extended is None:
                return None
            size = int.from_bytes(extended, "big")
        return self._exactly(size)

    def _exactly(self, count: int) -> bytes | None:
        while len(self._read) < count:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self._read += data
        data, self._read = self._read[:count], self._read[count:]
        return data
