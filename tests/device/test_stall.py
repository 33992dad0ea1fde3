"""Edges that answer pings and write nothing, are slow and honest, or end a text in its midst: real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from airdraft.core.messages import (
    MAX_FRAME,
    VERSION,
    Close,
    Decoder,
    Error,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    ToEdge,
    Tokens,
    Welcome,
    encode,
)
from airdraft.core.text import Prefix
from airdraft.device.client import EdgeConnection
from airdraft.device.edges import STALL_REST_S, _rests
from airdraft.errors import AirdraftError, Code, LinkError, RefusedError, StallError
from airdraft.models.base import FloatArray

from ..edge.loopback import GREEDY, HOST, SCHEMES, TOKENIZER, VOCAB, Table, engine, request, run, started, truth, write
from ..suites import mostly_slow
from .test_writer import Edge, Told, asking, slow, writer

STALL_S = 1.0
WRITING = [*SCHEMES, "stream"]


class Idle:
    """An edge that shakes hands, opens texts, answers pings, and does with texts as it is told."""

    def __init__(
        self, act: Callable[[Callable[[Message], Awaitable[None]], Open], Awaitable[None]] | None = None
    ) -> None:
        self.opened = 0
        self.url = ""
        self._act = act

    async def __aenter__(self) -> Idle:
        self._server = await serve(self._serve, HOST, 0, compression=None, ping_interval=None)
        self.url = f"ws://{HOST}:{next(iter(self._server.sockets)).getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, socket: ServerConnection) -> None:
        async def send(message: Message) -> None:
            await socket.send(encode(message))

        decoder, weights = Decoder(ToEdge), engine(Table(1)).info.digest
        with contextlib.suppress(ConnectionClosed):
            await send(Welcome(VERSION, "a test", "table", 512, MAX_FRAME, 32, 16, 10.0, (), target=weights))
            async for data in socket:
                assert isinstance(data, bytes)
                for message in decoder.feed(data):
                    if isinstance(message, Ping):
                        await send(Pong(message.t, bytes(message.want)))
                    elif isinstance(message, Open):
                        self.opened += 1
                        await send(Opened(message.session, message.length, message.digest))
                        if self._act is not None:
                            await self._act(send, message)


@pytest.mark.parametrize("scheme", mostly_slow(WRITING, often=("server", "topk", "stream")))
def test_an_edge_that_answers_and_writes_nothing_is_left_for_the_next(scheme: str) -> None:
    async def main() -> None:
        target = Table(1, eos_ids=())
        async with Idle() as idle, Edge(target) as good, writer([idle.url, good], stall_s=STALL_S) as over:
            asked = asking(scheme, max_tokens=12)
            text = await Told().write(over, asked)
            assert len(text) == 12
            if scheme in ("server", "coupled", "stream"):
                assert text == truth(target, asked)
            assert (idle.opened, over.edge) == (1, good.url)
            assert list(over._edges._stalled_s) == [idle.url]  # and is not gone back to for its nearness
            now = asyncio.get_running_loop().time()
            assert [_rests(stalled_s) for stalled_s in (None, now, now - STALL_REST_S)] == [False, True, False]

    run(main)


@pytest.mark.parametrize("offline", ["stall", "error", "draft"])
def test_where_no_edge_writes_the_text_ends_with_an_error_that_names_one(offline: str) -> None:
    async def main() -> None:
        async with Idle() as idle, writer([idle.url], stall_s=STALL_S, offline=offline) as over:
            with pytest.raises(
                StallError, match=rf"{idle.url} answers, and has not gone on .*; the text so far stands"
            ):
                await Told().write(over, asking())
            assert idle.opened == 2

    run(main)


def test_an_edge_that_stops_in_the_midst_of_a_text_is_left_with_what_it_has_committed() -> None:
    target = Table(1, eos_ids=())

    async def some(send: Callable[[Message], Awaitable[None]], opened: Open) -> None:
        text = Prefix((1, 2, 3), math.inf)
        for token in truth(target, asking("server"))[:3]:
            text.append([token])
            await send(Tokens(opened.session, text.length - 1, (token,), text.digest))

    async def main() -> None:
        async with Idle(some) as idle, Edge(target) as good, writer([idle.url, good], stall_s=STALL_S) as over:
            assert await Told().write(over, asking("server")) == truth(target, asking("server"))
            assert idle.opened == 1

    run(main)


@contextlib.asynccontextmanager
async def patient(url: str, draft: Table | None = None, stall_s: float = STALL_S) -> AsyncIterator[EdgeConnection]:
    draft = draft or Table(1, 2, eos_ids=())
    async with await EdgeConnection.connect(url, draft, TOKENIZER, VOCAB, stall_s=stall_s) as client:
        yield client


def test_without_a_limit_a_device_waits() -> None:
    async def main() -> None:
        async with Idle() as idle, patient(idle.url, stall_s=0) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await write(client, request())

    run(main)


class Reader(Table):
    """A target that reads its prompts slowly."""

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        time.sleep(0.008 * len(tokens))
        return super().forward(cache, keep, tokens, rows)


@pytest.mark.parametrize("scheme", mostly_slow(WRITING, often=("stream",)))
def test_a_long_prompt_is_no_stall(scheme: str) -> None:
    """Neither at an edge that has not said how fast it is, nor at one that has."""

    async def main() -> None:
        target = Reader(1, eos_ids=())
        async with started(target) as (_, url), patient(url, stall_s=0.7) as client:
            for seed in range(2):
                prompt = [seed, 2] * 150
                asked = request(scheme, GREEDY, prompt=prompt, max_tokens=3)
                began = time.perf_counter()
                assert await write(client, asked) == truth(target, asked)
                assert time.perf_counter() - began > 2.1  # three times the patience, or more

    run(main)


@pytest.mark.parametrize("race", ["off", "idle"])
def test_an_edge_that_waits_for_a_slow_draft_owes_nothing(race: str) -> None:

    async def main() -> None:
        target, draft = Table(1, eos_ids=()), Table(1, 2, eos_ids=(), seconds=1.5)
        async with started(target) as (_, url), patient(url, draft, stall_s=0.7) as client:
            asked = request("stream", GREEDY, max_tokens=2, draft_length=1)
            asked = replace(asked, scheme=type(asked.scheme)("stream", race=race))
            if race == "off":
                assert await write(client, asked) == truth(target, asked)
            rounds = request("coupled", GREEDY, max_tokens=2, draft_length=1)
            assert await write(client, rounds) == truth(target, rounds)

    run(main)


@contextlib.asynccontextmanager
async def gated(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A port in front of another. What comes from there is carried only while the event is set."""
    gate = asyncio.Event()
    gate.set()

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, opens: asyncio.Event | None) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                if opens is not None:
                    await opens.wait()
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(HOST, port)
        await asyncio.gather(carry(reader, forth, None), carry(back, writer, gate))

    server = await asyncio.start_server(serve_one, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1], gate
    finally:
        server.close()


