"""An edge on this machine, and an emulated link in front of it, as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from airdraft.errors import BadParameterError, LinkError

START_S = 300.0
"""Seconds until a process must say something. One that serves a large model reads it twice, for its digest, too."""
PLAIN = ("--propose", "none")
"""Options of an edge that proposes nothing itself, for those who compare schemes."""


@dataclass(frozen=True)
class Link:
    """A link to emulate."""

    uplink_mbps: float
    downlink_mbps: float
    rtt_ms: float

    def __post_init__(self) -> None:
        for name, rate in (("uplink", self.uplink_mbps), ("downlink", self.downlink_mbps)):
            if not rate > 0:  # NaN lands here too
                raise BadParameterError(f"{name}-mbps is {rate:g}; give a rate above 0 in Mbit/s, or inf for no limit")
        if not 0 <= self.rtt_ms < math.inf:
            raise BadParameterError(f"rtt-ms is {self.rtt_ms:g}; give a finite round-trip time of 0 ms or more")

    def __str__(self) -> str:
        return f"{self.uplink_mbps:g} Mbit/s up, {self.downlink_mbps:g} down, {self.rtt_ms:g} ms RTT"


@contextlib.asynccontextmanager
async def edge(target: str, profile: str, link: Link | None = None, options: Sequence[str] = ()) -> AsyncIterator[str]:
    """Start an edge that serves `target` on loopback, behind `link` if one is given. Yield the URL to connect to.

    options: further options of `airdraft edge`.

    Both processes end with the context. If this process ends, they end as well, because their standard input does.
    Raises: `LinkError` with a child's own last words if it does not start.
    """
    async with contextlib.AsyncExitStack() as stack:
        url: str = (await stack.enter_async_context(serving(target, profile, options)))["url"]
        if link is not None:
            rates = [("--uplink-mbps", link.uplink_mbps), ("--downlink-mbps", link.downlink_mbps)]
            numbers = [str(word) for option in [*rates, ("--rtt-ms", link.rtt_ms)] for word in option]
            relaying = _child("link", "--to", url, "--port", "0", "--json", "--until-eof", *numbers)
            url = (await stack.enter_async_context(relaying))["url"]
        yield url


@contextlib.asynccontextmanager
async def serving(target: str, profile: str, options: Sequence[str] = ()) -> AsyncIterator[dict[str, Any]]:
    """Start an edge without a link. Yield what it prints about itself, its `url` for one, and its `pid`."""
    fixed = ("--target", target, "--profile", profile, "--port", "0", "--json", "--until-eof")
    async with _child("edge", *fixed, *options) as said:
        yield said


@contextlib.asynccontextmanager
async def device(edge: str, options: Sequence[str] = ()) -> AsyncIterator[dict[str, Any]]:
    """Start `airdraft device` on loopback, for texts over HTTP. Yield what it prints about itself, `url` and `pid`."""
    async with _child("device", "--edge", edge, "--port", "0", "--json", "--until-eof", *options) as said:
        yield said


@contextlib.asynccontextmanager
async def _child(command: str, *options: str) -> AsyncIterator[dict[str, Any]]:
    """Run one airdraft process. Yield the line of JSON that it prints once it listens."""
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "airdraft", command, *options, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others with its contexts
        )  # fmt: skip
        line = b""
        try:
            if process.stdout is None:
                raise LinkError(f"the {command} process has no output to listen to")
            try:
                line = await asyncio.wait_for(process.stdout.readline(), START_S)
            except TimeoutError:
                raise LinkError(
                    f"the {command} process said nothing for {START_S:g} s; try `airdraft {command}`"
                ) from None
            if not line:
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
                raise LinkError(words[-1].removeprefix("airdraft: "))
            yield json.loads(line) | {"pid": process.pid}
        finally:
            # Closing the pipe ends the process, see `--until-eof`. A signal would make asyncio before 3.12 warn if the
            # process ended by itself at that moment.
            if process.stdin is not None:
                process.stdin.close()
            if not line and process.returncode is None:
                process.kill()  # it does not listen yet, to its input neither, and there is nothing that it could lose
            try:
                await asyncio.wait_for(process.wait(), 5.0)
            except TimeoutError:
                process.kill()
                await process.wait()
