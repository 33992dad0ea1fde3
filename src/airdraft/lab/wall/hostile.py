"""An honest text beside one hostile peer, in wall clock: edge, device and peer are processes of their own, on loopback.

For each attack of `airdraft.lab.hostile.attacks` a fresh edge and a fresh `airdraft device` write the same text again
and again, first alone, then under attack. The edge's memory is read from /proc, so this needs Linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import urllib3

from airdraft import local
from airdraft.errors import BadParameterError, LinkError
from airdraft.lab.hostile.attacks import ATTACKS, NEIGHBOUR, Attack, Order
from airdraft.models.registry import load

MOST_RATIO, MOST_MB = 1.5, 400.0
"""Bars: how much longer an honest text may take, and how large the edge may become."""
TOKENS = 100
"""Tokens of the honest text."""
TEXTS = 12
"""Texts alone, and under attack."""
SEEDS = 64
"""Seeds to try for a text that does not end sooner."""
WARM_S = 1.0
"""Seconds that an attack goes on before texts are measured."""
PATIENCE_S = 20.0
"""An honest text that takes longer, or fails, counts as this long."""
PROMPT = "def fibonacci(n):"


class HostileRow(msgspec.Struct, frozen=True):
    """One attack."""

    attack: str
    alone_s: float
    """Median time of an honest text without the attack."""
    honest_ratio: float
    """Median time under attack, divided by that."""
    failed: int
    """Honest texts that failed, took longer than `PATIENCE_S`, or were not the text that is written alone."""
    texts: int
    """Honest texts under attack."""
    edge_mb: float
    """The most memory that the edge had resident, in megabytes."""
    ended_s: float | None
    """Seconds until the edge ended the hostile connection. None: it did not."""

    @property
    def held(self) -> bool:
        """Whether the bars are kept. There are none for a neighbour who only writes."""
        if self.attack == NEIGHBOUR:
            return not self.failed
        return self.honest_ratio <= MOST_RATIO and self.edge_mb < MOST_MB and self.texts > 0 and not self.failed


def most_resident_mb(pid: int) -> float:
    """The most memory that a process ever had resident."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e6


@contextlib.contextmanager
def _descriptors(most: int | None) -> Iterator[None]:
    """Lower the limit of open files for processes that are started in the body."""
    if most is None:
        yield
        return
    import resource  # noqa: PLC0415  Unix only

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _tokens_file(folder: Path, quota: float) -> tuple[Path, str, str]:
    """A file of two tokens for an edge, the honest device's and the hostile peer's, and both."""
    honest, hostile = secrets.token_hex(), secrets.token_hex()
    entries = [
        f'[[token]]\nname = "{name}"\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
        for name, token in (("honest", honest), ("hostile", hostile))
    ]
    path = folder / "tokens.toml"
    path.write_text("".join(entries) + f"tokens_per_s = {quota:g}\n", encoding="utf-8")
    return path, honest, hostile


@contextlib.asynccontextmanager
async def _attacker(order: Order) -> AsyncIterator[list[float]]:
    """A hostile process that is at it. Yields how long each of its connections lasted, as the edge ends them."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "airdraft.lab.hostile.attacks",
        msgspec.json.encode(order).decode(),
        stdin=PIPE,
        stdout=PIPE,
    )
    ended: list[float] = []

    async def listen() -> None:
        while process.stdout is not None and (line := await process.stdout.readline()):
            ended.append(msgspec.json.decode(line, type=tuple[str, float])[1])

    try:
        if process.stdout is None or not await process.stdout.readline():
            raise LinkError(f"the hostile process of {order.attack} did not start")
        listening = asyncio.create_task(listen())
        yield ended
        listening.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class _Honest:
    """A client of a device's API that asks for one text again and again."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/completions"
        self._http = urllib3.PoolManager(retries=False)
        self._seed = 0

    def _write(self) -> tuple[float, str | None]:
        """Seconds of a text, and the text; `PATIENCE_S` and None for a failure."""
        body = {"model": "target", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0.7, "seed": self._seed}
        began_s = time.perf_counter()
        try:
            answer = self._http.request("POST", self._url, json=body, timeout=PATIENCE_S)
            choice: dict[str, Any] = answer.json()["choices"][0]
        except (urllib3.exceptions.HTTPError, ValueError, KeyError):
            return PATIENCE_S, None
        return time.perf_counter() - began_s, choice["text"] if choice["finish_reason"] == "length" else None

    async def choose(self) -> str:
        """Look for a text that is long enough. Raises: `LinkError` if there is none."""
        for self._seed in range(SEEDS):
            _, text = await asyncio.to_thread(self._write)
            if text is not None:
                return text
        raise LinkError(f"no text of {TOKENS} tokens came from {self._url} without an attack; see `airdraft device`")

    async def texts(self, count: int) -> list[tuple[float, str | None]]:
        """So many texts, one after another; fewer once two have failed."""
        found: list[tuple[float, str | None]] = []
        while len(found) < count and sum(text is None for _, text in found) < 2:
            found.append(await asyncio.to_thread(self._write))
        return found


