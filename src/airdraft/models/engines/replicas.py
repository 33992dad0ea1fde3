"""Servers of one model behind HTTP: tries again, moves on to another, and says in one line what went wrong."""

from __future__ import annotations

import http.client
import io
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError

from airdraft.errors import ModelError

T = TypeVar("T")

REPLY_BYTES = 1 << 20
"""Most bytes of a reply, unless the caller knows how long it may be."""
_PIECE_BYTES = 1 << 16
_CONNECT_S = 5.0
_REST_S = 10.0
"""A replica that failed is asked last for so long: other sequences need not find out for themselves."""
_TRIES_S = (0.0, 0.0, 0.2, 0.4)
"""How long to wait before each try. A forward changes nothing that could be seen, so a POST may be repeated like a GET.
What came too late is not asked for again: a slow engine would only do its work twice."""
_PASSING = (502, 503, 504)
_LINE = 200


class FailedError(ModelError):
    """What another replica may do better."""


class Replicas:
    """Servers of one model. Thread-safe: each call takes a connection of its own from a pool, up to `connections`.

    A server that is broken or hostile costs a bounded time and memory: a reply must be complete, head and body, within
    `timeout_s`, and not only each piece of it; it is cut off at its most bytes; compressed ones are refused.
    """

    def __init__(self, urls: Sequence[str], *, timeout_s: float, connections: int) -> None:
        if not urls:
            raise ModelError("no engine to ask; give the address of at least one, like http://127.0.0.1:8000")
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ModelError(f"{url!r} is no address of an engine; write it like http://127.0.0.1:8000")
        if not 0 < timeout_s < float("inf"):
            raise ModelError(f"an engine cannot answer within {timeout_s} s; give a number above 0")
        self.urls = [url.rstrip("/") for url in urls]
        self._pool = urllib3.PoolManager(num_pools=len(urls), maxsize=connections, retries=False)
        self._pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        self._timeout_s = timeout_s
        self._resting = dict[int, float]()  # replica: until when, of the monotonic clock
        self._checked = [-math.inf] * len(self.urls)  # when, of the monotonic clock
        self._checking = [threading.Lock() for _ in self.urls]
        self._look: Callable[[int], None] | None = None

    def check_later(self, look: Callable[[int], None]) -> None:
        """From now on let `look` find out whether a replica is still what it was.

        It is called before a reply counts that came over a connection newer than the last look: the server may have
        been started again meanwhile. If it raises a `ModelError`, another replica is asked.
        """
        self._look = look
        self._checked = [time.monotonic()] * len(self.urls)

    def close(self) -> None:
        """End all connections that are not in use."""
        self._pool.clear()

    def ask(
        self, replica: int, path: str, body: bytes | None = None, most: int = REPLY_BYTES, *, checks: bool = False
    ) -> bytes:
        """What one replica replies to a GET, or with a body to a POST: up to `most` bytes.

        checks: whether this call is one that finds out what the server is, see `check_later`. Raises: `ModelError`.
        """
        url, deadline = self.urls[replica], time.monotonic() + self._timeout_s
        for wait_s, is_last in zip(_TRIES_S, (False, False, False, True), strict=True):
            time.sleep(min(wait_s, max(0.0, deadline - time.monotonic())))
            left_s = deadline - time.monotonic()
            try:
                status, reply, born = self._once(url, path, body, most, left_s)
            except HTTPError as problem:
                if is_last or isinstance(problem, ReadTimeoutError) or time.monotonic() >= deadline:
                    raise FailedError(f"{url} {self._reason(problem)}") from problem
                continue
            if status not in _PASSING:
                break
        if status >= 500:
            raise FailedError(f"{url} failed ({status}: {_message(reply)})")
        if status != 200:
            raise ModelError(f"{url} refused {path} ({status}: {_message(reply)}); mend that, or its flags")
        if not checks:
            self._check(replica, born)
        return reply

    def _check(self, replica: int, born: float) -> None:
        """Raises: `FailedError` if the server behind a connection made at `born` is another than it was."""
        if self._look is None or born <= self._checked[replica]:
            return
        with self._checking[replica]:
            if born > self._checked[replica]:  # still: others may have waited for the same
                try:
                    self._look(replica)
                except ModelError as problem:
                    raise FailedError(str(problem)) from problem
                self._checked[replica] = time.monotonic()

    def _once(self, url: str, path: str, body: bytes | None, most: int, left_s: float) -> tuple[int, bytes, float]:
        """One request: status and body of its reply, and when its connection was made.

        Raises: urllib3's `HTTPError`, `FailedError`.
        """
        reply = self._pool.request(
            "GET" if body is None else "POST", url + path, body=body,
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=max(left_s, 0.001)),
            redirect=False, preload_content=False, decode_content=False,
        )  # fmt: skip
        whole, born = False, getattr(reply.connection, "born", math.inf)
        try:
            if reply.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise FailedError(f"{url} compressed its reply, though it was told not to; switch that off there")
            pieces, size = [], 0
            while piece := reply.read(_PIECE_BYTES):
                size += len(piece)
                if size > most:
                    raise FailedError(f"{url} replied with more than the {most} bytes that an answer may have")
                pieces.append(piece)
            whole = True
            return reply.status, b"".join(pieces), born
        finally:
            if whole:
                reply.release_conn()
            else:
                reply.close()

    def ask_any(self, first: int, path: str, body: bytes, most: int = REPLY_BYTES) -> tuple[int, bytes]:
        """Post to replica `first`, or where that fails to others in turn.

        Returns: who replied, and what. Raises: `ModelError`, which names all of them if none replied.
        """
        now, n = time.monotonic(), len(self.urls)
        turns = sorted(range(n), key=lambda i: (self._resting.get(i, 0.0) > now, (i - first) % n))
        problems = []
        for replica in turns:
            try:
                return replica, self.ask(replica, path, body, most)
            except FailedError as problem:
                self._resting[replica] = time.monotonic() + _REST_S
                problems.append(str(problem))
        raise ModelError(f"{'; '.join(problems)}; start it again, or see its log")

    def _reason(self, problem: HTTPError) -> str:
        if isinstance(problem, ReadTimeoutError):
            return f"did not answer within {self._timeout_s:g} s"
        return f"cannot be reached ({line(str(problem).rpartition(': ')[2])})"


