"""`airdraft edge`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from starlette.applications import Starlette

from airdraft.api.app import edge_app
from airdraft.api.template import ChatTemplate
from airdraft.cli import options
from airdraft.cli.scraped import scraped
from airdraft.cli.waiting import stopping
from airdraft.core.connection import HEARTBEAT_S
from airdraft.core.edge import Limits
from airdraft.core.messages import MAX_FRAME
from airdraft.device.dial import LOOPBACK
from airdraft.edge import tls
from airdraft.edge.access import Access
from airdraft.edge.server import Capacity, EdgeServer, Service
from airdraft.errors import AirdraftError, BadParameterError
from airdraft.models.engines import HERE, REMOTE, TOP_K, load_target, resolve
from airdraft.models.profile import PacedEngine, profile
from airdraft.telemetry import logs
from airdraft.telemetry.http import serving

_log = logging.getLogger(__name__)

ENGINE, ACCESS, LIMITS, OPERATION = "Engine", "Access", "Limits", options.OPERATION


@dataclass(frozen=True)
class _Settings:
    """Of the process, rather than of the server in it."""

    name: str
    """Of the model."""
    imitated: str | None
    """The hardware whose compute is imitated."""
    host: str
    port: int
    metrics_host: str
    metrics_port: int | None
    api: tuple[Starlette, int, int] | None
    """OpenAI's API, its port, and connections to it at once."""
    drain_s: float
    tls: tuple[ssl.SSLContext, Path, Path] | None
    tokens: int | None
    as_json: bool
    until_eof: bool


def edge(
    target: options.Target = "target",
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"What runs the target: {', '.join(HERE)}, or one that runs elsewhere: {', '.join(REMOTE)}. "
            "Without it: the one whose files the folder holds.",
            rich_help_panel=ENGINE,
        ),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(help="Where such an engine answers; once for each replica.", rich_help_panel=ENGINE),
    ] = None,
    engine_top_k: Annotated[
        int,
        typer.Option(
            help="Most likely tokens to ask such an engine for. A text is exact with at most this --top-k, or greedy.",
            min=1,
            rich_help_panel=ENGINE,
        ),
    ] = TOP_K,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Texts in one call of the engine; without it, as many as it takes.", min=1, rich_help_panel=ENGINE
        ),
    ] = None,
    kv_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of all texts whose keys and values are kept; who loses them is fed again.",
            min=1,
            rich_help_panel=ENGINE,
        ),
    ] = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8571,
    profile_name: options.Profile = "none",
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Certificate chain, PEM. wss:// is served then, and nothing else.", rich_help_panel=ACCESS),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.", rich_help_panel=ACCESS)] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="Bearer tokens that are let in: one a line, or .toml with quotas. SIGHUP reads it, and the "
            "certificate, again.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    max_connections: Annotated[
        int, typer.Option(help="Connections at once, on either port.", min=1, rich_help_panel=LIMITS)
    ] = 1024,
    max_texts: Annotated[
        int, typer.Option(help="Texts at once on all connections.", min=1, rich_help_panel=LIMITS)
    ] = 1024,
    max_sessions: Annotated[int, typer.Option(help="Texts at once on one connection.", rich_help_panel=LIMITS)] = 16,
    max_draft: Annotated[int, typer.Option(help="Tokens in one draft.", rich_help_panel=LIMITS)] = 32,
    max_frame: Annotated[int, typer.Option(help="Bytes in one frame.", rich_help_panel=LIMITS)] = MAX_FRAME,
    idle_s: Annotated[
        float,
        typer.Option(
            help="Seconds after which a text without progress, or a connection without a text, is ended; 0: never.",
            min=0,
            rich_help_panel=LIMITS,
        ),
    ] = 300.0,
    handshake_s: Annotated[
        float, typer.Option(help="Seconds that a handshake may take.", min=0.1, rich_help_panel=LIMITS)
    ] = 10.0,
    heartbeat_s: Annotated[
        float,
        typer.Option(
            help="Seconds between heartbeats, the devices' too. A peer that is silent for three of them is given up.",
            rich_help_panel=LIMITS,
        ),
    ] = HEARTBEAT_S,
    drain_s: Annotated[
        float,
        typer.Option(
            help="Seconds that open texts get to end after SIGTERM; a second one ends at once.",
            min=0,
            rich_help_panel=OPERATION,
        ),
    ] = 30.0,
    api_port: Annotated[
        int | None,
        typer.Option(
            help="Serve OpenAI's API here too, on the same host, with the same certificate and tokens: the target "
            "alone, for clients without a draft.",
            min=0,
            max=65535,
            rich_help_panel=OPERATION,
        ),
    ] = None,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = "127.0.0.1",
    log_level: options.LogLevel = "warning",
    log_json: options.LogJson = False,
    trace_dir: options.TraceDir = None,
    trace_tokens: options.TraceTokens = False,
    as_json: options.Json = False,
    until_eof: options.UntilEof = False,
) -> None:
    """Serve a target model: verify what devices draft, and stream to devices that cannot draft.

    Listens on this machine only unless told otherwise. To face a network, give
    it a certificate and tokens, see docs/operate.md:

      airdraft edge --host 0.0.0.0 --tls-cert chain.pem --tls-key key.pem --tokens tokens.toml

    With vLLM on this machine, the folder only for its tokenizer and config:

      airdraft edge --target FOLDER --engine vllm --url http://127.0.0.1:8000
    """
    if min(max_sessions, max_draft) < 1 or max_frame < 1024:
        raise BadParameterError("--max-sessions and --max-draft must be at least 1, --max-frame at least 1024 bytes")
    if not 0.01 <= heartbeat_s <= 3600:  # NaN lands here too
        raise BadParameterError(f"--heartbeat-s is {heartbeat_s:g}; give a time from 0.01 to 3600 s")
    level = options.log_level(log_level)
    traces = options.traces(trace_dir, "edge", trace_tokens)
    pace = profile(profile_name)
    secured = _tls(tls_cert, tls_key)
    service = Service(
        tls=secured[0] if secured else None,
        access=Access(tokens) if tokens else None,
        connections=max_connections,
        handshake_s=handshake_s,
        idle_s=idle_s or None,
        traces=traces,
    )
    limits = Limits(max_frame, max_draft, max_sessions, heartbeat_s)
    capacity = Capacity(max_texts, max_batch, kv_tokens)
    model, tokenizer = load_target(target, engine=engine, urls=url or (), top_k=engine_top_k)
    paced = PacedEngine(model, pace.target_s) if pace.target_s else model
    server = EdgeServer(paced, tokenizer.digest, tokenizer.vocab_size, limits, capacity, service)
    logs.configure(level, log_json)
    api = None
    if api_port is not None:
        api = edge_app(server, tokenizer, ChatTemplate.of(resolve(target, engine))), api_port, max_connections
    settings = _Settings(
        model.info.name, pace.description if pace.target_s else None, host, port, metrics_host, metrics_port, api,
        drain_s, secured, len(service.access) if service.access else None, as_json, until_eof,
    )  # fmt: skip
    asyncio.run(_serve(server, settings))


