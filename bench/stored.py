"""`python -m bench.stored [--json FILE]`: prompts from a store behind a link, in wall clock, against virtual time.

Three processes: a web server with a published prompt, an edge, and this one, which has the link to the store and asks
the edge as a device without a draft. How fast an edge reads changes with the hour, and with what else its machine does:
web server and link, which would be elsewhere, share its cores here. So before each cell another edge without a store
reads the prompt while somebody else keeps that link busy. The table goes to the terminal, and into the marked block of
docs/prompts.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import fsspec

from airdraft import local
from airdraft.client import AsyncClient
from airdraft.errors import BadParameterError, LinkError
from airdraft.link.base import HEADER_BYTES, PACKET_BYTES
from airdraft.link.const import ConstLink
from airdraft.link.relay import Relay
from airdraft.models.fit import Fit
from airdraft.models.registry import load_target
from airdraft.models.text import Tokenizer
from airdraft.prompts.lanes import MOST, Lanes
from airdraft.prompts.publishing import publish as publish_prompt
from airdraft.prompts.virtual import StoreLink, ways_s
from bench.pages import json_file, machine, publish

TARGET = "chat-target"
TOKENS = 1056
"""Of the prompt: whole blocks, and a rest that is computed."""
THREADS = 1
"""Of the target; the other core has the store and the link."""
RATES_MBPS, RTTS_MS = (10.0, 30.0, 100.0), (5.0, 50.0)
MOST_ERROR = 0.1
"""Bar of the median of all cells' errors."""
TEXTS = 3
"""Texts of each cell, whose median counts. The edge has learned the speeds with one before them."""
PAYLOAD = PACKET_BYTES / (PACKET_BYTES + HEADER_BYTES)
"""Of what the link carries; the rest is headers of packets."""
FIRST_S = 20.0
_SENTENCE = "Entry {}: what was said about it is kept here for those who ask later. "


@dataclass(frozen=True)
class StoredCell:
    """One link to the store."""

    rate_mbps: float
    rtt_ms: float
    alone_s: float
    """Until the first token without a store, measured just before, beside a busy link."""
    first_s: float
    """The same of an edge that knows nothing of the store yet."""
    wall_s: float
    virtual_s: float

    @property
    def error(self) -> float:
        """The difference, as a share of virtual time; above 0: slower than it says."""
        return (self.wall_s - self.virtual_s) / self.virtual_s


@dataclass(frozen=True)
class StoredReport:
    """All cells."""

    tokens: int
    token_bytes: int
    cells: list[StoredCell]

    @property
    def alone_s(self) -> float:
        """Seconds that the edge needs alone, the median of the cells."""
        return median(cell.alone_s for cell in self.cells)

    @property
    def error(self) -> float:
        """The median of the cells' errors."""
        return median(abs(cell.error) for cell in self.cells)


async def stored() -> StoredReport:
    """Measure. Raises: `BadParameterError` without aiohttp, by which an edge reads from a web server."""
    if importlib.util.find_spec("aiohttp") is None:
        raise BadParameterError("an edge reads from a web server by aiohttp; pip install 'airdraft[s3]'")
    engine, tokenizer = load_target(TARGET, fit=Fit(THREADS))
    prompt = tokenizer.encode("".join(map(_SENTENCE.format, range(TOKENS))))[:TOKENS]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = publish_prompt(engine, prompt, folder)
        del engine
        token_bytes, cells, objects = made.bytes // made.tokens, [], _objects(folder)
        async with _web(folder) as port, _edge() as alone:
            await _first_s(alone, prompt, tokenizer)
            for rate, rtt in product(RATES_MBPS, RTTS_MS):
                link = ConstLink(rate * 1e6, rate * 1e6, rtt / 1e3)
                async with await Relay.start(link, "127.0.0.1", 0, "127.0.0.1", port) as relay, _busy(objects, relay):
                    alone_s = await _first_s(alone, prompt, tokenizer)
                async with (
                    await Relay.start(link, "127.0.0.1", 0, "127.0.0.1", port) as relay,
                    _edge("--prompts", f"http://127.0.0.1:{relay.port}") as url,
                ):
                    first_s, *later_s = [await _first_s(url, prompt, tokenizer) for _ in range(1 + TEXTS)]
                way = StoreLink(PAYLOAD * rate * 1e6 / 8, rtt / 1e3)
                said = ways_s(len(prompt), token_bytes, way, len(prompt) / alone_s)
                cells.append(StoredCell(rate, rtt, alone_s, first_s, median(later_s), said["auto"]))
    return StoredReport(len(prompt), token_bytes, cells)


