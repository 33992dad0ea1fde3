"""The capacity of one edge, in wall clock: devices at a bound on waits, CPU and bytes a token, idle texts, churn.

The edge is a process of its own; its CPU time and memory are read from /proc, so this needs Linux. Devices are those of
`airdraft.lab.wall.sessions`: their drafts were recorded, so that they cost the machine little.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from airdraft import local
from airdraft.core import schemes
from airdraft.core.bits import BitWriter, id_width
from airdraft.core.messages import VERSION, Decoder, Digest, Error, Hello, Open, Opened, SchemeSpec, ToDevice, encode
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.client import EdgeConnection
from airdraft.errors import BadParameterError, LinkError
from airdraft.lab.wall.sessions import PARAMS, Tally, Told, Work, works
from airdraft.models.base import LanguageModel
from airdraft.models.registry import load

PROFILE = "phone-8b"
BOUND_MS = 100.0
"""Bound for 99 of 100 waits for a token."""
MOST_DEVICES = 512
SECONDS = 5.0
"""Duration of each measurement."""
BUSY_DEVICES = 16
"""Devices while CPU and bytes are measured."""
IDLE, IDLE_PROMPT, A_CONNECTION = 1000, 32, 16
"""Texts that are open and idle, tokens in the prompt of each, and texts on one connection."""
SETTLE_S, SETTLED = 1.0, 0.05
"""An edge has done what it was asked once it uses less than this share of a core for so long."""
CHURN_DEVICES = 8
FLAT = 0.05
"""Share by which memory may grow between the first and the last third of the churn."""


class DevicesRow(msgspec.Struct, frozen=True):
    """The measurement with one number of devices."""

    devices: int
    token_p99_ms: float
    tokens_per_s: float


class TokenCost(msgspec.Struct, frozen=True):
    """The cost of a committed token at the edge."""

    cpu_ms: float
    """With the model's own forwards."""
    uplink_bytes: float
    downlink_bytes: float
    """With WebSocket headers, without those below."""


class Idle(msgspec.Struct, frozen=True):
    """Texts that rest after their prompt."""

    texts: int
    connections: int
    bytes_per_text: float
    """Resident memory of the edge, keys and values included."""
    bytes_per_text_evicted: float
    """The same with room for keys and values of a single text."""


class Churn(msgspec.Struct, frozen=True):
    """Devices that come, write a little, and leave without a word."""

    seconds: float
    aborted: int
    first_bytes: int
    """Resident memory of the edge: the median of the first third, and of the last."""
    last_bytes: int
    held: bool
    """Whether devices came, and it was flat."""


class CapacityReport(msgspec.Struct, frozen=True):
    """All measurements."""

    profile: str
    bound_ms: float
    devices: int
    """Most devices within that bound."""
    rows: list[DevicesRow]
    per_token: TokenCost
    idle: Idle
    churn: Churn | None


