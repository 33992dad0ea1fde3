"""A real `airdraft run` at an edge that ends its text before it is complete, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from airdraft.core.bits import BitReader, id_width
from airdraft.core.messages import (
    MAX_FRAME,
    VERSION,
    Close,
    Decoder,
    Digest,
    Hello,
    Open,
    Opened,
    ToEdge,
    Tokens,
    Welcome,
    encode,
)
from airdraft.device.writer import ENGINE_TRIES
from airdraft.models.registry import load

from .processes import airdraft

GIVEN = 3
"""Tokens that the edge commits before it closes a text the first time. Later it commits none."""


@pytest.fixture
def closing() -> Iterator[tuple[str, list[str]]]:
    """The URL of an edge that closes every text, and the reasons that it gave."""
    vocab = load("target")[1].vocab_size
    reasons: list[str] = []

    async def serve_one(socket: ServerConnection) -> None:
        decoder = Decoder(ToEdge)
        try:
            async for data in socket:
                for message in decoder.feed(bytes(data)):
                    if isinstance(message, Hello):
                        limits = (512, MAX_FRAME, 32, 16, 10.0, ())
                        await socket.send(encode(Welcome(VERSION, "a test", "a model", *limits, 0.0, bytes(16))))
                    elif isinstance(message, Open):
                        text = BitReader(message.tokens).read(message.length, id_width(vocab)).tolist()
                        digest = Digest(text)
                        out = encode(Opened(message.session, len(text), digest.value))
                        for at in range(0 if reasons else GIVEN):
                            digest.extend([20 + at])
                            out += encode(Tokens(message.session, len(text) + at, (20 + at,), digest.value))
                        reasons.append(("stop", "length", "cancelled")[len(reasons) % 3])
                        await socket.send(out + encode(Close(message.session, reasons[-1])))
        except ConnectionClosed:
            pass

    loop, ready = asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []

    async def main() -> None:
        async with serve(serve_one, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            ports.append(next(iter(server.sockets)).getsockname()[1])
            ready.set()
            await over.wait()

    over = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert ready.wait(20)
    yield f"ws://127.0.0.1:{ports[0]}", reasons
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


@pytest.mark.parametrize("json_too", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_text_that_an_edge_closes_is_not_complete(closing: tuple[str, list[str]], json_too: bool) -> None:
    url, reasons = closing
    options = ("--edge", url, "--draft", "draft", "--scheme", "server", "--max-tokens", "40", "--no-color")
    code, out, errors = airdraft("run", "def f(x):", *options, *(("--json",) if json_too else ()))
    assert code == 2
    assert len(reasons) == ENGINE_TRIES  # whatever it says of the end
    lines = errors.splitlines()
    assert lines[-1].startswith("airdraft: ")
    if json_too:
        record = json.loads(out)
        assert record["reason"] == "error"
        assert record["ids"] == [20, 21, 22]  # what was committed stands
    else:
        assert out.startswith("def f(x):")