@contextlib.asynccontextmanager
async def _edge(*options: str) -> AsyncIterator[str]:
    """An edge that keeps nothing of the texts that are over: the next reads its prompt anew."""
    fixed = ("--threads", str(THREADS), "--kept-mb", "0", "--propose", "none")
    async with local.serving(TARGET, "none", (*fixed, *options)) as said:
        yield said["url"]


def _objects(folder: str) -> list[str]:
    return [str(each.relative_to(folder)) for each in Path(folder).glob("*/*/blocks/*/*")]


@contextlib.asynccontextmanager
async def _busy(objects: list[str], relay: Relay) -> AsyncIterator[None]:
    """Somebody who fetches objects through a relay, again and again, as an edge does."""
    store, lanes = fsspec.filesystem("http", skip_instance_cache=True), Lanes()

    async def fetch() -> None:
        while True:
            for at in range(0, len(objects), MOST):
                urls = [f"http://127.0.0.1:{relay.port}/{each}" for each in objects[at : at + MOST]]
                await asyncio.gather(*(lanes.run(partial(store._cat_file, url), FIRST_S) for url in urls))

    fetching = asyncio.run_coroutine_threadsafe(fetch(), store.loop)
    try:
        yield
    finally:
        fetching.cancel()


async def _first_s(url: str, prompt: list[int], tokenizer: Tokenizer) -> float:
    """Seconds until the first token after the prompt."""
    async with AsyncClient(url, draft=None, tokenizer=tokenizer) as client:
        began_s = time.perf_counter()
        await client.complete(prompt, temperature=0.0, max_tokens=1)
        return time.perf_counter() - began_s


@contextlib.asynccontextmanager
async def _web(folder: str) -> AsyncIterator[int]:
    """A web server that lists and gives what lies in a folder, in a process of its own. Yields: its port."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "-p", "HTTP/1.1", "-b", "127.0.0.1", "-d", folder]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        line = b"" if process.stdout is None else await asyncio.wait_for(process.stdout.readline(), FIRST_S)
        found = re.search(rb" port (\d+) ", line)
        if found is None:
            raise LinkError("python -m http.server does not start; run the bench again")
        yield int(found[1])
    finally:
        process.terminate()
        await process.wait()


def table(report: StoredReport) -> str:
    """The result as Markdown."""
    here, speed = machine(), report.tokens / report.alone_s
    lines = [
        f"Seconds until the first token behind a published prompt of {report.tokens} tokens, "
        f"{report.token_bytes / 1024:.0f} KiB a token, which the edge alone reads at {speed:.0f} tokens/s "
        f"beside a busy link; {here['cpu']}, {here['cores']} cores, load {here['load']:.1f}:",
        "",
        "| Mbit/s | RTT, ms | alone | first text | later ones | virtual | error |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {cell.rate_mbps:g} | {cell.rtt_ms:g} | {cell.alone_s:.2f} | {cell.first_s:.2f} | {cell.wall_s:.2f} | "
        f"{cell.virtual_s:.2f} | {cell.error:+.0%} |"
        for cell in report.cells
    ]
    verdict = "kept" if report.error < MOST_ERROR else "MISSED"
    lines += ["", f"The median error is {report.error:.1%}; the bar is {MOST_ERROR:.0%}: {verdict}."]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write. Exit code 1 if the bar is missed."""
    file = json_file("stored", "Measure prompts from a store behind a link, in wall clock and in virtual time.")
    report = asyncio.run(stored())
    record = {"machine": machine(), "error": report.error, **asdict(report)}
    publish("docs/prompts.md", {"prompts-cells": table(report)}, record, file)
    return int(report.error >= MOST_ERROR)


if __name__ == "__main__":
    sys.exit(main())
