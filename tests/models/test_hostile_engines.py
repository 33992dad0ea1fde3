"""Engines behind HTTP that are broken or hostile, on real sockets: each call ends in time and in words."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from airdraft.errors import ModelError
from airdraft.models.engines.replicas import REPLY_BYTES, Replicas, line

TIMEOUT_S = 1.0
"""Of servers that are too slow."""
PATIENCE_S = 40.0
"""Of those that are refused for something else, however busy this machine is."""
SOON_S = 30.0
"""Far above the timeout, for a busy machine, and far below what these servers would take."""
MOST_BYTES = 8 << 20

Serve = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def hostile(serve: Serve) -> Iterator[str]:
    """A server that reads a request and does with the connection what it likes."""
    stop = threading.Event()

    def each(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(30)
            with connection.makefile("rb") as request:  # the whole: what is left unread would reset the connection
                length = 0
                for line in iter(request.readline, b""):
                    if line == b"\r\n":
                        break
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                request.read(length)
            serve(connection)

    def accept() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                threads.append(threading.Thread(target=each, args=(listening.accept()[0],)))
                threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            stop.set()
            accepting.join()
            for thread in threads:
                thread.join()


def endless(head: bytes, piece: bytes) -> Serve:
    """Sends `piece` for ever."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return serve


def dripping(head: bytes, piece: bytes, every_s: float = 0.05) -> Serve:
    """Sends `piece` now and again, for ever."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(every_s)

    return serve


def once(reply: bytes) -> Serve:
    return lambda connection: connection.sendall(reply)


def silent(connection: socket.socket) -> None:
    connection.recv(1)  # until the other side goes


def compressed(encoding: bytes) -> bytes:
    body = 64 * gzip.compress(bytes(1 << 20))  # of several members, which follow each other
    return OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding, len(body)) + body


def redirecting(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LATE = r"did not answer within 1 s"
LONG = rf"replied with more than the {REPLY_BYTES} bytes that an answer may have"
BROKEN = r"cannot be reached \(.+\)"

KINDS: dict[str, tuple[Serve, str]] = {
    "nothing at all": (silent, LATE),
    "a body without end": (endless(OK + b"\r\n", bytes(1 << 16)), LONG),
    "chunks without end": (endless(CHUNKED, b"10000\r\n" + bytes(1 << 16) + b"\r\n"), LONG),
    "a chunk of 2^60 bytes": (endless(CHUNKED + b"1000000000000000\r\n", bytes(1 << 16)), LONG),
    "a length of 10^15": (endless(OK + b"Content-Length: 1000000000000000\r\n\r\n", bytes(1 << 16)), LONG),
    "a bomb of gzip": (once(compressed(b"gzip")), "compressed its reply, though it was told not to"),
    "a bomb in capitals": (once(compressed(b"GZip")), "compressed its reply"),
    "a bomb of two codings": (once(compressed(b"gzip, gzip")), "compressed its reply"),
    "a byte of the body now and then": (dripping(OK + b"Content-Length: 100000\r\n\r\n", b"x"), LATE),
    "a chunk now and then": (dripping(CHUNKED, b"1\r\nx\r\n"), LATE),
    "a byte of the head now and then": (dripping(OK, b"x"), LATE),
    "a header now and then": (dripping(OK, b"a: b\r\n"), f"({LATE}|{BROKEN})"),
    "a trailer now and then": (dripping(CHUNKED + b"0\r\n", b"a: b\r\n"), LATE),
    "continue for ever": (dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), LATE),
    "headers without end": (endless(OK, b"a: " + b"b" * 1000 + b"\r\n"), BROKEN),
    "a header without end": (endless(OK + b"a: ", b"b" * (1 << 16)), BROKEN),
    "a status line without end": (endless(b"HTTP/1.1 200 ", b"O" * (1 << 16)), BROKEN),
    "no HTTP": (once(b"SSH-2.0-OpenSSH_9.2\r\n"), BROKEN),
    "a body cut off": (once(OK + b"Content-Length: 100\r\n\r\nx"), BROKEN),
    "a length of minus one": (once(OK + b"Content-Length: -1\r\n\r\n" + bytes(REPLY_BYTES + 1)), LONG),
    "a loop of redirects": (redirecting, r"refused /x \(302: "),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_costs_bounded_time_and_memory(kind: str) -> None:
    serve, message = KINDS[kind]
    with hostile(serve) as url:
        asked = Replicas([url], timeout_s=TIMEOUT_S if LATE in message else PATIENCE_S, connections=2)
        tracemalloc.start()
        begin = time.monotonic()
        try:
            with pytest.raises(ModelError, match=rf"^{url} {message}") as raised:
                asked.ask(0, "/x", b"{}")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            asked.close()
        assert time.monotonic() - begin < SOON_S
    # The server's own pieces are in this process too.
    assert peak < MOST_BYTES, peak
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_a_reply_within_the_cap_is_whole() -> None:
    body = b"x" * (REPLY_BYTES + 7)
    with hostile(once(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)) as url:
        asked = Replicas([url], timeout_s=20, connections=2)
        assert asked.ask(0, "/x", b"{}", len(body)) == body
        with pytest.raises(ModelError, match=f"more than the {len(body) - 1} bytes"):
            asked.ask(0, "/x", b"{}", len(body) - 1)
        asked.close()


def test_tries_share_one_deadline() -> None:
    """Each try is cut off late by the server: there is no time for the fourth."""
    tries = []

    def late(connection: socket.socket) -> None:
        tries.append(connection)
        time.sleep(0.4)

    with hostile(late) as url:
        asked = Replicas([url], timeout_s=TIMEOUT_S, connections=2)
        with pytest.raises(ModelError, match=rf"{url} (did not answer|cannot be reached)"):
            asked.ask(0, "/x", b"{}")
        asked.close()
    assert 1 <= len(tries) < 4


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("two\nlines\r\n", "two lines"),
        ("\x1b[2Jgone", "[2Jgone"),
        ("a" * 10**6, "a" * 200 + "…"),
        (" " * 10**6 + "far", "…"),
    ],
)
def test_what_others_say_is_one_short_line(said: str, shown: str) -> None:
    assert line(said) == shown
