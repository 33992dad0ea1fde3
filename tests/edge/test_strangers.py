"""Peers that mean harm, over real sockets: others get their turn, and memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from airdraft.core.messages import VERSION, Close, Hello, Opened, Ping, Pong, encode
from airdraft.edge.server import EdgeServer
from airdraft.lab.hostile.peer import RawPeer
from airdraft.models.base import OneByOne

from ..suites import mostly_slow
from .hostile import KINDS, MESSAGE_BYTES, NEVER_READS, VOCAB, opening
from .loopback import HOST, TOKENIZER, Raw, Table, run, serving, started

HERE = Path(__file__).parent
TURN_S = 0.05
"""Most CPU time of one turn of the edge's loop. A slice is 2 ms."""
PINGS = 30
CONNECTIONS = 8
OFTEN = ("pings", "texts unread")
MOST_MB = 8.0
"""Most memory that a connection without answers takes, as docs/operate.md says."""


@contextlib.contextmanager
def attacked(port: int, kind: str, connections: int = 1) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, str(HERE / "hostile.py"), str(port), kind, str(connections)], stdin=subprocess.PIPE
    ) as process:
        try:
            yield
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """The CPU time of every turn of the loop, in seconds."""
    turns: list[float] = []

    async def watch() -> None:
        while True:
            began_s = time.thread_time()
            await asyncio.sleep(0)
            turns.append(time.thread_time() - began_s)

    gc.collect()
    gc.disable()  # a collection of all that the tests have made is no turn of the edge's
    task = asyncio.create_task(watch())
    try:
        yield turns
    finally:
        gc.enable()
        task.cancel()


@pytest.mark.parametrize("kind", mostly_slow(KINDS, OFTEN))
def test_others_get_their_turn(kind: str) -> None:
    async def main() -> None:
        async with serving(Table(1, vocab_size=VOCAB)) as url, Raw.connect(url) as raw:
            port = int(url.rpartition(":")[2])
            with attacked(port, kind):
                await asyncio.sleep(1.0)
                async with watched() as turns:
                    for at in range(PINGS):
                        await raw.send(Ping(float(at)))
                        while not isinstance(await raw.receive(), Pong):
                            pass
                        await asyncio.sleep(0.02)
            assert max(turns) < TURN_S, f"{max(turns):.3f} s"

    run(main)


def test_an_edge_does_not_work_for_a_device_that_has_gone() -> None:
    """Where the device is held up before it goes, the edge is right to work on: then it is tried again."""
    assert any(0 < begun_for_one_that_goes(2000) < 1000 for _ in range(10))


def begun_for_one_that_goes(texts: int) -> float:
    """How many texts an edge begins for a device that opens so many and goes after the first answer."""
    begun = 0.0

    def flood(url: str) -> None:
        """Open and close texts, read one answer and go."""
        pairs = ((opening(at, "stream"), Close(at, "x")) for at in range(2, texts + 2))
        with RawPeer(url) as peer:
            peer.send(encode(Hello(VERSION, "x", "x", TOKENIZER, VOCAB)))
            data = b"".join(encode(message) for pair in pairs for message in pair)
            for at in range(0, len(data), MESSAGE_BYTES):
                peer.send(data[at : at + MESSAGE_BYTES])
            assert any(isinstance(message, Opened) for message in peer.messages())
            peer.abort()

    async def main() -> None:
        nonlocal begun
        async with started(Table(1, vocab_size=VOCAB)) as (server, url):
            await asyncio.to_thread(flood, url)
            tenant = server.tenant_of("")
            while tenant is not None and tenant.connections:  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.01)
        begun = sum(
            sample.value
            for family in server.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "airdraft_texts_ended_total"
        )

    run(main)
    return begun


async def edge_alone() -> None:
    """Serve, and print the port."""
    async with EdgeServer(OneByOne(Table(1, vocab_size=VOCAB)), TOKENIZER, VOCAB) as server:
        await server.start(HOST, 0)
        print(json.dumps(server.port), flush=True)  # noqa: T201
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def resident_mb(pid: int, what: str = "VmRSS") -> float:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", mostly_slow(NEVER_READS, OFTEN))
def test_peers_that_never_read_do_not_fill_the_edge(kind: str) -> None:
    code = f"import sys, asyncio; sys.path[:0] = {sys.path!r}; from {__package__ or 'tests.edge'} import test_strangers"
    edge = subprocess.Popen(
        [sys.executable, "-c", f"{code} as here; asyncio.run(here.edge_alone())"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE.parent.parent, env=os.environ,
    )  # fmt: skip
    with edge:
        try:
            assert edge.stdout is not None
            port = json.loads(edge.stdout.readline())
            before_mb = resident_mb(edge.pid)
            with attacked(port, kind, CONNECTIONS):
                most_mb, until_s = 0.0, time.monotonic() + 4
                while time.monotonic() < until_s:
                    time.sleep(0.1)
                    most_mb = max(most_mb, resident_mb(edge.pid))
            assert most_mb - before_mb < CONNECTIONS * MOST_MB, f"{(most_mb - before_mb) / CONNECTIONS:.1f} MB each"
        finally:
            edge.kill()
