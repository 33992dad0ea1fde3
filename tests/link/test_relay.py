"""The relay over real sockets. Times are checked coarsely: only what no busy machine can break."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import statistics
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import LinkError
from airdraft.link.base import HEADER_BYTES, LinkModel
from airdraft.link.const import ConstLink
from airdraft.link.markov2 import Markov2Link
from airdraft.link.nr import NrLink
from airdraft.link.rayleigh import RayleighLink
from airdraft.link.relay import Relay
from airdraft.link.trace import Series, TraceLink, TraceRun

from ..suites import examples

HOST = "127.0.0.1"
FREE = ConstLink(math.inf, math.inf, 0.0)

T = TypeVar("T")
Edge = Callable[[StreamReader, StreamWriter], Awaitable[None]]


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(100):
            return await main

    return asyncio.run(bounded())


@contextlib.asynccontextmanager
async def link(edge: Edge, model: LinkModel = FREE) -> AsyncIterator[Relay]:
    """A relay to a server that runs `edge` for each connection."""
    failures: list[BaseException] = []
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await edge(reader, writer)
        except Exception as error:
            failures.append(error)
        finally:
            writer.close()

    def accept(reader: StreamReader, writer: StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, HOST, 0)
    async with await Relay.start(model, HOST, 0, HOST, server.sockets[0].getsockname()[1]) as relay:
        yield relay
    server.close()
    await asyncio.gather(*serving)
    await asyncio.sleep(0)
    assert not failures


@contextlib.asynccontextmanager
async def device(relay: Relay) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, relay.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (counters have no event)
        await asyncio.sleep(0.001)


@given(
    uplink=st.lists(st.binary(min_size=1, max_size=5000), max_size=8),
    downlink=st.lists(st.binary(min_size=1, max_size=5000), max_size=8),
)
@examples(25)
def test_bytes_arrive_unchanged_however_they_are_cut(uplink: list[bytes], downlink: list[bytes]) -> None:
    async def main() -> None:
        received = bytearray()

        async def edge(reader: StreamReader, writer: StreamWriter) -> None:
            for piece in downlink:
                writer.write(piece)
                await asyncio.sleep(0)
            writer.write_eof()
            received.extend(await reader.read())

        async with link(edge) as relay, device(relay) as (reader, writer):
            for piece in uplink:
                writer.write(piece)
                await asyncio.sleep(0)
            writer.write_eof()
            assert await reader.read() == b"".join(downlink)
            await until(lambda: len(received) == relay.uplink_bytes == len(b"".join(uplink)))
            assert received == b"".join(uplink)
            assert relay.downlink_bytes == len(b"".join(downlink))

    run(main())


def test_more_than_the_window_both_ways() -> None:
    data = bytes(range(256)) * (3 << 12)  # 3 MiB

    async def main() -> None:
        async with link(echo, ConstLink(math.inf, 1e9, 0.002)) as relay, device(relay) as (reader, writer):
            receiving = asyncio.create_task(reader.read())
            writer.write(data)
            await writer.drain()
            writer.write_eof()
            assert await receiving == data
            assert relay.uplink_bytes == relay.downlink_bytes == len(data)

    run(main())


def test_a_sink_that_does_not_read_stops_the_source() -> None:
    async def main() -> None:
        read_on = asyncio.Event()
        total = 64 << 20
        received = 0

        async def edge(reader: StreamReader, writer: StreamWriter) -> None:
            nonlocal received
            await read_on.wait()
            while data := await reader.read(1 << 20):
                received += len(data)
            writer.write(b"all")

        async with link(edge) as relay, device(relay) as (reader, writer):
            writer.write(bytes(total))
            before = -1
            while not before == relay.uplink_bytes >= 1 << 20:  # until the window is full and it stalls
                before = relay.uplink_bytes
                await asyncio.sleep(0.1)
            assert before < total // 2  # the window and the kernel's buffers, not the whole
            read_on.set()
            await writer.drain()
            writer.write_eof()
            assert await reader.read() == b"all"
            assert received == relay.uplink_bytes == total

    run(main())


def test_half_close_reaches_the_edge_and_the_answer_the_device() -> None:
    async def main() -> None:
        async def edge(reader: StreamReader, writer: StreamWriter) -> None:
            question = await reader.read()  # returns only at the end of the stream
            writer.write(b"answer to " + question)

        async with link(edge, ConstLink(1e6, 1e6, 0.01)) as relay, device(relay) as (reader, writer):
            writer.write(b"question")
            writer.write_eof()
            assert await reader.read() == b"answer to question"

    run(main())


def test_half_close_by_the_edge_leaves_the_uplink_open() -> None:
    async def main() -> None:
        received: list[bytes] = []

        async def edge(reader: StreamReader, writer: StreamWriter) -> None:
            writer.write(b"last word")
            writer.write_eof()
            received.append(await reader.read())

        async with link(edge) as relay, device(relay) as (reader, writer):
            assert await reader.read() == b"last word"
            writer.write(b"still here")
            writer.write_eof()
            await until(lambda: received == [b"still here"])

    run(main())


def reset(writer: StreamWriter) -> None:
    """Go away the hard way: the peer sees a reset, no end of stream."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()


