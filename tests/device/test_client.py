"""The device's client over real sockets: what it says when the edge is wrong, silent or gone, and what it counts."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl as tls
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from time import perf_counter

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from airdraft import transport
from airdraft.core.device import machine as device_module
from airdraft.core.messages import (
    MAX_FILLER,
    MAX_FRAME,
    VERSION,
    Close,
    Digest,
    Error,
    Message,
    Opened,
    Ping,
    Verdict,
    Welcome,
    encode,
    websocket_header,
)
from airdraft.core.schemes.coupled import Coupled
from airdraft.device import client as client_module
from airdraft.device.client import EdgeConnection
from airdraft.device.cost import CostMeter
from airdraft.edge.server import EdgeServer
from airdraft.errors import AirdraftError, BadParameterError, LinkError, ModelError, RefusedError, RemoteProtocolError
from airdraft.link.const import ConstLink
from airdraft.link.relay import Relay
from airdraft.models.base import FloatArray, OneByOne

from ..edge.loopback import (
    FAULT,
    HOST,
    SCHEMES,
    TOKENIZER,
    VOCAB,
    WARM,
    Table,
    device,
    request,
    run,
    serving,
    truth,
    until,
    write,
)

FREE = ConstLink(math.inf, math.inf, 0.0)


def welcome(version: int = VERSION, heartbeat_s: float = 10.0) -> Welcome:
    return Welcome(version, "a test", "a model", 512, MAX_FRAME, 32, 16, heartbeat_s, ())


@contextlib.asynccontextmanager
async def edge(
    behave: Callable[[ServerConnection], Awaitable[object]], ssl: tls.SSLContext | None = None
) -> AsyncIterator[str]:
    """An edge that behaves as told, and then keeps the connection open until the device ends it."""

    async def handle(socket: ServerConnection) -> None:
        await behave(socket)
        await socket.wait_closed()

    async with serve(handle, HOST, 0, compression=None, ping_interval=None, ssl=ssl) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"wss://localhost:{port}" if ssl else f"ws://{HOST}:{port}"


def says(*messages: Message) -> Callable[[ServerConnection], Awaitable[object]]:
    return lambda socket: socket.send(b"".join(encode(message) for message in messages))


@pytest.mark.parametrize(
    ("edges_words", "kind", "words"),
    [
        (says(welcome(version=9)), RemoteProtocolError, "version 9, this device 1; upgrade the older"),
        (says(Close(1, "hm")), RemoteProtocolError, "broke the protocol: Close arrived before Welcome"),
        (says(Error(None, "vocabulary", "no shared vocabulary")), RefusedError, "no shared vocabulary"),
        (lambda socket: socket.send(b"\x05hello"), RemoteProtocolError, "no message of this protocol"),
        (lambda socket: socket.send("hello"), RemoteProtocolError, "text message"),
        (lambda socket: socket.close(), LinkError, "went away"),
    ],
)
def test_an_edge_that_does_not_shake_hands(
    edges_words: Callable[[ServerConnection], Awaitable[object]], kind: type[AirdraftError], words: str
) -> None:
    async def main() -> None:
        async with edge(edges_words) as url:
            with pytest.raises(kind, match=words):
                await device(url, Table(1))

    run(main)


def test_an_edge_that_refuses_the_vocabulary_names_the_remedy() -> None:
    async def main() -> None:
        async with serving(Table(1)) as url:
            with pytest.raises(RefusedError, match="pick a draft with the target's own tokenizer") as refused:
                await device(url, Table(1, vocab_size=VOCAB + 1))
            assert refused.value.code == "vocabulary"

    run(main)


def test_something_that_accepts_and_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_S", 0.3)

    async def main() -> None:
        ended = asyncio.Event()

        async def mute(reader: StreamReader, writer: StreamWriter) -> None:
            await reader.read()
            writer.close()
            ended.set()

        began = perf_counter()
        server = await asyncio.start_server(mute, HOST, 0)
        async with server:
            with pytest.raises(LinkError, match=r"no edge answers at ws://.*start one with"):
                await device(f"ws://{HOST}:{server.sockets[0].getsockname()[1]}", Table(1))
            await ended.wait()
        async with edge(lambda _: asyncio.sleep(0)) as url:  # a WebSocket server, and no edge
            with pytest.raises(LinkError, match="says nothing; is an airdraft edge there"):
                await device(url, Table(1))
        assert perf_counter() - began < 9  # ten are usual for each

    run(main)


def test_an_edge_that_falls_silent_is_given_up() -> None:
    async def main() -> None:
        async with edge(says(welcome(heartbeat_s=0.05))) as url:
            began = perf_counter()
            async with await device(url, Table(1)) as client:
                with pytest.raises(LinkError, match="went silent"):
                    await write(client, request())
                assert perf_counter() - began < 15  # ten seconds a heartbeat are usual
                with pytest.raises(LinkError):
                    await write(client, request())

    run(main)


def test_an_edge_that_rules_nonsense_is_named() -> None:
    async def main() -> None:
        asked = request()

        async def behave(socket: ServerConnection) -> None:
            opened = Opened(1, len(asked.prompt), Digest(asked.prompt).value)
            await says(welcome())(socket)
            await socket.recv()
            await says(opened, Verdict(1, 1, 99, 0, 4, 0))(socket)

        async with edge(behave) as url, await device(url, Table(1)) as client:
            with pytest.raises(RemoteProtocolError, match="broke the protocol"):
                await write(client, asked)

    run(main)


def test_an_edge_that_asks_for_much_and_reads_nothing_does_not_fill_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 1 << 17
    monkeypatch.setattr(transport, "MOST_UNSENT", most)
    monkeypatch.setattr(transport, "CLOSE_S", 0.3)
    asked = 0

    async def flood(socket: ServerConnection) -> None:
        nonlocal asked
        await says(welcome())(socket)
        while True:  # what comes back is 64 KiB, or a few bytes each
            for want in (MAX_FILLER, 0):
                asked += want
                await socket.send(encode(Ping(float(asked), bytes(4096), want)))

    async def main() -> None:
        async with edge(flood) as url:
            client = await device(url, Table(1))
            seen = turns = 0
            async with asyncio.timeout(60):
                while turns < 50:  # every buffer on the way is full, and the device reads no more
                    seen, turns = (seen, turns + 1) if asked == seen else (asked, 0)
                    assert client._machine.backlog <= most + 3 * MAX_FILLER
                    await asyncio.sleep(0.01)
            assert client._machine.backlog > most  # it was not the flood that ended
            await client.close()

    run(main)


class Broken(Table):
    """A table whose rows are of no use, from the third forward on."""

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        found = super().forward(cache, keep, tokens, rows)
        if self.forwards > 3 and found.size:
            found[:, VOCAB // 2] = math.nan
        return found


@pytest.mark.parametrize("scheme", [*SCHEMES, "stream"])
def test_rows_that_mean_nothing_are_no_text(scheme: str) -> None:
    async def main() -> None:
        asked = request(scheme, WARM, max_tokens=60)
        async with serving(Broken(1, eos_ids=())) as url, await device(url, Table(1, 2, eos_ids=())) as client:
            with pytest.raises(RefusedError, match="NaN"):
                await write(client, asked)
        if scheme != "server":
            async with serving(Table(1, eos_ids=())) as url, await device(url, Broken(1, 2, eos_ids=())) as client:
                with pytest.raises(ModelError, match="NaN"):
                    await write(client, asked)

    run(main)


def test_a_fault_of_ours_ends_the_text_and_not_in_silence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("ours")

    async def main() -> None:
        async with serving(Table(1)) as url, await device(url, Table(1, 2)) as client:
            with monkeypatch.context() as broken:
                broken.setattr(Coupled, "draw", fault)
                with pytest.raises(ModelError, match=r"airdraft's own; see the log"):
                    await write(client, request())
                broken.undo()
                broken.setattr(Coupled, "verify", fault)
                with pytest.raises(RefusedError, match=r"airdraft's own; see the log"):
                    await write(client, request())
            assert await write(client, request()) == truth(Table(1), request())

    run(main)
    ours = [record.exc_info for record in caplog.records if record.name == "airdraft.transport"]
    assert [info and info[0] for info in ours] == [ZeroDivisionError] * 2


def test_pings_come_sooner_once_a_text_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "PING_S", 0.05)

    async def main() -> None:
        target = Table(1, eos_ids=(), seconds=0.005)
        async with serving(target) as url, await device(url, Table(1, 2, eos_ids=())) as client:
            pings = 0
            ping = client._machine.ping

            def counting(now: float, filler: int = 0, want: int = 0) -> None:
                nonlocal pings
                pings += 1
                ping(now, filler, want)

            monkeypatch.setattr(client._machine, "ping", counting)
            began = perf_counter()
            while pings < 4:
                await write(client, request("stream", max_tokens=100))
            assert perf_counter() - began < 20  # heartbeats alone are every ten seconds

    run(main)


def test_an_edge_that_goes_away_leaves_the_text_so_far() -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=(), seconds=0.002), Table(1, 2, eos_ids=())
        async with EdgeServer(OneByOne(target), TOKENIZER, VOCAB) as server:
            await server.start(HOST, 0)
            async with await device(f"ws://{HOST}:{server.port}", draft) as client:
                asked = request("coupled", WARM, max_tokens=400)
                texts: list[list[int]] = [[], []]
                writing = [asyncio.create_task(write(client, asked, text)) for text in texts]
                await until(lambda: all(len(text) > 20 for text in texts))
                await server.close()
                for task in writing:
                    with pytest.raises(LinkError, match=r"went away .*the text so far stands"):
                        await task
                expected = truth(target, asked)
                for text in texts:
                    assert 20 < len(text) < len(expected)
                    assert text == expected[: len(text)]
                began = perf_counter()
                with pytest.raises(LinkError):
                    await write(client, asked)
                assert perf_counter() - began < 8  # it does not wait for an edge, ten seconds
            await until(lambda: not draft.caches and not target.caches)

    run(main)


@pytest.mark.parametrize("fault", [lambda: ModelError("the draft is broken"), lambda: RuntimeError("secret")])
def test_a_draft_model_that_fails_ends_only_its_text(
    fault: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(100, "airdraft.scheduler")  # a captured traceback would hold on to the cache

    async def main() -> None:
        target, draft = Table(1), Table(1, 2, fault=fault)
        async with serving(target) as url, await device(url, draft) as client:
            asked = request("coupled", WARM, 5)
            text = asyncio.create_task(write(client, asked))
            with pytest.raises(ModelError):
                await write(client, request(prompt=(1, FAULT)))
            assert await text == truth(target, asked)
            await until(lambda: not target.caches and not draft.caches)

    run(main)


@pytest.mark.parametrize(
    "asked",
    [
        request(prompt=()),
        request(prompt=(VOCAB,)),
        request(prompt=(1,) * 512),
        request(max_tokens=0),
        request(seed=-1),
        request(seed=1 << 63),
        request(draft_length=-1),
        request("nope"),
    ],
)
def test_a_request_that_cannot_be_served_is_not_sent(asked: object) -> None:
    async def main() -> None:
        async with serving(Table(1)) as url, await device(url, Table(1, 2)) as client:
            sent = client.bytes_out
            with pytest.raises(BadParameterError):
                await write(client, asked)  # type: ignore[arg-type]
            assert client.bytes_out == sent

    run(main)


@pytest.mark.parametrize(
    "url", ["nonsense", "ws://", "http://127.0.0.1:1", f"ws://{HOST}:99999", "ws://[::1", f"ws://{'a' * 80}.x:1", ""]
)
def test_no_address(url: str) -> None:
    async def main() -> None:
        with pytest.raises(LinkError, match="write it as ws://HOST:PORT"):
            await device(url, Table(1))

    run(main)


def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "ws_proxy"):
        monkeypatch.setenv(name, f"http://{HOST}:9")
    monkeypatch.delenv("no_proxy", raising=False)

    async def main() -> None:
        async with serving(Table(1)) as url, await device(url, Table(1, 2)) as client:
            await write(client, request())

    run(main)


def test_a_text_cancelled_from_outside_leaves_the_others() -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=(), seconds=0.001), Table(1, 2, eos_ids=())
        async with serving(target) as url, await device(url, draft) as client:
            asked = [request("coupled", WARM, seed, max_tokens=30) for seed in range(3)]
            kept = [asyncio.create_task(write(client, one)) for one in asked]
            for pause in range(5):  # at whatever stage each of them then is
                text: list[int] = []
                given_up = asyncio.create_task(write(client, request(max_tokens=300), text))
                await asyncio.sleep(0.004 * pause)
                given_up.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await given_up
            assert await asyncio.gather(*kept) == [truth(target, one) for one in asked]
            await until(lambda: not target.caches and not draft.caches)

    run(main)


def test_closing_amid_texts_ends_them() -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=(), seconds=0.002), Table(1, 2, eos_ids=())
        async with serving(target) as url:
            client = await device(url, draft)
            text: list[int] = []
            writing = asyncio.create_task(write(client, request(max_tokens=400), text))
            await until(lambda: len(text) > 5)
            await client.close()
            with pytest.raises(LinkError):
                await writing
            await until(lambda: not target.caches)

    run(main)


@pytest.mark.parametrize(
    ("scheme", "vocab_size"), [*((scheme, VOCAB) for scheme in SCHEMES), ("stream", VOCAB), ("dense", 8192)]
)
def test_the_bytes_counted_are_those_on_the_wire(scheme: str, vocab_size: int) -> None:
    async def main() -> None:
        target, draft = Table(1, vocab_size=vocab_size), Table(1, 2, vocab_size=vocab_size)
        async with EdgeServer(OneByOne(target), TOKENIZER, vocab_size) as server:
            await server.start(HOST, 0)
            async with (
                await Relay.start(FREE, HOST, 0, HOST, server.port) as bare,
                await Relay.start(FREE, HOST, 0, HOST, server.port) as relay,
            ):
                async with connect(f"ws://{HOST}:{bare.port}", compression=None, proxy=None):
                    up, down = bare.uplink_bytes, bare.downlink_bytes  # the HTTP upgrade, and nothing else
                async with await device(f"ws://{HOST}:{relay.port}", draft) as client:
                    first, second = request(scheme, WARM, 1, max_tokens=6), request(scheme, WARM, 2, max_tokens=6)
                    cost = CostMeter()
                    greeting = client.bytes_out, client.bytes_in
                    for asked in (first, second):
                        with cost.measuring(client):
                            await write(client, replace(asked, counts=cost.counts))
                    sent, received = client.bytes_out, client.bytes_in
                    assert (greeting[0] + cost.uplink_bytes, greeting[1] + cost.downlink_bytes) == (sent, received)
                    await until(lambda: relay.uplink_bytes - up == client.bytes_out)
                    await until(lambda: relay.downlink_bytes - down == client.bytes_in)
                    assert cost.counts.uplink_payload_bytes < cost.uplink_bytes

    run(main)


@pytest.mark.parametrize(("length", "header"), [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_the_header_of_a_websocket(length: int, header: int) -> None:
    assert websocket_header(length, masked=False) == header
    assert websocket_header(length, masked=True) == header + 4


class Doorkeeper:
    """An edge that looks at tokens first."""

    def __init__(self, status: HTTPStatus | None = None) -> None:
        self.status = status
        self.seen: list[str | None] = []

    def __call__(self, socket: ServerConnection, asked: HttpRequest) -> Response | None:
        self.seen.append(asked.headers.get("Authorization"))
        return None if self.status is None else socket.respond(self.status, "no\n")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (HTTPStatus.UNAUTHORIZED, "unauthorised", "it wants another token; pass .*AIRDRAFT_TOKEN"),
        (HTTPStatus.FORBIDDEN, "unauthorised", "may not use it; ask"),
        (HTTPStatus.TOO_MANY_REQUESTS, "quota", "used up; try again later"),
        (HTTPStatus.SERVICE_UNAVAILABLE, "busy", "name another edge"),
    ],
)
def test_an_edge_that_does_not_let_this_token_in(status: HTTPStatus, code: str, words: str) -> None:
    async def main() -> None:
        door = Doorkeeper(status)
        async with serve(says(welcome()), HOST, 0, process_request=door) as server:
            url = f"ws://{HOST}:{next(iter(server.sockets)).getsockname()[1]}"
            with pytest.raises(RefusedError, match=words) as refused:
                await EdgeConnection.connect(url, Table(1), TOKENIZER, VOCAB, token="s3cret")  # noqa: S106
            assert refused.value.code == code
            assert "s3cret" not in str(refused.value)
            assert door.seen == ["Bearer s3cret"]
            with pytest.raises(RefusedError):
                await device(url, Table(1))
            assert door.seen[1:] == [None]

    run(main)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "ü"])
def test_no_token(token: str) -> None:
    async def main() -> None:
        with pytest.raises(BadParameterError, match="give it as it was issued"):
            await EdgeConnection.connect(f"ws://{HOST}:9", Table(1), TOKENIZER, VOCAB, token=token)

    run(main)


def test_an_edge_with_a_certificate_of_its_own() -> None:
    authority = trustme.CA()
    theirs = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(theirs)
    ours = tls.create_default_context()
    authority.configure_trust(ours)

    async def main() -> None:
        async with serving(Table(1)) as plain, edge(says(welcome()), theirs) as url:
            async with await EdgeConnection.connect(url, Table(1), TOKENIZER, VOCAB, ssl=ours) as client:
                assert client.alive
                assert await _answered(client) > 0
            with pytest.raises(RefusedError, match=r"cannot be trusted .*--ca FILE") as refused:
                await device(url, Table(1))
            assert refused.value.code == "unauthorised"
            async with await EdgeConnection.connect(plain, Table(1), TOKENIZER, VOCAB, ssl=ours) as client:
                assert await client.round_trip_s() > 0  # a context for others does not matter to ws://

    run(main)


async def _answered(client: EdgeConnection) -> int:
    await until(lambda: client.bytes_in)
    return client.bytes_in
