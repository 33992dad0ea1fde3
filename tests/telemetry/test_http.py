"""The HTTP side: what is scraped is what was counted, and a server inside a loop leaves it as it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator
from urllib.error import HTTPError

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from airdraft.errors import LinkError
from airdraft.telemetry.http import routes, serving
from airdraft.telemetry.metrics import Metrics, Readings

HOST = "127.0.0.1"
READINGS = Readings(11, 12, 13, 14, 15, 16, 17, 18, 19)


def fetch(url: str, context: ssl.SSLContext | None = None) -> tuple[int, str, str]:
    """Status, content type, body."""
    try:
        with urllib.request.urlopen(url, timeout=60, context=context) as answer:  # noqa: S310
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read().decode()


def test_metrics_and_health() -> None:
    metrics = Metrics(lambda: READINGS)
    metrics.committed.inc(5)
    metrics.refused.labels("busy").inc()
    metrics.batch.observe(3)
    why: list[str] = []

    async def main() -> None:
        app = Starlette(routes=routes(metrics.registry, lambda: why[0] if why else None))
        async with serving(app, HOST, 0) as port:
            url = f"http://{HOST}:{port}"
            status, kind, page = await asyncio.to_thread(fetch, f"{url}/metrics")
            assert (status, kind.partition(";")[0]) == (200, "text/plain")
            samples = {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
            }
            assert samples["airdraft_tokens_committed_total",] == 5
            assert samples["airdraft_refusals_total", "busy"] == 1
            assert samples["airdraft_batch_size_bucket", "4.0"] == 1
            assert samples["airdraft_batch_size_bucket", "2.0"] == 0
            found = [samples[f"airdraft_{name}",] for name in Readings.__dataclass_fields__]
            assert found == [11, 12, 13, 14, 15, 16, 17, 18, 19]
            assert ("process_resident_memory_bytes",) in samples
            assert await asyncio.to_thread(fetch, f"{url}/healthz") == (200, "application/json", '{"status":"ok"}')
            why.append("draining")
            status, _, body = await asyncio.to_thread(fetch, f"{url}/healthz")
            assert (status, json.loads(body)) == (503, {"status": "draining"})
            assert (await asyncio.to_thread(fetch, f"{url}/nothing"))[0] == 404

    asyncio.run(main())


def test_a_server_leaves_the_signals_alone_and_ends_with_its_context() -> None:
    async def main() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        async with serving(Starlette(), HOST, 0) as port, serving(Starlette(), HOST, 0) as other:
            assert port != other
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, port)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_an_answer_under_way_is_given_before_the_end() -> None:
    async def slow(request: Request) -> Response:
        asked.set()
        await asyncio.sleep(0.2)
        return Response("done")

    async def main() -> None:
        async with serving(Starlette(routes=[Route("/", slow)]), HOST, 0) as port:
            answer = asyncio.create_task(asyncio.to_thread(fetch, f"http://{HOST}:{port}/"))
            await asked.wait()
        assert (await answer)[2] == "done"

    asked = asyncio.Event()
    asyncio.run(main())


def test_https() -> None:
    authority = trustme.CA()
    made = authority.issue_cert(HOST)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.configure_cert(served)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def main() -> None:
        app = Starlette(routes=[Route("/", lambda request: Response("hello"))])
        async with serving(app, HOST, 0, tls=served) as port:
            assert (await asyncio.to_thread(fetch, f"https://{HOST}:{port}/", context))[2] == "hello"

    asyncio.run(main())


def test_an_address_that_cannot_be_had_is_named() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(LinkError, match=rf"HTTP cannot be served on {HOST}:{port} \(.*choose a free port"):
                async with serving(Starlette(), HOST, port):
                    pass
        with pytest.raises(LinkError, match=r"HTTP cannot be served on no\.such\.host\.invalid:0"):
            async with serving(Starlette(), "no.such.host.invalid", 0):
                pass

    asyncio.run(main())


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"])
def test_a_client_that_does_not_ask_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("airdraft.telemetry.http.HEAD_S", 0.2)

    async def main() -> None:
        async with serving(Starlette(), HOST, 0) as port:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(sent)
            async with asyncio.timeout(9):  # ten are usual
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            writer.transport.abort()
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_client_that_asks_again_and_one_that_waits_long_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airdraft.telemetry.http.HEAD_S", 1.5)

    async def slow(request: Request) -> Response:
        await asyncio.sleep(1.7)
        return Response("done")

    async def fast(request: Request) -> Response:
        return Response("done")

    async def main() -> None:
        async with serving(Starlette(routes=[Route("/slow", slow), Route("/fast", fast)]), HOST, 0) as port:
            reader, writer = await asyncio.open_connection(HOST, port)
            for path in ["slow", *["fast"] * 8]:
                writer.write(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
                await asyncio.sleep(0.2)
            writer.transport.abort()
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_one_connection_too_many_is_told_so() -> None:
    async def main() -> None:
        async with serving(Starlette(), HOST, 0, connections=2) as port:

            async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                status = (await reader.readuntil(b"\r\n\r\n")).split()[1]
                if status == b"404":
                    assert await reader.readexactly(9) == b"Not Found"
                return status

            first, second = [await asyncio.open_connection(HOST, port) for _ in range(2)]
            assert await ask(*first) == b"404"
            reader, writer = await asyncio.open_connection(HOST, port)
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")  # though it has not asked, and to its end
            writer.close()
            assert [await ask(*each) for each in (first, second, first)] == [b"404"] * 3
            first[1].close()
            async with asyncio.timeout(60):
                while True:  # until its end is noticed
                    third = await asyncio.open_connection(HOST, port)
                    with contextlib.suppress(ConnectionError, EOFError):  # refused before it has asked
                        if await ask(*third) == b"404":
                            break
                    third[1].close()
            for _, writer in (second, third):
                writer.transport.abort()
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airdraft.telemetry.http.HEAD_S", 1.0)
    monkeypatch.setattr("airdraft.telemetry.http.UNREAD_S", 0.3)
    ended = asyncio.Event()

    async def endless(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(pieces())

    async def main() -> None:
        async with serving(Starlette(routes=[Route("/", endless)]), HOST, 0) as port:
            _, writer = await asyncio.open_connection(HOST, port, limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(50):  # a minute is usual
                await ended.wait()
            writer.transport.abort()
            await asyncio.sleep(0.01)

    asyncio.run(main())