def _tls(certificate: Path | None, key: Path | None) -> tuple[ssl.SSLContext, Path, Path] | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise BadParameterError("--tls-cert and --tls-key go together; give both")
    return tls.server_context(certificate, key), certificate, key


async def _serve(server: EdgeServer, settings: _Settings) -> None:
    async with server:
        await server.start(settings.host, settings.port)
        scraping = scraped(server.metrics.registry, server.health, settings.metrics_host, settings.metrics_port)
        async with scraping as metrics_url, _api(settings) as api_url:
            stopped = stopping(settings.until_eof)
            terminated = asyncio.Event()

            def terminate() -> None:
                (stopped if terminated.is_set() else terminated).set()

            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, terminate)
            if settings.tls or settings.tokens:
                loop.add_signal_handler(signal.SIGHUP, _reload, server, settings)
            _announce(server, settings, {"metrics": metrics_url, "api": api_url})
            await _either(stopped.wait(), terminated.wait())
            if not stopped.is_set():
                await _either(stopped.wait(), server.drain(settings.drain_s))
            await server.close()  # before the API, which would wait for its texts


async def _either(*waits: Coroutine[Any, Any, object]) -> None:
    """Until the first is over; the others are given up."""
    tasks = [asyncio.create_task(each) for each in waits]
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for task in done:
        task.result()


@contextlib.asynccontextmanager
async def _api(settings: _Settings) -> AsyncIterator[str | None]:
    """Serve OpenAI's API. Yields its URL."""
    if settings.api is None:
        yield None
        return
    app, port, connections = settings.api
    # The devices' own context, so that a certificate that is read again is for both ports.
    context = settings.tls[0] if settings.tls else None
    async with serving(app, settings.host, port, tls=context, connections=connections) as found:
        scheme = "https" if settings.tls else "http"
        yield options.address(settings.host, found).replace("ws", scheme, 1) + "/v1"


def _reload(server: EdgeServer, settings: _Settings) -> None:
    try:
        server.reload()
        if settings.tls is not None:
            tls.load(*settings.tls)
    except AirdraftError as error:
        _log.error("not reloaded, everything is as it was: %s", error)
    else:
        _log.info("tokens and certificate were read again")


def _announce(server: EdgeServer, settings: _Settings, urls: dict[str, str | None]) -> None:
    """`urls`: what else is served, by name."""
    url = options.address(settings.host, server.port)
    if settings.tls:
        url = url.replace("ws://", "wss://", 1)
    if settings.as_json:
        line = {"event": "listening", "url": url, "model": settings.name}
        print(json.dumps(line | {name: each for name, each in urls.items() if each}), flush=True)  # noqa: T201
        return
    typer.echo(f"airdraft edge serves {settings.name} on {url} (Ctrl-C stops it)")
    if urls["metrics"]:
        typer.echo(f"metrics are at {urls['metrics']}/metrics")
    if urls["api"]:
        typer.echo(f"OpenAI's API is at {urls['api']}")
    if settings.imitated:
        typer.echo(f"compute is imitated: {settings.imitated}")
    if settings.tokens:
        typer.echo(f"who has one of {settings.tokens} tokens is let in")
    if settings.host in LOOPBACK:
        typer.echo("only this machine reaches it; --host lets others")
    else:
        if not settings.tokens:
            typer.echo(f"listening on {settings.host} without --tokens: anybody who reaches it may use it")
        if not settings.tls:
            typer.echo(f"listening on {settings.host} without --tls-cert: anybody on the way reads texts and tokens")
