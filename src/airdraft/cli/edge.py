"""`airdraft edge`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from airdraft.cli import options
from airdraft.cli.waiting import stopping
from airdraft.core.edge import Limits
from airdraft.core.messages import MAX_FRAME
from airdraft.edge.server import Capacity, EdgeServer
from airdraft.errors import BadParameterError
from airdraft.models.engines import HERE, REMOTE, TOP_K, load_target
from airdraft.models.profile import PacedEngine, Profile, profile


def edge(
    target: options.Target = "target",
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"What runs the target: {', '.join(HERE)}, or one that runs elsewhere: {', '.join(REMOTE)}. "
            "Without it: the one whose files the folder holds.",
            rich_help_panel="Engine",
        ),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(help="Where such an engine answers; once for each replica.", rich_help_panel="Engine"),
    ] = None,
    engine_top_k: Annotated[
        int,
        typer.Option(
            help="Most likely tokens to ask such an engine for. A text is exact with at most this --top-k, or greedy.",
            min=1,
            rich_help_panel="Engine",
        ),
    ] = TOP_K,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Texts in one call of the engine; without it, as many as it takes.", min=1, rich_help_panel="Engine"
        ),
    ] = None,
    kv_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of all texts whose keys and values are kept; who loses them is fed again.",
            min=1,
            rich_help_panel="Engine",
        ),
    ] = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8571,
    profile_name: options.Profile = "none",
    max_texts: Annotated[int, typer.Option(help="Texts at once on all connections.", min=1)] = 1024,
    max_sessions: Annotated[int, typer.Option(help="Texts at once on one connection.")] = 16,
    max_draft: Annotated[int, typer.Option(help="Tokens in one draft.")] = 32,
    max_frame: Annotated[int, typer.Option(help="Bytes in one frame.")] = MAX_FRAME,
    as_json: options.Json = False,
    until_eof: options.UntilEof = False,
) -> None:
    """Serve a target model: verify what devices draft, and stream to devices that cannot draft.

    Listens on this machine only unless told otherwise; there is no encryption
    and no password yet, so keep it behind something that has both.

    With vLLM on this machine, the folder only for its tokenizer and config:

      airdraft edge --target FOLDER --engine vllm --url http://127.0.0.1:8000
    """
    if min(max_sessions, max_draft) < 1 or max_frame < 1024:
        raise BadParameterError("--max-sessions and --max-draft must be at least 1, --max-frame at least 1024 bytes")
    limits = Limits(max_frame, max_draft, max_sessions)
    capacity = Capacity(max_texts, max_batch, kv_tokens)
    pace = profile(profile_name)
    model, tokenizer = load_target(target, engine=engine, urls=url or (), top_k=engine_top_k)
    paced = PacedEngine(model, pace.target_s) if pace.target_s else model
    server = EdgeServer(paced, tokenizer.digest, tokenizer.vocab_size, limits, capacity)
    asyncio.run(_serve(server, model.name, pace, host, port, as_json, until_eof))


async def _serve(
    server: EdgeServer, name: str, pace: Profile, host: str, port: int, as_json: bool, until_eof: bool
) -> None:
    async with server:
        await server.start(host, port)
        stopped = stopping(until_eof)
        url = options.address(host, server.port)
        if as_json:
            print(json.dumps({"event": "listening", "url": url, "model": name}), flush=True)  # noqa: T201
        else:
            typer.echo(f"airdraft edge serves {name} on {url} (Ctrl-C stops it)")
            if pace.target_s:
                typer.echo(f"compute is imitated: {pace.description}")
            if host not in ("127.0.0.1", "localhost", "::1"):
                typer.echo(f"listening on {host}: anybody who reaches it may use it")
        await stopped.wait()
