"""The HTTP side of the API: bodies, server-sent events, errors, and clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from airdraft.api.errors import ApiError, as_api_error
from airdraft.api.paths import unserved
from airdraft.errors import AirdraftError

MAX_BODY = 8 << 20
"""Largest body of a request, in bytes."""
BODY_S = 60.0
"""Seconds that a body may take to arrive."""
_STREAMED = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the stream and pass it on as a whole
]


def has_key(authorization: str, key: str | None) -> bool:
    """Whether an `Authorization` header presents `key` as a bearer; None asks for nothing."""
    if key is None:
        return True
    scheme, _, given = authorization.partition(" ")
    return hmac.compare_digest(given.strip().encode(errors="replace"), key.encode()) and scheme.lower() == "bearer"


async def body_of(request: Request) -> bytes:
    """Return the body of a request. Raises: `ApiError` if it is too long, or does not arrive in time."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise ApiError(413, f"the body exceeds {MAX_BODY} bytes; send less")
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_S:g} s; send less, or faster") from None
    except ClientDisconnect:  # nobody reads the answer, but the log must not blame this server
        raise ApiError(400, "the body ended early; send all of it") from None
    return bytes(body)


class UntilGone(Response):
    """A response that is made while it is sent, and abandoned when the client goes away."""

    def __init__(self, make: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        """`make` sends all of it. An error that it raises before it sends anything becomes the answer."""
        self._make = make
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response: this is an ASGI application."""
        work = asyncio.ensure_future(self._make(scope, receive, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if not work.cancelled():
            work.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def whole(make: Callable[[], Awaitable[dict[str, Any]]]) -> UntilGone:
    """Answer with one JSON object, once it is complete."""

    async def send_whole(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(await make())(scope, receive, send)

    return UntilGone(send_whole)


def events(chunks: AsyncGenerator[dict[str, Any], None]) -> UntilGone:
    """Answer with server-sent events (WHATWG HTML §9.2): one for each chunk, then `[DONE]` or an error.

    Chunks that say their `type` are events of that name, of which the last is the end.
    """

    async def send_events(scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(chunks):
            chunk = await anext(chunks)  # before anything is sent, so that an error gets its own status
            await send({"type": "http.response.start", "status": 200, "headers": _STREAMED})
            await _send_event(send, chunk)
            try:
                async for chunk in chunks:
                    await _send_event(send, chunk)
                if "type" not in chunk:
                    await _send_data(send, b"[DONE]")
            except AirdraftError as error:
                await _send_event(send, as_api_error(error).body())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return UntilGone(send_events)


async def _send_event(send: Send, chunk: dict[str, Any]) -> None:
    name = f"event: {chunk['type']}\n".encode() if "type" in chunk else b""
    await _send_data(send, msgspec.json.encode(chunk), name)


async def _send_data(send: Send, data: bytes, before: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": before + b"data: " + data + b"\n\n", "more_body": True})


async def refused(request: Request, error: Exception) -> Response:
    """Return an error as an answer."""
    if isinstance(error, HTTPException):
        headers = error.headers
        known = unserved(request, error)
    else:
        headers = None
        known = as_api_error(error) if isinstance(error, AirdraftError) else ApiError(500, "a fault of this server")
    if known.status == 503:
        headers = {"Retry-After": "1"}
    return JSONResponse(known.body(), known.status, headers)
