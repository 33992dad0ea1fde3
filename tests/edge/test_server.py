"""The edge over real sockets: good peers get right texts, bad ones get errors, and neither affects the other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from time import perf_counter

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_sync

from airdraft import transport
from airdraft.core.edge import Limits
from airdraft.core.events import Committed
from airdraft.core.messages import (
    Close,
    Decoder,
    Digest,
    Draft,
    Error,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    SchemeSpec,
    ToDevice,
    Tokens,
    encode,
)
from airdraft.edge import server as server_module
from airdraft.edge.server import EdgeServer
from airdraft.errors import LinkError, ModelError, RefusedError
from airdraft.models.base import FloatArray, OneByOne

from .loopback import (
    FAULT,
    GREEDY,
    HOST,
    SCHEMES,
    TOKENIZER,
    VOCAB,
    WARM,
    Raw,
    Table,
    device,
    hello,
    opening,
    request,
    run,
    serving,
    truth,
    until,
    write,
)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_greedy_text_is_the_targets_under_every_scheme(scheme: str) -> None:
    async def main() -> None:
        target, draft = Table(1), Table(1, 2)
        async with serving(target) as url, await device(url, draft) as client:
            for prompt in ((1, 2, 3), (5,)):
                asked = request(scheme, prompt=prompt)
                assert await write(client, asked) == truth(target, asked)

    run(main)


@pytest.mark.parametrize("scheme", ["coupled", "server"])
def test_a_sampled_text_is_the_one_that_the_target_draws_with_this_seed(scheme: str) -> None:
    async def main() -> None:
        target, draft = Table(1), Table(1, 2)
        async with serving(target) as url, await device(url, draft) as client:
            texts = [(asked := request(scheme, WARM, seed), await write(client, asked)) for seed in range(3)]
        assert all(text == truth(target, asked) for asked, text in texts)
        assert len({tuple(text) for _, text in texts}) > 1

    run(main)


def test_a_prompt_may_end_with_the_token_that_ends_a_text() -> None:
    async def main() -> None:
        target, draft = Table(1), Table(2)
        async with serving(target) as url, await device(url, draft) as client:
            for scheme in SCHEMES:
                asked = request(scheme, prompt=(7,), max_tokens=6)
                assert await write(client, asked) == truth(target, asked)

    run(main)


def test_many_texts_at_once_over_many_connections() -> None:
    async def main() -> None:
        target, draft = Table(1), Table(1, 2)
        async with serving(target) as url, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await device(url, draft)) for _ in range(3)]
            asked = [request(scheme, GREEDY, seed) for seed, scheme in enumerate(SCHEMES)]
            asked += [request("coupled", WARM, 9), request("server", WARM, 10, prompt=(4,))]
            texts = await asyncio.gather(*(write(client, one) for client in clients for one in asked))
            assert texts == [truth(target, one) for one in asked] * len(clients)
            await until(lambda: not target.caches and not draft.caches)

    run(main)


def test_frames_that_wait_together_are_not_one_message() -> None:
    """Each of these frames is as long as the edge allows, and they come faster than they are sent."""

    async def main() -> None:
        target, draft = Table(1), Table(1, 2)
        limits = Limits(max_frame=1024)
        async with serving(target, limits) as url, await device(url, draft) as client:
            asked = [request("dense", prompt=(at,), max_tokens=6, draft_length=30) for at in range(12)]
            texts = await asyncio.gather(*(write(client, one) for one in asked))
            assert texts == [truth(target, one) for one in asked]

    run(main)


def test_long_frames_are_cut() -> None:
    async def main() -> None:
        target, draft = Table(1, vocab_size=8192), Table(1, 2, vocab_size=8192)
        async with serving(target) as url, await device(url, draft) as client:
            for scheme in ("dense", "split"):
                asked = request(scheme, max_tokens=10, draft_length=4)
                assert await write(client, asked) == truth(target, asked)
            assert client.bytes_out > 4 * transport.MESSAGE_BYTES

    run(main)


Bad = Callable[[Raw], object]


@pytest.mark.parametrize(
    ("code", "greet", "bad"),
    [
        ("garbage", True, lambda raw: raw.socket.send(b"\x05hello")),
        ("garbage", False, lambda raw: raw.socket.send(bytes(range(100)))),
        ("garbage", True, lambda raw: raw.socket.send("hello")),
        ("garbage", False, lambda raw: raw.socket.send("")),
        ("frame", True, lambda raw: raw.socket.send(b"\xff\xff\xff\x7f")),
        ("version", False, lambda raw: raw.send(hello(version=99))),
        ("vocabulary", False, lambda raw: raw.send(hello(tokenizer=bytes(16)))),
        ("vocabulary", False, lambda raw: raw.send(hello(vocab_size=VOCAB + 1))),
        ("state", True, lambda raw: raw.send(hello())),
        ("state", False, lambda raw: raw.send(opening())),
        ("state", True, lambda raw: raw.send(opening(1), opening(1))),
    ],
)  # fmt: skip
def test_a_device_that_breaks_the_protocol_is_told_and_cut_off(code: str, greet: bool, bad: Bad) -> None:
    async def main() -> None:
        target, draft = Table(1, seconds=0.004), Table(1, 2)
        asked = request("coupled", WARM, 3)
        async with serving(target) as url, await device(url, draft) as client:
            text = asyncio.create_task(write(client, asked))
            async with Raw.connect(url, greet) as raw:
                await bad(raw)  # type: ignore[misc]
                while not isinstance(message := await raw.receive(), Error):
                    assert isinstance(message, Opened)
                assert (message.session, message.code) == (None, code)
                assert message.message
                with pytest.raises(ConnectionClosed):
                    await raw.socket.recv()
            assert await text == truth(target, asked)
            await until(lambda: not target.caches)

    run(main)


@pytest.mark.parametrize("length", [0, 1])
def test_a_message_of_more_than_the_edge_takes_ends_the_connection(length: int) -> None:
    async def main() -> None:
        target, draft = Table(1), Table(1, 2)
        limit = transport.MESSAGE_BYTES
        async with serving(target, Limits(max_frame=2048)) as url:
            async with Raw.connect(url) as raw:
                pings = encode(Ping(1.0)) * limit
                await raw.socket.send(pings[: limit + length])
                if length:
                    with pytest.raises(ConnectionClosed):
                        await raw.receive()
                    assert raw.socket.close_code == 1009
                else:
                    assert await raw.receive() == Pong(1.0)
            async with await device(url, draft) as client:
                asked = request()
                assert await write(client, asked) == truth(target, asked)

    run(main)


@pytest.mark.parametrize(
    ("code", "messages"),
    [
        ("scheme", [opening(scheme="nope")]),
        ("context", [opening(prompt=(1,) * 512)]),
        ("garbage", [Open(1, SchemeSpec("coupled"), GREEDY, 0, 4, 3, 3, b"", 0)]),
        ("garbage", [Open(1, SchemeSpec("coupled"), GREEDY, 0, 4, 1, 1, b"\x04", 12345)]),
        ("state", [Open(1, SchemeSpec("coupled"), GREEDY, 0, 4, 0, 0, b"", 0)]),
        ("state", [opening(), Draft(1, 1, 99, 99, 0, 0, b"")]),
        ("state", [opening(), Draft(1, 1, 3, 3, Digest((1, 2, 3)).value, 33, bytes(40))]),
        ("garbage", [opening(), Draft(1, 1, 3, 3, Digest((1, 2, 3)).value, 4, b"")]),
        ("garbage", [opening(scheme="topk"), Draft(1, 1, 3, 3, Digest((1, 2, 3)).value, 1, b"\xff")]),
    ],
)
def test_a_bad_session_is_told_and_ends_alone(code: str, messages: list[Message]) -> None:
    async def main() -> None:
        target = Table(1, 2)
        async with serving(target) as url, Raw.connect(url) as raw:
            await raw.send(*messages)
            while isinstance(answer := await raw.receive(), Opened):
                pass
            assert isinstance(answer, Error)
            assert (answer.session, answer.code) == (1, code)
            await until(lambda: not target.caches)
            prompt = (4, 5)
            await raw.send(opening(2, prompt, "server"))  # the connection lives on
            assert await raw.receive() == Opened(2, 2, Digest(prompt).value)

    run(main)


@pytest.mark.parametrize("fault", [lambda: ModelError("no room"), lambda: RuntimeError("secret"), MemoryError])
def test_an_engine_that_fails_ends_only_its_session(
    fault: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(100, "airdraft.scheduler")  # a captured traceback would hold on to the cache

    async def main() -> None:
        target, draft = Table(1, seconds=0.002, fault=fault), Table(1, 2)
        async with serving(target) as url, await device(url, draft) as client:
            asked = request("coupled", WARM, 3)
            text = asyncio.create_task(write(client, asked))
            with pytest.raises(RefusedError) as refused:
                await write(client, request(prompt=(1, FAULT, 2)))
            assert refused.value.code == "engine"
            assert ("no room" in str(refused.value)) == isinstance(fault(), ModelError)
            assert "secret" not in str(refused.value)
            assert await text == truth(target, asked)
            await until(lambda: not target.caches and not draft.caches)

    run(main)


def test_more_texts_than_the_edge_allows_are_refused_one_by_one() -> None:
    async def main() -> None:
        target, draft = Table(1, seconds=0.002), Table(1, 2)
        async with serving(target, Limits(max_sessions=2)) as url, await device(url, draft) as client:
            asked = [request("coupled", WARM, seed) for seed in range(4)]
            texts = await asyncio.gather(*(write(client, one) for one in asked), return_exceptions=True)
            assert texts[:2] == [truth(target, one) for one in asked[:2]]
            assert [isinstance(text, RefusedError) and text.code for text in texts[2:]] == ["busy", "busy"]
            assert await write(client, asked[3]) == truth(target, asked[3])

    run(main)


@pytest.mark.parametrize("scheme", ["coupled", "server"])
def test_a_text_given_up_frees_the_edge(scheme: str) -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=(), seconds=0.002), Table(1, 2, eos_ids=())
        async with serving(target, Limits(max_sessions=1)) as url, await device(url, draft) as client:
            async for event in client.write(request(scheme, max_tokens=400)):
                assert isinstance(event, Committed)
                break
            await until(lambda: not target.caches and not draft.caches)
            forwards = target.forwards
            await asyncio.sleep(0.05)
            assert target.forwards == forwards
            asked = request(scheme, max_tokens=8)  # with max_sessions 1: the edge has let go of the first
            assert await write(client, asked) == truth(target, asked)

    run(main)


def test_a_session_closed_before_its_turn_costs_no_forward() -> None:
    async def main() -> None:
        target = Table(1, seconds=0.1)
        async with serving(target) as url, Raw.connect(url) as raw:
            await raw.send(opening(1))
            await until(lambda: target.forwards == 1)  # and it takes a while
            for session in range(2, 10):
                await raw.send(opening(session), Close(session, "never mind"))
            await raw.send(Close(1, "nor this"))
            await until(lambda: not target.caches)
            await asyncio.sleep(0.3)
            assert target.forwards == 1

    run(main)


def test_a_device_that_vanishes_frees_the_edge() -> None:
    async def main() -> None:
        target = Table(1, eos_ids=(), seconds=0.002)
        async with serving(target) as url:
            async with Raw.connect(url) as raw:
                await raw.send(opening(scheme="server"))
                await until(lambda: target.forwards > 3)
                raw.socket.transport.abort()
            await until(lambda: not target.caches)
            forwards = target.forwards
            await asyncio.sleep(0.05)
            assert target.forwards == forwards

    run(main)


def test_a_silent_device_is_given_up() -> None:
    async def main() -> None:
        async with serving(Table(1), Limits(heartbeat_s=0.05)) as url, Raw.connect(url) as raw:
            began = perf_counter()
            while not isinstance(message := await raw.receive(), Error):
                assert isinstance(message, Ping)
            assert message.code == "silent"
            with pytest.raises(ConnectionClosed):
                await raw.socket.recv()
            assert perf_counter() - began < 15  # ten seconds a heartbeat are usual

    run(main)


def test_heartbeats_keep_an_idle_connection() -> None:
    async def main() -> None:
        target, draft = Table(1), Table(1, 2)
        async with serving(target, Limits(heartbeat_s=0.4)) as url, await device(url, draft) as client:
            await asyncio.sleep(1.6)  # four heartbeats: who is silent is given up after three
            asked = request()
            assert await write(client, asked) == truth(target, asked)

    run(main)


async def flooding(raw: Raw) -> None:
    pings = encode(Ping(1.0)) * 4000
    for _ in range(2000):
        await raw.socket.send(pings)


def test_a_device_that_does_not_read_neither_fills_the_edge_nor_holds_up_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (transport, server_module):
        monkeypatch.setattr(module, "CLOSE_S", 0.3)

    async def main() -> None:
        target, draft = Table(1), Table(1, 2)
        async with EdgeServer(OneByOne(target), TOKENIZER, VOCAB) as server:
            await server.start(HOST, 0)
            url = f"ws://{HOST}:{server.port}"
            async with Raw.connect(url) as raw:
                flood = asyncio.create_task(flooding(raw))
                _, waiting = await asyncio.wait([flood], timeout=0.5)
                assert waiting  # all buffers on the way are full, and the edge reads no more
                async with await device(url, draft) as client:
                    asked = request()
                    assert await write(client, asked) == truth(target, asked)
                began = perf_counter()
                await server.close()
                assert perf_counter() - began < 10  # the flood does not end by itself
                with pytest.raises(ConnectionClosed):
                    await flood

    run(main)


def test_short_forwards_hold_up_neither_what_was_said_nor_what_came() -> None:
    """Short forwards run in the loop's own thread, so unsent or unread data waits until they end."""
    said: list[Message] = []

    class Asking(Table):
        """A ping comes during one forward. During the next, all earlier messages have arrived."""

        device: ClientConnection
        asked_at = 0

        def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
            if threading.current_thread() is threading.main_thread():
                if self.asked_at == 0:
                    self.device.send(encode(Ping(1.0, b"", 0)))
                    self.asked_at = keep
                elif not said:
                    decoder = Decoder(ToDevice)
                    with contextlib.suppress(TimeoutError):
                        while not any(isinstance(message, Pong) for message in said):
                            data = self.device.recv(timeout=20)
                            assert isinstance(data, bytes)
                            said.extend(decoder.feed(data))
            return super().forward(cache, keep, tokens, rows)

    def listen(target: Asking, url: str, over: threading.Event) -> None:
        with connect_sync(url, compression=None, ping_interval=None, proxy=None) as target.device:
            target.device.send(encode(hello()) + encode(opening(scheme="server")))
            over.wait(60)

    async def main() -> None:
        target, over = Asking(1, eos_ids=()), threading.Event()
        async with serving(target) as url:
            listening = asyncio.create_task(asyncio.to_thread(listen, target, url, over))
            await until(lambda: said)
            over.set()
            await listening
        assert isinstance(said[-1], Pong)
        # The forward at position n feeds token n; the one that was under way has chosen the token after it since.
        committed = [message.start for message in said if isinstance(message, Tokens)]
        assert committed[-1] == target.asked_at + 1

    run(main)


def test_a_port_that_is_taken_is_named() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            port = taken.getsockname()[1]
            async with EdgeServer(OneByOne(Table(1)), TOKENIZER, VOCAB) as server:
                with pytest.raises(LinkError, match=rf"{HOST}:{port} .*free port"):
                    await server.start(HOST, port)
                with pytest.raises(LinkError, match="not listening"):
                    _ = server.port

    run(main)


def test_close_twice_and_never_started_leave_nothing() -> None:
    async def main() -> None:
        server = EdgeServer(OneByOne(Table(1)), TOKENIZER, VOCAB)
        await server.close()
        async with EdgeServer(OneByOne(Table(1)), TOKENIZER, VOCAB) as server:
            await server.start(HOST, 0)
            url = f"ws://{HOST}:{server.port}"
            client = await device(url, Table(1, 2))
            await write(client, request())
            assert {"target", "draft"} <= {thread.name.partition("_")[0] for thread in threading.enumerate()}
            await server.close()
            with pytest.raises(LinkError):
                await write(client, request())
            await client.close()
            await client.close()
            with pytest.raises(LinkError, match=r"no edge answers at .*start one"):
                await device(url, Table(1, 2))

    run(main)
