"""Metrics and health over HTTP, for commands that serve."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from airdraft.cli import options
from airdraft.telemetry.http import routes, serving


@contextlib.asynccontextmanager
async def scraped(
    metrics: CollectorRegistry, health: Callable[[], str | None], host: str, port: int | None
) -> AsyncIterator[str | None]:
    """Serve /metrics and /healthz if a port is given. Yields the URL."""
    if port is None:
        yield None
        return
    async with serving(Starlette(routes=routes(metrics, health)), host, port) as found:
        yield options.address(host, found).replace("ws://", "http://", 1)