@dataclass(frozen=True)
class _Models:
    draft: LanguageModel
    tokenizer: bytes
    vocab_size: int
    todo: list[Work]


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def used_s(pid: int) -> float:
    """User and system time so far (proc(5): fields 14 and 15, counted after the name in brackets)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _held(pair: _Models, devices: int) -> DevicesRow:
    tally = Tally()
    async with (
        local.edge("target", PROFILE) as url,
        tally.devices(url, pair.draft, pair.tokenizer, pair.vocab_size, pair.todo, devices),
    ):
        await tally.count(SECONDS)
    return DevicesRow(devices, tally.wait_ms(99), tally.tokens_per_s)


async def _most(pair: _Models, on_step: Callable[[str], None]) -> list[DevicesRow]:
    """Double the devices until one waits too long, and then bisect twice."""
    rows: list[DevicesRow] = []
    good, bad, devices = 0, MOST_DEVICES + 1, 1
    while devices <= MOST_DEVICES and bad > MOST_DEVICES:
        on_step(f"{devices} devices")
        rows.append(await _held(pair, devices))
        if rows[-1].token_p99_ms > BOUND_MS:
            bad = devices
        else:
            good, devices = devices, 2 * devices
    for _ in range(2):
        middle = (good + bad) // 2
        if bad <= MOST_DEVICES and good < middle < bad:
            on_step(f"{middle} devices")
            rows.append(await _held(pair, middle))
            good, bad = (good, middle) if rows[-1].token_p99_ms > BOUND_MS else (middle, bad)
    return sorted(rows, key=lambda row: row.devices)


async def _per_token(pair: _Models) -> TokenCost:
    tally = Tally()
    async with (
        local.serving("target", PROFILE) as edge,
        tally.devices(edge["url"], pair.draft, pair.tokenizer, pair.vocab_size, pair.todo, BUSY_DEVICES) as clients,
    ):
        await tally.count(0.0)
        before = used_s(edge["pid"]), sum(each.bytes_out for each in clients), sum(each.bytes_in for each in clients)
        tally.counting = True
        await asyncio.sleep(SECONDS)
        tally.counting = False
        tally.check(SECONDS)
        after = used_s(edge["pid"]), sum(each.bytes_out for each in clients), sum(each.bytes_in for each in clients)
    cpu_s, up, down = (late - early for early, late in zip(before, after, strict=True))
    return TokenCost(1e3 * cpu_s / tally.tokens, up / tally.tokens, down / tally.tokens)


async def _idle_bytes(pair: _Models, texts: int, options: Sequence[str]) -> float:
    """Bytes for each of so many open texts."""
    async with local.serving("target", "none", options) as edge, contextlib.AsyncExitStack() as stack:
        await _rest(await stack.enter_async_context(_socket(edge["url"])), pair, 1)  # the first text's own cost
        before = await _settled_bytes(edge["pid"])
        for at in range(0, texts, A_CONNECTION):
            socket = await stack.enter_async_context(_socket(edge["url"]))
            await _rest(socket, pair, min(A_CONNECTION, texts - at))
        return (await _settled_bytes(edge["pid"]) - before) / texts


async def _settled_bytes(pid: int) -> int:
    """Resident memory once the process has nothing more to do: a text is open before its prompt is read."""
    cpu_s = -1.0
    while used_s(pid) - cpu_s > SETTLED * SETTLE_S:
        cpu_s = used_s(pid)
        await asyncio.sleep(SETTLE_S)
    return _resident_bytes(pid)


def _socket(url: str) -> connect:
    return connect(url, compression=None, ping_interval=None, proxy=None)


async def _rest(socket: ClientConnection, pair: _Models, texts: int) -> None:
    """Open so many texts on a connection, see their prompts read, and leave them."""
    rng = random.Random(texts)  # noqa: S311  # prompts, not secrets
    hello = Hello(VERSION, "a laboratory", "none", pair.tokenizer, pair.vocab_size)
    await socket.send(encode(hello))
    for number in range(1, texts + 1):
        prompt = [rng.randrange(pair.vocab_size) for _ in range(IDLE_PROMPT)]
        packed = BitWriter()
        packed.write(prompt, id_width(pair.vocab_size))
        scheme, length = SchemeSpec(schemes.COUPLED), len(prompt)
        opening = Open(number, scheme, PARAMS, number, 64, length, length, packed.bytes(), Digest(prompt).value)
        await socket.send(encode(opening))
    decoder, opened = Decoder(ToDevice), 0
    while opened < texts:
        data = await socket.recv()
        for message in decoder.feed(data if isinstance(data, bytes) else data.encode()):
            if isinstance(message, Error):
                raise LinkError(f"the edge refused a text: {message.message}")
            opened += isinstance(message, Opened)


async def _churn(pair: _Models, seconds: float) -> Churn:
    """Let devices come and go, and weigh the edge now and then."""
    aborted, over = 0, 0.0
    rng = random.Random(1)  # noqa: S311

    async def visit(url: str) -> None:
        nonlocal aborted
        while time.perf_counter() < over:
            told, work = Told(pair.draft), rng.choice(pair.todo)
            told.choices = work.choices
            async with await EdgeConnection.connect(url, told, pair.tokenizer, pair.vocab_size) as client:
                request = Request(
                    work.prompt, SchemeSpec(schemes.STREAM), SamplingParams(0.7), work.seed, len(work.tokens)
                )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rng.random()), contextlib.aclosing(client.write(request)) as events:
                        async for _ in events:
                            pass
                aborted += 1

    async with local.serving("target", "none") as edge:
        weights: list[int] = []
        over = time.perf_counter() + seconds  # however long the edge took to start
        visits = [asyncio.create_task(visit(edge["url"])) for _ in range(CHURN_DEVICES)]
        while time.perf_counter() < over:
            await asyncio.sleep(min(2.0, seconds / 30))
            weights.append(_resident_bytes(edge["pid"]))
        await asyncio.gather(*visits)
    third = max(1, len(weights) // 3)
    first, last = statistics.median(weights[:third]), statistics.median(weights[-third:])
    return Churn(seconds, aborted, int(first), int(last), aborted > 0 and last <= (1 + FLAT) * first)


async def capacity(soak_s: float, on_step: Callable[[str], None] = lambda _: None) -> CapacityReport:
    """Run every measurement; the churn takes `soak_s`, 0 leaves it out. Raises: `BadParameterError` without /proc."""
    if sys.platform != "linux":
        raise BadParameterError("this reads the edge's CPU time and memory from /proc; run it on Linux")
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    pair = _Models(draft, tokenizer.digest, tokenizer.vocab_size, works(draft, target, tokenizer.vocab_size))
    rows = await _most(pair, on_step)
    on_step("a token")
    per_token = await _per_token(pair)
    on_step("idle texts")
    limits = ("--max-texts", str(2 * IDLE), "--idle-s", "0")
    idle = Idle(
        IDLE, -(-IDLE // A_CONNECTION), await _idle_bytes(pair, IDLE, limits),
        await _idle_bytes(pair, IDLE, (*limits, "--kv-tokens", "1")),
    )  # fmt: skip
    on_step("churn")
    churn = await _churn(pair, soak_s) if soak_s else None
    held = max((row.devices for row in rows if row.token_p99_ms <= BOUND_MS), default=0)
    return CapacityReport(PROFILE, BOUND_MS, held, rows, per_token, idle, churn)


def table(found: CapacityReport) -> str:
    """The report as Markdown."""
    lines = [
        f"| devices (compute imitated, `{found.profile}`) | ms a token, p99 | tokens/s, all devices |",
        "|---:|---:|---:|",
        *(f"| {row.devices} | {row.token_p99_ms:.0f} | {row.tokens_per_s:.0f} |" for row in found.rows),
        "",
        f"Held with 99 of 100 waits under {found.bound_ms:g} ms: {found.devices} devices. A committed token takes "
        f"{found.per_token.cpu_ms:.2f} ms of the edge's CPU (the shipped target's own forwards included), "
        f"{found.per_token.uplink_bytes:.1f} bytes up and {found.per_token.downlink_bytes:.1f} down. Of "
        f"{found.idle.texts} idle texts with a prompt of {IDLE_PROMPT} tokens each takes "
        f"{found.idle.bytes_per_text / 1e3:.0f} kB, and {found.idle.bytes_per_text_evicted / 1e3:.0f} kB once its keys "
        "and values are evicted.",
    ]
    if found.churn is not None:
        churn = found.churn
        lines[-1] += (
            f" After {churn.seconds:g} s in which {churn.aborted} devices came, wrote a little and went, the edge held "
            f"{churn.last_bytes / 1e6:.1f} MB, and {churn.first_bytes / 1e6:.1f} MB early on: "
            f"{'flat' if churn.held else 'NOT FLAT'}."
        )
    return "\n".join(lines)
