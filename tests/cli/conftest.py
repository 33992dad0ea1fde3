"""One edge for all mistakes that only an edge can point out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from airdraft.edge.server import EdgeServer
from airdraft.models.base import OneByOne
from airdraft.models.registry import load


@pytest.fixture(scope="session")
def edge() -> Iterator[str]:
    """Its URL. It serves the shipped target from a thread of its own, which spares a process's start."""
    model, tokenizer = load("target")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = EdgeServer(OneByOne(model), tokenizer.digest, tokenizer.vocab_size)
    try:
        asyncio.run_coroutine_threadsafe(server.start("127.0.0.1", 0), loop).result(30)
        yield f"ws://127.0.0.1:{server.port}"
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
