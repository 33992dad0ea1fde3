"""A store behind a web server that is slow, and takes its time: real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.prompts import store as module
from airdraft.prompts.arriving import StoredPrompts
from airdraft.prompts.blocks import BLOCK, Layout, chain
from airdraft.prompts.lanes import FEWEST
from airdraft.prompts.store import PromptStore

pytest.importorskip("aiohttp", reason="an edge reads from a web server by aiohttp")
pytestmark = pytest.mark.filterwarnings("default")  # what these libraries warn of is theirs

LAYOUT = Layout([np.zeros((2, 0, 3), np.float32)] * 2 * 3 * FEWEST)
FOLDER = "ab/cd"
NAMES = chain(list(range(2 * BLOCK)))


class _Web(ThreadingHTTPServer):
    """Gives what lies in a folder, and objects only while it `gives`."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gives, self.asked = threading.Event(), 0
        self.endless = False


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Wait, where it is an object."""
        assert isinstance(self.server, _Web)
        if self.server.endless:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b'<a href="x">x</a>\n' * 1000)
        if "/blocks/" in self.path:
            self.server.asked += 1
            self.server.gives.wait(100)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, _Web]]:
    store, rng = PromptStore(str(tmp_path), FOLDER, LAYOUT), np.random.default_rng(1)
    for name in NAMES:
        store.put_block(name, [rng.normal(size=(2, BLOCK, 3)).astype(np.float32) for _ in LAYOUT.tensors])
    store.put_prompt(NAMES)
    with _Web(("127.0.0.1", 0), partial(_Handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", server
        server.gives.set()
        server.shutdown()
        thread.join()


def test_an_answer_that_never_ends_is_read_as_far_as_it_was_asked_for(
    web: tuple[str, _Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = web
    monkeypatch.setattr(module, "MOST_LISTED", 1 << 12)
    server.endless = True
    store = PromptStore(url, FOLDER, LAYOUT)
    assert store.prompts() == []
    assert not store.has(NAMES[0])


def test_who_gives_a_block_up_gives_the_link_back(
    web: tuple[str, _Web], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = web
    monkeypatch.setattr(module, "TIMEOUT_S", 100.0)
    expected = PromptStore(str(tmp_path), FOLDER, LAYOUT).block(NAMES[0])

    async def main() -> None:
        prompts = await asyncio.to_thread(StoredPrompts, PromptStore(url, FOLDER, LAYOUT))
        assert prompts.store.prompts()[0].blocks == tuple(NAMES)
        late = [asyncio.create_task(prompts.block(name)) for name in NAMES]
        while server.asked < FEWEST:  # noqa: ASYNC110 - the server has no event of this loop
            await asyncio.sleep(0.01)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        assert server.asked <= 2 * FEWEST  # the rest was never asked for
        held, server.gives = server.gives, threading.Event()
        server.gives.set()
        async with asyncio.timeout(50):  # a request that still ran would hold its place for 100 s
            found = await prompts.block(NAMES[0])
        held.set()
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))

    asyncio.run(main())
