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
from airdraft.edge.server import EdgeServer
from airdraft.errors import BadParameterError
from airdraft.models.base import OneByOne
from airdraft.models.folder import load
from airdraft.models.profile import PacedEngine, profile


def edge(
    target: options.Target = "target",
    host: options.Host = "127.0.0.1",
    port: options.Port = 8571,
    profile_name: options.Profile = "none",
    max_sessions: Annotated[int, typer.Option(help="Texts at once on one connection.")] = 16,
    max_draft: Annotated[int, typer.Option(help="Tokens in one draft.")] = 32,
    max_frame: Annotated[int, typer.Option(help="Bytes in one frame.")] = MAX_FRAME,
    as_json: options.Json = False,
    until_eof: options.UntilEof = False,
) -> None:
    """Serve a target model: verify what devices draft, and stream to devices that cannot draft.

    Listens on this machine only unless told otherwise; there is no encryption
    and no password yet, so keep it behind something that has both.
    """
    if min(max_sessions, max_draft) < 1 or max_frame < 1024:
        raise BadParameterError("--max-sessions and --max-draft must be at least 1, --max-frame at least 1024 bytes")
    limits = Limits(max_frame, max_draft, max_sessions)
    asyncio.run(_serve(target, host, port, profile_name, limits, as_json, until_eof))


async def _serve(
    target: str, host: str, port: int, profile_name: str, limits: Limits, as_json: bool, until_eof: bool
) -> None:
    pace = profile(profile_name)
    model, tokenizer = load(target)
    async with EdgeServer(
        PacedEngine(OneByOne(model), pace.target_s), tokenizer.digest, tokenizer.vocab_size, limits
    ) as server:
        await server.start(host, port)
        stopped = stopping(until_eof)
        url = options.address(host, server.port)
        if as_json:
            print(json.dumps({"event": "listening", "url": url, "model": model.name}), flush=True)  # noqa: T201
        else:
            typer.echo(f"airdraft edge serves {model.name} on {url} (Ctrl-C stops it)")
            if pace.target_s:
                typer.echo(f"compute is imitated: {pace.description}")
            if host not in ("127.0.0.1", "localhost", "::1"):
                typer.echo(f"listening on {host}: anybody who reaches it may use it")
        await stopped.wait()
