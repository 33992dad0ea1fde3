"""HTTP in the process's event loop: metrics, health, and a server for these and for any other app."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from airdraft.errors import LinkError, why
from airdraft.listening import listen

STOP_S = 3
"""Seconds that unfinished answers get when the server ends."""
HEAD_S = 10.0
"""Seconds for a request to arrive, without its body; the connection ends after twice as long at most."""
UNREAD_S = 60.0
"""Seconds that a client may leave an answer unread. The code that makes the answer would otherwise wait for ever."""
CONNECTIONS = 1024
"""Most connections at once, unless another number is given."""
FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
"""The answer to a connection beyond that number."""


def routes(metrics: CollectorRegistry, health: Callable[[], str | None]) -> list[Route]:
    """Make /metrics for Prometheus and /healthz for a load balancer: 200, or 503 while `health` gives a reason."""

    async def scrape(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics), headers={"content-type": kind})

    async def healthz(request: Request) -> Response:
        why = health()
        return JSONResponse({"status": why or "ok"}, 503 if why else 200)

    return [Route("/metrics", scrape), Route("/healthz", healthz)]


def plain(routes: Sequence[BaseRoute], **options: Any) -> Starlette:
    """Make an app of exactly these paths. Starlette's own would redirect /path/ to /path, at whatever host is named."""
    app = Starlette(routes=routes, **options)
    app.router.redirect_slashes = False
    return app


class _Connection(H11Protocol):
    """One connection out of at most `most`, which does not wait for ever for its client."""

    _looking: asyncio.TimerHandle | None = None
    _waited_after: object = None
    """The last request, if it was answered and no other had come at the previous check."""
    _unread_s: float | None = None
    """Seconds in which nothing could be written, counted at the checks."""

    def __init__(self, *given: Any, most: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self._most = most

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_later()
        # uvicorn's own limit would refuse the next request on any connection, not the connection too many.
        if len(self.connections) > self._most:
            transport.write(FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_s = 0.0

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_s = None

    def _look_later(self) -> None:
        self._looking = self.loop.call_later(HEAD_S, self._look)

    def _look(self) -> None:
        waits = self.cycle is None or self.cycle.response_complete
        late = waits and self._waited_after is (self.cycle or self)
        self._waited_after = (self.cycle or self) if waits else None
        if self._unread_s is not None:
            self._unread_s += HEAD_S
        if late or (self._unread_s or 0.0) > UNREAD_S:
            self.transport.abort()  # closing would wait until everything is read
        else:
            self._look_later()


class _HttpServer(uvicorn.Server):
    """One of several servers in a process, which leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, host: str, port: int, *, tls: ssl.SSLContext | None = None, connections: int = CONNECTIONS
) -> AsyncIterator[int]:
    """Serve an ASGI app in the running loop while the context lasts. Yields the port; port 0 picks a free one.

    With `tls` it speaks HTTPS only. Clients that do not ask, or do not read, are cut off; a client beyond `connections`
    gets HTTP 503. Raises: `LinkError` if the address cannot be had.
    """
    try:
        listening, *others = await listen(host, port)
    except (OSError, UnicodeError) as error:
        raise LinkError(
            f"HTTP cannot be served on {host}:{port} ({why(error)}); choose a free port, or port 0"
        ) from error
    config = uvicorn.Config(
        app,
        # h11 bounds the headers, whatever else is installed.
        http=partial(_Connection, most=connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,  # configured elsewhere
        access_log=False,
        ssl_context_factory=(lambda *_: tls) if tls else None,
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
    )
    server = _HttpServer(config)
    task = asyncio.create_task(server.serve([listening, *others]))
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.001)
        if task.done():
            task.result()
            raise LinkError(f"the HTTP server on {host}:{port} did not start; see the log")
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)
        for each in (listening, *others):
            each.close()
