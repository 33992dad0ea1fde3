"""Metrics and health over HTTP, for commands that serve."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from prometheus_client import CollectorRegistry

from airdraft.cli import options


@contextlib.asynccontextmanager
async def scraped(
    metrics: CollectorRegistry,
    health: Callable[[], str | None],
    host: str,
    port: int | None,
    allowed: Sequence[str] = (),
) -> AsyncIterator[str | None]:
    """Serve /metrics and /healthz if a port is given. `allowed`: further names to be asked by. Yields the URL."""
    if port is None:
        yield None
        return
    from airdraft.telemetry.hosts import OwnNames  # noqa: PLC0415  # a tenth of a start, for those who give a port
    from airdraft.telemetry.http import plain, routes, serving  # noqa: PLC0415

    app = OwnNames([host, *allowed]).guard(plain(routes(metrics, health)))
    async with serving(app, host, port) as found:
        yield options.address(host, found).replace("ws://", "http://", 1)
