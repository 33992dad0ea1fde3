"""`airdraft link`: a slow link in front of an edge."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from airdraft import local
from airdraft.cli import options
from airdraft.cli.waiting import stopping
from airdraft.errors import BadParameterError
from airdraft.link.base import LinkModel
from airdraft.link.const import ConstLink
from airdraft.link.nr import NrLink, NrPipe
from airdraft.link.nr.measuring import Measuring
from airdraft.link.presets import listing, preset
from airdraft.link.relay import Relay


def link(
    to: Annotated[str, typer.Option(help="The edge behind the link, ws://HOST:PORT.")] = "ws://127.0.0.1:8571",
    host: options.Host = "127.0.0.1",
    port: options.Port = 8572,
    spec: Annotated[
        str | None,
        typer.Option(
            "--link", metavar="SPEC", help="A link by name, instead of the three below.", rich_help_panel="Link"
        ),
    ] = None,
    uplink_mbps: options.Uplink = math.inf,
    downlink_mbps: options.DownlinkRate = math.inf,
    rtt_ms: options.Rtt = 0.0,
    csi: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what a modem measures of nr's channel there, for airdraft device --csi. A pipe is made if "
            "there is no file.",
            rich_help_panel="Link",
        ),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Print the links there are, and end.")] = False,
    as_json: options.Json = False,
    until_eof: options.UntilEof = False,
) -> None:
    """Emulate a slow link in front of an edge, in real time.

    It needs no root.

      airdraft link --uplink-mbps 5 --rtt-ms 50                      constant
      airdraft link --link nr                                        by name
      airdraft link --link nr:scenario=indoor-los,grant=configured
      airdraft link --link rayleigh:snr=10,rtt=30
      airdraft link --link trace:drive.csv,end=hold

    Then point the device at it: airdraft run "..." --edge ws://127.0.0.1:8572.
    SPEC is a name and, after a colon, what is to differ from its defaults;
    --list prints all names and keys. docs/links.md explains the models.
    """
    if show_list:
        typer.echo(listing())
        return
    given = local.Link(uplink_mbps, downlink_mbps, rtt_ms)
    model: LinkModel = ConstLink(given.uplink_mbps * 1e6, given.downlink_mbps * 1e6, given.rtt_ms / 1e3)
    if spec is not None:
        if given != local.Link(math.inf, math.inf, 0.0):
            raise BadParameterError("--link and a rate or round trip are given; put them into SPEC, see --list")
        model = preset(spec)
    try:
        parts = urlsplit(to)
        target = (parts.hostname or "", parts.port or 0)
    except ValueError:
        target = ("", 0)
    if not all(target):
        raise BadParameterError(f"--to is {to!r}; write the edge's address as ws://HOST:PORT")
    if csi is not None and not isinstance(model, NrLink):
        raise BadParameterError("--csi is given, and only nr has a channel to measure; give --link nr, or leave it out")
    asyncio.run(_relay(model, host, port, target, as_json, until_eof, csi))


async def _relay(
    model: LinkModel, host: str, port: int, target: tuple[str, int], as_json: bool, until_eof: bool, csi: Path | None
) -> None:
    async with await Relay.start(model, host, port, *target) as relay:
        if csi is not None and isinstance(relay.uplink, NrPipe):
            Measuring(relay.uplink, csi, asyncio.get_running_loop().time)
        stopped = stopping(until_eof)
        url = options.address(host, relay.port)
        if as_json:
            print(json.dumps({"event": "listening", "url": url}), flush=True)  # noqa: T201
        else:
            typer.echo(f"airdraft link carries {url} to {target[0]}:{target[1]} (Ctrl-C stops it)")
        await stopped.wait()
        if not as_json:
            typer.echo(f"carried {relay.uplink_bytes} bytes up and {relay.downlink_bytes} down")
            typer.echo(f"with headers {relay.uplink.sent_bytes} up and {relay.downlink.sent_bytes} down")