def test_an_outage_is_the_links_and_no_stall() -> None:
    """Nothing comes back, so nothing says that the edge could have answered."""

    async def main() -> None:
        target = slow()
        async with (
            started(target) as (server, _),
            gated(server.port) as (port, gate),
            patient(f"ws://{HOST}:{port}") as client,
        ):
            asked = request("server", GREEDY, max_tokens=200)
            text: list[int] = []
            task = asyncio.create_task(write(client, asked, text))
            while len(text) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            gate.clear()
            await asyncio.sleep(4 * STALL_S)
            assert not task.done()
            gate.set()
            assert await task == truth(target, asked)

    run(main)


def test_what_an_edge_says_of_itself_does_not_make_a_device_wait_for_ever() -> None:
    async def main() -> None:
        async with Idle() as idle, patient(idle.url, stall_s=2.0) as client:
            number, _ = client._machine.open(request(), time.monotonic())
            client._machine._verified(3600.0)
            assert client._debts.allowed_s(number) == 60.0
            client._machine._verified(0.1)
            assert client._debts.allowed_s(number) == pytest.approx(2.0 + (20 + 3) * 0.1)

    run(main)


async def closes(send: Callable[[Message], Awaitable[None]], opened: Open) -> None:
    await send(Close(opened.session, "stop"))


async def fails(send: Callable[[Message], Awaitable[None]], opened: Open) -> None:
    await send(Error(opened.session, "engine", "no"))


@pytest.mark.parametrize("scheme", WRITING)
def test_a_text_that_the_edge_closes_is_not_complete(scheme: str) -> None:
    async def main() -> None:
        async with Idle(closes) as idle, patient(idle.url) as client:
            with pytest.raises(RefusedError, match="before it was complete: stop") as refused:
                await write(client, request(scheme))
            assert refused.value.code == Code.CLOSED

    run(main)


@pytest.mark.parametrize("act", [closes, fails])
def test_a_text_that_an_edge_ends_goes_on_at_the_next_or_ends_with_an_error(
    act: Callable[[Callable[[Message], Awaitable[None]], Open], Awaitable[None]],
) -> None:
    async def main() -> None:
        target = Table(1, eos_ids=())
        async with Idle(act) as bad, Edge(target) as good:
            async with writer([bad.url, good]) as over:
                asked = asking()
                assert await Told().write(over, asked) == truth(target, asked)
                assert over.edge == good.url
            async with writer([bad.url]) as over:
                told = Told()
                with pytest.raises(RefusedError):
                    await told.write(over, asking())
                assert not told.events
                assert bad.opened > 3

    run(main)


@pytest.mark.parametrize("ending", ["kill", "drain", "abort", "close"])
@pytest.mark.parametrize("scheme", ["coupled", "stream", "server"])
def test_however_a_connection_ends_no_text_over_it_counts_as_complete(ending: str, scheme: str) -> None:
    async def main() -> None:
        target = slow()
        async with Edge(target) as edge, patient(edge.url) as client:
            text: list[int] = []
            task = asyncio.create_task(write(client, request(scheme, max_tokens=400), text))
            while len(text) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            if ending == "kill":
                await edge.kill()
            elif ending == "drain":
                await edge.drain(0.05)
            elif ending == "abort":
                client._socket.transport.abort()
            else:
                await client.close()
            with pytest.raises(AirdraftError) as error:
                await task
            assert isinstance(error.value, LinkError | RefusedError)
            assert len(text) < 400

    run(main)
