"""`airdraft device`: OpenAI's API on a device that drafts."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Annotated, Any, cast

import typer

from airdraft.api.app import device_app
from airdraft.cli import chosen, options
from airdraft.cli.fitted import ONLY_DRAFT, fitted
from airdraft.cli.paged import on_device, told
from airdraft.cli.run import loaded, needed
from airdraft.cli.scraped import scraped
from airdraft.cli.waiting import stopping
from airdraft.device.dial import LOOPBACK
from airdraft.device.edges import Away
from airdraft.device.stall import STALL_S
from airdraft.device.watch import MeteredWriter
from airdraft.device.writer import Offline, Writer
from airdraft.errors import BadParameterError, LinkError, RefusedError
from airdraft.guides import Guides
from airdraft.models.base import LocalEngine, Threads
from airdraft.models.fit import Fit
from airdraft.models.registry import ANY, draft_files
from airdraft.telemetry import logs
from airdraft.telemetry.http import serving

_log = logging.getLogger(__name__)

_ApiKey = Annotated[
    str | None, typer.Option(envvar="AIRDRAFT_API_KEY", help="What clients must present. Without it: nothing.")
]
_GiveUpS = Annotated[
    float | None,
    typer.Option(
        "--give-up", help="Seconds that a text waits for an edge. Without it: for ever.", rich_help_panel="Link"
    ),
]


_Edge = Annotated[
    str, typer.Option(help="The edge, ws:// or wss://HOST:PORT; others with the same target after commas.")
]


def _check_key(api_key: str | None) -> None:
    if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable()):
        raise BadParameterError("--api-key is empty or holds what no HTTP header may; give one, or leave it out")


@fitted(draft_fit=ONLY_DRAFT)
def device(
    edge: _Edge,
    draft: options.UnnamedDraft = None,
    draft_engine: options.DraftEngine = None,
    lookup: options.Lookup = False,
    tree: options.Tree = "auto",
    forecast: options.Forecast = "none",
    csi: options.Csi = None,
    tokenizer_of: options.TokenizerOf = None,
    draft_fit: Fit = ANY,
    kept_mb: options.KeptMb = None,
    prompts: options.DraftPrompts = None,
    name: Annotated[str, typer.Option(help="What clients call the model: the target's name.")] = "target",
    chat_template: options.ChatTemplateFile = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8572,
    allow_host: options.AllowHost = None,
    api_key: _ApiKey = None,
    offline: options.Offline = "stall",
    give_up_s: _GiveUpS = None,
    stall_s: options.StallS = STALL_S,
    token: options.Token = None,
    ca: options.Ca = None,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = "127.0.0.1",
    log_level: options.LogLevel = "warning",
    log_json: options.LogJson = False,
    trace_dir: options.TraceDir = None,
    trace_tokens: options.TraceTokens = False,
    page: options.ShowPage = False,
    as_json: options.Json = False,
    until_eof: options.UntilEof = False,
) -> None:
    """Serve OpenAI's API here: drafted here, verified at the edge.

    Any client that speaks to OpenAI speaks to it:

      airdraft device --edge ws://HOST:8571
      curl http://127.0.0.1:8572/v1/completions \\
        -H 'Content-Type: application/json' \\
        -d '{"model": "target", "prompt": "def f(x):", "max_tokens": 40}'

    Without a draft it keeps texts alive over a bad link all the same:

      airdraft device --edge ws://A:8571,ws://B:8571 --draft none --tokenizer MODEL
    """
    _check_key(api_key)
    allowed, name, branches = options.host_names(allow_host), options.model_name(name), options.branches(tree)
    logs.configure(options.log_level(log_level), log_json)
    traces = options.traces(trace_dir, "device", trace_tokens, page)
    trust, wanted = options.trusted(ca), options.fitting(draft)
    draft, tokenizer_of = needed(draft, draft_engine, tokenizer_of, None, edge, token, trust, spares=False)
    model, tokenizer, stored = loaded(draft, draft_engine, tokenizer_of, draft_fit, prompts, edge, token, trust)
    told(traces, tokenizer)
    template, sampling = chosen.of_api(draft_files(draft, engine=draft_engine, tokenizer=tokenizer_of), chat_template)
    threads = model.info.threads if isinstance(model, LocalEngine) else None

    async def serve() -> None:
        writer = Writer(
            options.edges(edge), model, tokenizer.digest, tokenizer.vocab_size,
            offline=cast(Offline, offline), token=token, ssl=trust, give_up_s=give_up_s, stall_s=stall_s,
            traces=traces, told=_log.info, lookup=lookup, kept_mb=kept_mb, branches=branches, prompts=stored,
            reader=Guides(tokenizer), forecast=options.forecast(forecast, csi),
        )  # fmt: skip
        feed = traces.feed if traces else None
        watch = MeteredWriter(writer, feed)
        app = device_app(
            watch, tokenizer, name, template, api_key, [host, *allowed], lambda: writer.context,
            lambda: writer.exactness, sampling,
        )  # fmt: skip
        on_device(app, feed, writer, watch, tokenizer, template, name, api_key, [host, *allowed])
        scraping = scraped(watch.metrics.registry, writer.health, metrics_host, metrics_port, allowed)
        # The writer ends first: texts under way end with an error, and HTTP need not wait for them.
        async with scraping as metrics, serving(app, host, port) as found, writer:
            stopped = stopping(until_eof)
            away = await _connected(writer)
            url = options.address(host, found).replace("ws://", "http://", 1) + "/v1"
            if as_json:
                _print(writer, url, threads, metrics)
            else:
                typer.echo(f"airdraft device serves {name} at {url} (Ctrl-C stops it), {away or writer.state}")
                runs = None if threads is None else f"{draft} drafts on {threads.words}"
                shows = url.removesuffix("v1") if page else None
                _tell(writer, runs, metrics, shows, open_on=None if host in LOOPBACK or api_key else host)
            await stopped.wait()

    with wanted:
        asyncio.run(serve())


async def _connected(writer: Writer) -> Away | None:
    """Connect to an edge. Returns: why there is none, if that may pass: the first text tries again."""
    try:
        await writer.connect()
    except (LinkError, RefusedError) as error:
        if isinstance(error, RefusedError) and not error.passes:
            raise
        return Away(str(error))
    return None


def _print(writer: Writer, url: str, threads: Threads | None, metrics: str | None) -> None:
    """Print what a program needs to know at the start."""
    exactness = None if writer.exactness is None else writer.exactness.told
    line: dict[str, Any] = {"event": "listening", "url": url, "edge": writer.edge, "exactness": exactness}
    line |= {"threads": threads.count} if threads else {}
    print(json.dumps(line | ({"metrics": metrics} if metrics else {})), flush=True)  # noqa: T201


def _tell(writer: Writer, runs: str | None, metrics: str | None, shows: str | None, open_on: str | None) -> None:
    """Print what else there is to say at the start.

    runs: how the draft runs. shows: where the page is. open_on: the address at which anybody may use this device.
    """
    if runs is not None:
        typer.echo(runs)
    if writer.exactness is not None:
        typer.echo(f"texts are {writer.exactness.words}")
    if shows:
        typer.echo(f"the page is at {shows}")
    if metrics:
        typer.echo(f"metrics are at {metrics}/metrics")
    if open_on is not None:
        typer.echo(f"listening on {open_on} without --api-key: anybody who reaches it may use it")
