"""The process of `airdraft edge`: the edge's server, the other ports, signals, and the lines that announce them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from starlette.applications import Starlette

from airdraft.cli import options
from airdraft.cli.scraped import scraped
from airdraft.cli.waiting import stopping
from airdraft.device.dial import LOOPBACK
from airdraft.edge import tls
from airdraft.edge.server import EdgeServer
from airdraft.errors import AirdraftError
from airdraft.models.base import Threads

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Certificate:
    """A certificate in use, and the files to read it from again."""

    context: ssl.SSLContext
    chain: Path
    key: Path


@dataclass(frozen=True)
class ApiPort:
    """OpenAI's API, to be served on a port of its own."""

    app: Starlette
    port: int
    connections: int
    """Most connections at once."""
    offers: bool = False
    """Whether devices may take there what the edge's own draft has read."""
    page: bool = False
    """Whether there is a page besides."""


@dataclass(frozen=True)
class EdgeProcess:
    """Everything that one process serves, until it is told to stop."""

    server: EdgeServer
    name: str
    """Name of the model."""
    threads: Threads | None
    """That run it; None: it runs elsewhere."""
    host: str
    port: int
    metrics_host: str
    metrics_port: int | None
    api: ApiPort | None
    certificate: Certificate | None
    imitated: str | None
    """Hardware whose compute is imitated."""
    tokens: int | None
    """Number of bearer tokens; None lets anybody in."""
    allowed: Sequence[str]
    """Further names by which metrics may be asked for."""
    drain_s: float
    as_json: bool
    until_eof: bool

    async def serve(self) -> None:
        """Serve until a signal, or the end of standard input, says to stop; SIGTERM lets open texts end first."""
        server = self.server
        async with server:
            await server.start(self.host, self.port)
            scraping = scraped(
                server.metrics.registry, server.health, self.metrics_host, self.metrics_port, self.allowed
            )
            async with scraping as metrics_url, self._api() as api_url:
                stopped = stopping(self.until_eof)
                terminated = asyncio.Event()

                def terminate() -> None:
                    (stopped if terminated.is_set() else terminated).set()

                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGTERM, terminate)
                if self.certificate or self.tokens:
                    loop.add_signal_handler(signal.SIGHUP, self._reload)
                offers = self.api is not None and self.api.offers and api_url is not None
                drafts = f"{api_url}/drafts" if offers else None
                self._announce({"metrics": metrics_url, "api": api_url, "drafts": drafts})
                await _either(stopped.wait(), terminated.wait())
                if not stopped.is_set():
                    await _either(stopped.wait(), server.drain(self.drain_s))
                await server.close()  # before the API, which would wait for its texts

    @contextlib.asynccontextmanager
    async def _api(self) -> AsyncIterator[str | None]:
        """Serve OpenAI's API, if it was asked for. Yields its URL."""
        if self.api is None:
            yield None
            return
        from airdraft.telemetry.http import serving  # noqa: PLC0415  # as in `scraped`

        # The devices' own context, so that a certificate that is read again is for both ports.
        context = self.certificate.context if self.certificate else None
        api = self.api
        async with serving(api.app, self.host, api.port, tls=context, connections=api.connections) as found:
            scheme = "https" if context else "http"
            yield options.address(self.host, found).replace("ws", scheme, 1) + "/v1"

    def _reload(self) -> None:
        """Read tokens and certificate again. A broken file changes nothing."""
        try:
            self.server.reload()
            if self.certificate is not None:
                tls.load(self.certificate.context, self.certificate.chain, self.certificate.key)
        except AirdraftError as error:
            _log.error("not reloaded, everything is as it was: %s", error)
        else:
            _log.info("tokens and certificate were read again")

    def _announce(self, urls: dict[str, str | None]) -> None:
        """Print what is served where, and to whom. `urls` has what is served besides, by name."""
        url = options.address(self.host, self.server.port)
        if self.certificate:
            url = url.replace("ws://", "wss://", 1)
        if self.as_json:
            line: dict[str, Any] = {"event": "listening", "url": url, "model": self.name}
            line["exactness"] = self.server.exactness.told
            line |= {"threads": self.threads.count} if self.threads else {}
            print(json.dumps(line | {name: each for name, each in urls.items() if each}), flush=True)  # noqa: T201
            return
        typer.echo(f"airdraft edge serves {self.name} on {url} (Ctrl-C stops it)")
        typer.echo(f"texts are {self.server.exactness.words}")
        if self.threads:
            typer.echo(f"it runs on {self.threads.words}")
        if urls["metrics"]:
            typer.echo(f"metrics are at {urls['metrics']}/metrics")
        if urls["api"]:
            shows = f", the page at {urls['api'].removesuffix('v1')}" if self.api is not None and self.api.page else ""
            typer.echo(f"OpenAI's API is at {urls['api']}{shows}")
        if urls["drafts"]:
            typer.echo(f"devices with the same draft may have it read prompts: --prompts {urls['drafts']}")
        if self.imitated:
            typer.echo(f"compute is imitated: {self.imitated}")
        if self.tokens:
            typer.echo(f"access: {self.tokens} token{'s' if self.tokens > 1 else ''}")
        if self.host in LOOPBACK:
            typer.echo("only this machine can reach it; --host opens it to others")
        else:
            if not self.tokens:
                typer.echo(f"listening on {self.host} without --tokens: anybody who reaches it may use it")
            if not self.certificate:
                typer.echo(f"listening on {self.host} without --tls-cert: anybody on the way reads texts and tokens")


async def _either(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until the first is over, and cancel the others."""
    tasks = [asyncio.create_task(each) for each in waits]
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for task in done:
        task.result()
