"""Servers of one model behind HTTP: tries again, moves on to another, and says in one line what went wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import urllib3
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError

from airdraft.errors import ModelError

T = TypeVar("T")

_CONNECT_S = 5.0
_REST_S = 10.0
"""A replica that failed is asked last for so long: other sequences need not find out for themselves."""


class _Retry(urllib3.Retry):
    """Tries again what broke off, but not what came too late: a slow engine would only do its work twice."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: urllib3.BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


# A forward changes nothing that could be seen, so a POST may be repeated like a GET. 0.6 s until a replica is given up.
_RETRY = _Retry(
    total=3,
    allowed_methods=None,
    status_forcelist=(502, 503, 504),
    backoff_factor=0.1,
    raise_on_status=False,
    respect_retry_after_header=False,
)


class FailedError(ModelError):
    """What another replica may do better."""


class Replicas:
    """Servers of one model. Thread-safe: each call takes a connection of its own from a pool, up to `connections`."""

    def __init__(self, urls: Sequence[str], *, timeout_s: float, connections: int) -> None:
        if not urls:
            raise ModelError("no engine to ask; give the address of at least one, like http://127.0.0.1:8000")
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ModelError(f"{url!r} is no address of an engine; write it like http://127.0.0.1:8000")
        if timeout_s <= 0:
            raise ModelError(f"an engine cannot answer within {timeout_s} s; give a number above 0")
        self.urls = [url.rstrip("/") for url in urls]
        self._pool = urllib3.PoolManager(
            num_pools=len(urls), maxsize=connections, timeout=urllib3.Timeout(connect=_CONNECT_S, read=timeout_s)
        )
        self._timeout_s = timeout_s
        self._resting = dict[int, float]()  # replica: until when, of the monotonic clock

    def ask(self, replica: int, path: str, body: bytes | None = None) -> bytes:
        """What one replica replies to a GET, or with a body to a POST. Raises: `ModelError`."""
        url = self.urls[replica]
        method = "GET" if body is None else "POST"
        headers = {"Content-Type": "application/json"}
        try:
            reply = self._pool.request(method, url + path, body=body, headers=headers, retries=_RETRY, redirect=False)
        except HTTPError as problem:
            raise FailedError(f"{url} {self._reason(problem)}") from problem
        if reply.status >= 500:
            raise FailedError(f"{url} failed ({reply.status}: {_message(reply.data)})")
        if reply.status != 200:
            raise ModelError(f"{url} refused {path} ({reply.status}: {_message(reply.data)}); mend that, or its flags")
        return reply.data

    def ask_any(self, first: int, path: str, body: bytes) -> tuple[int, bytes]:
        """Post to replica `first`, or where that fails to others in turn.

        Returns: who replied, and what. Raises: `ModelError`, which names all of them if none replied.
        """
        now, n = time.monotonic(), len(self.urls)
        turns = sorted(range(n), key=lambda i: (self._resting.get(i, 0.0) > now, (i - first) % n))
        problems = []
        for replica in turns:
            try:
                return replica, self.ask(replica, path, body)
            except FailedError as problem:
                self._resting[replica] = time.monotonic() + _REST_S
                problems.append(str(problem))
        raise ModelError(f"{'; '.join(problems)}; start it again, or see its log")

    def _reason(self, problem: HTTPError) -> str:
        if isinstance(problem, ReadTimeoutError):
            return f"did not answer within {self._timeout_s:g} s"
        cause = problem.reason if isinstance(problem, MaxRetryError) and problem.reason else problem
        return f"cannot be reached ({_line(str(cause).rpartition(': ')[2])})"


def decode(reply: bytes, kind: type[T], who: str) -> T:
    """A reply as a msgspec Struct; fields it does not name are skipped. Raises: `ModelError` if it is none."""
    try:
        return msgspec.json.decode(reply, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ModelError(f"{who} replied with something else ({problem}); its version may not fit airdraft's") from None


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
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _line(reply.decode("utf-8", "replace"))
    said = found.error.message if isinstance(found.error, _Said) else found.error
    return _line(said or found.message or str(found.detail or "no reason given"))


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}…"