async def measure(name: str, attack: Attack, tokenizer: bytes, vocab_size: int) -> HostileRow:
    """Measure one attack on an edge of its own."""
    async with contextlib.AsyncExitStack() as stack:
        # Traces are on: what a peer says is written to them as well.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = ["--trace-dir", str(folder)]
        honest_token = hostile_token = None
        if attack.quota is not None:
            path, honest_token, hostile_token = _tokens_file(folder, attack.quota)
            options += ["--tokens", str(path)]
        with _descriptors(attack.descriptors):
            edge = await stack.enter_async_context(local.serving("target", "none", options))
        given = ["--token", honest_token] if honest_token else []
        device = await stack.enter_async_context(local.device(edge["url"], given))
        honest = _Honest(device["url"])
        wanted = await honest.choose()
        alone = await honest.texts(TEXTS)
        if any(text != wanted for _, text in alone):
            raise LinkError(f"the text of {edge['url']} fails, or differs, without an attack; see `airdraft device`")
        order = Order(name, edge["url"], tokenizer, vocab_size, hostile_token)
        ended = await stack.enter_async_context(_attacker(order))
        await asyncio.sleep(WARM_S)
        attacked = await honest.texts(TEXTS)
        alone_s, attacked_s = (statistics.median(seconds for seconds, _ in each) for each in (alone, attacked))
        return HostileRow(
            name, alone_s, attacked_s / alone_s, sum(text != wanted for _, text in attacked), len(attacked),
            most_resident_mb(edge["pid"]), ended[0] if ended else None,
        )  # fmt: skip


def chosen(names: Sequence[str]) -> list[str]:
    """The attacks to measure: `names`, or all. Raises: `BadParameterError` for an unknown name, or without /proc."""
    if sys.platform != "linux":
        raise BadParameterError("this reads the edge's memory from /proc; run it on Linux")
    for name in names:
        if name not in ATTACKS:
            raise BadParameterError(f"no attack {name!r}; choose from {', '.join(map(repr, ATTACKS))}")
    return list(names or ATTACKS)


async def hostile(names: Sequence[str], on_row: Callable[[HostileRow], None] = lambda _: None) -> list[HostileRow]:
    """Measure these attacks."""
    _, tokenizer = load("draft")
    rows = []
    for name in names:
        rows.append(await measure(name, ATTACKS[name], tokenizer.digest, tokenizer.vocab_size))
        on_row(rows[-1])
    return rows


def held(rows: Sequence[HostileRow]) -> bool:
    """Whether there are rows, and all keep the bars."""
    return bool(rows) and all(row.held for row in rows)


def table(rows: Sequence[HostileRow]) -> str:
    """The rows as Markdown."""
    lines = [
        "| one hostile peer sends | honest text takes | failed | edge, MB | connection ended after |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        ended = "–" if row.ended_s is None else f"{row.ended_s:.1f} s"
        failed = f"{row.failed} of {row.texts}" if row.failed else "–"
        lines.append(f"| {row.attack} | × {row.honest_ratio:.2f} | {failed} | {row.edge_mb:.0f} | {ended} |")
    missed = [row.attack for row in rows if not row.held]
    verdict = "nothing was measured" if not rows else "kept" if not missed else f"MISSED by {'; '.join(missed)}"
    alone_ms = 1e3 * statistics.median(row.alone_s for row in rows) if rows else 0.0
    return "\n".join([
        *lines, "", f"An honest text of {TOKENS} tokens over `airdraft device` takes {alone_ms:.0f} ms alone, on "
        f"{os.cpu_count()} cores. Bars: × {MOST_RATIO:g}, {MOST_MB:g} MB, and no text fails: {verdict}.",
    ])  # fmt: skip