class _Until(io.RawIOBase):
    """The stream of a socket, which ends with an error when the time is up, however often a byte comes."""

    def __init__(self, stream: io.RawIOBase, own: socket.socket, deadline: float) -> None:
        self._stream, self._own, self._deadline = stream, own, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the reply took too long")
        self._own.settimeout(left_s)
        found: int | None = self._stream.readinto(buffer)
        return found

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Reply(http.client.HTTPResponse):
    """A reply that must be complete within the time that its socket has for each read."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        timeout_s = sock.gettimeout()
        if timeout_s is not None:
            stream: Any = self.fp
            self.fp = io.BufferedReader(_Until(stream.detach(), sock, time.monotonic() + timeout_s))


class _Http(HTTPConnection):
    response_class = _Reply
    born = math.inf
    """When it was made, of the monotonic clock."""

    def connect(self) -> None:
        super().connect()
        self.born = time.monotonic()


class _Https(HTTPSConnection):
    response_class = _Reply
    born = math.inf

    def connect(self) -> None:
        super().connect()
        self.born = time.monotonic()


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


def decode(reply: bytes, kind: type[T], who: str) -> T:
    """A reply as a msgspec Struct; fields it does not name are skipped. Raises: `ModelError` if it is none."""
    try:
        return msgspec.json.decode(reply, type=kind)
    # RecursionError: what is skipped may nest however deeply.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        what = line(str(problem))
        raise ModelError(f"{who} replied with something else ({what}); its version may not fit airdraft's") from None


class _Said(msgspec.Struct):
    message: str


class _Error(msgspec.Struct):
    """{"error": {"message": ...}} as OpenAI's servers, {"message": ...} as older ones, {"detail": ...} of FastAPI."""

    error: _Said | str | None = None
    message: str | None = None
    detail: Any = None


def _message(reply: bytes) -> str:
    """What an error's body says, in one line."""
    try:
        found = msgspec.json.decode(reply, type=_Error)
        said = found.error.message if isinstance(found.error, _Said) else found.error
        return line(said or found.message or str(found.detail or "no reason given"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return line(reply[: 4 * _LINE].decode("utf-8", "replace"))


def line(text: str) -> str:
    """What somebody else said, as one line that is not too long and holds nothing that moves a cursor."""
    clean = "".join(each if each.isprintable() else " " for each in text[: 4 * _LINE])
    short = " ".join(clean.split())
    return short if len(short) <= _LINE and len(text) <= 4 * _LINE else f"{short[:_LINE]}…"