def test_a_device_that_goes_away_ends_the_edges_connection() -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def edge(reader: StreamReader, writer: StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b"hello"
            ended.set()

        async with link(edge) as relay, device(relay) as (_, writer):
            writer.write(b"hello")
            await until(lambda: relay.uplink_bytes == 5)
            reset(writer)
            await ended.wait()

    run(main())


def test_an_edge_that_goes_away_ends_the_devices_connection() -> None:
    async def main() -> None:
        async def edge(reader: StreamReader, writer: StreamWriter) -> None:
            await reader.readexactly(5)
            reset(writer)

        async with link(edge) as relay, device(relay) as (reader, writer):
            writer.write(b"hello")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            async with device(relay) as (_, second):  # the relay lives on
                second.write(b"again")
                await until(lambda: relay.uplink_bytes == 10)

    run(main())


def test_an_unreachable_target_closes_the_devices_connection() -> None:
    async def main() -> None:
        with socket.socket() as bound:  # bound but not listening: refuses, and nobody else can take the port
            bound.bind((HOST, 0))
            async with await Relay.start(FREE, HOST, 0, HOST, bound.getsockname()[1]) as relay:
                async with device(relay) as (reader, writer):
                    writer.write(b"anybody?")
                    with contextlib.suppress(ConnectionError):
                        assert await reader.read() == b""
                assert relay.uplink_bytes == 0

    run(main())


def test_close_cuts_the_connections_and_frees_the_port() -> None:
    async def main() -> None:
        async with link(echo, ConstLink(1e3, 1e3, 1.0)) as relay, device(relay) as (reader, writer):
            writer.write(bytes(1000))
            await until(lambda: relay.uplink_bytes == 1000)
            port = relay.port
            await relay.close()
            await relay.close()  # a second time is harmless
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, port)
            with pytest.raises(LinkError, match="closed"):
                _ = relay.port

    run(main())


def test_a_taken_port_is_an_error_that_names_it() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(LinkError, match=f"{HOST}:{port} .*port 0"):
                await Relay.start(FREE, HOST, port, HOST, 1)

    run(main())


def takes(measured: Callable[[], list[float]], seconds: float) -> bool:
    """Whether it takes so long: never less, and half of the times hardly more. A busy machine may hold it up for a
    while, and gets other chances; a slow relay would be slow each time."""

    def on_time() -> bool:
        times = measured()
        assert min(times) >= seconds - 1e-6
        return statistics.median(times) < 1.9 * seconds

    return any(on_time() for _ in range(5))


def test_round_trip_takes_the_rtt() -> None:
    rtt_s = 0.2

    async def main() -> list[float]:
        times = []
        async with link(echo, ConstLink(math.inf, math.inf, rtt_s)) as relay, device(relay) as (reader, writer):
            for _ in range(9):
                start = perf_counter()
                writer.write(b"ping")
                await reader.readexactly(4)
                times.append(perf_counter() - start)
        return times

    assert takes(lambda: run(main()), rtt_s)


def test_connections_share_the_rate() -> None:
    nbytes, rate_bps = 25_000, 2e6

    async def main() -> float:
        async def send(relay: Relay) -> None:
            async with device(relay) as (reader, writer):
                writer.write(bytes(nbytes))
                writer.write_eof()
                assert len(await reader.read()) == nbytes

        start = perf_counter()
        async with link(echo, ConstLink(rate_bps, math.inf, 0.0)) as relay, asyncio.TaskGroup() as tasks:
            tasks.create_task(send(relay))
            tasks.create_task(send(relay))
        return perf_counter() - start

    assert run(main()) >= 2 * 8 * nbytes / rate_bps


@pytest.mark.parametrize(
    "model",
    [
        ConstLink(2e5, math.inf, 0.04),
        Markov2Link(2e5, 3e5, block_s=0.02, rtt_s=0.04, seed=1),
        RayleighLink(snr_db=5.0, bandwidth_hz=1e5, rtt_s=0.04, seed=1),
        TraceLink(TraceRun("an outage", Series((0.01, 0.2, 1.0), (1e6, 0.0, 4e6)), None), rtt_s=0.04),
        NrLink(core_s=0.4, seed=1),
    ],
    ids=lambda model: type(model).__name__,
)
def test_real_time_and_virtual_time_agree(model: LinkModel) -> None:
    """The first message on a fresh link takes as long as the same link says in virtual time."""
    nbytes = 5000
    predicted_s = model.uplink().send(0.0, nbytes)
    assert predicted_s > 0.15

    async def main() -> float:
        done = asyncio.Event()
        ended_at = 0.0

        async def edge(reader: StreamReader, writer: StreamWriter) -> None:
            nonlocal ended_at
            await reader.readexactly(nbytes)
            ended_at = perf_counter()
            done.set()

        async with link(edge, model) as relay, device(relay) as (_, writer):
            start = perf_counter()
            writer.write(bytes(nbytes))
            await done.wait()
        assert relay.uplink.sent_bytes >= nbytes + 4 * HEADER_BYTES
        return ended_at - start

    assert takes(lambda: [run(main()) for _ in range(3)], predicted_s)
