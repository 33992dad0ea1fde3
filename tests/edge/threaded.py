"""An edge that serves the shipped target from its own thread, and can be killed and started again."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine, Sequence
from functools import cache
from typing import Any, TypeVar

from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import AirdraftError
from airdraft.guides import Guides
from airdraft.models.base import FloatArray, LanguageModel, OneByOne, Part
from airdraft.models.files.digest import words
from airdraft.models.profile import Paced
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer

T = TypeVar("T")


@cache
def shipped(which: str) -> tuple[LanguageModel, Tokenizer]:
    return load(which)


class _Watched(OneByOne):
    """Signals that a text is in progress, and stays in its midst if it is told to."""

    def __init__(self, model: LanguageModel, edge: Edge) -> None:
        super().__init__(model, words(model.name))
        self._calls = 0
        self._edge = edge

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        self._calls += 1
        if self._calls == 10:
            self._edge.writing.set()
            if self._edge.held:
                self._edge.killed.wait(60)
        return super().verify(batch)


class Edge:
    """An edge in its own thread. A forward takes at least 4 ms, so that tests can act in the middle of a text."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.writing = threading.Event()
        """Set from the tenth forward on."""
        self.held = False
        """Whether the next tenth forward waits until the edge is killed: then no text is over before."""
        self.killed = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server: EdgeServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def start(self) -> None:
        model, tokenizer = shipped("target")
        engine = _Watched(Paced(model, 0.004), self)

        async def begin() -> EdgeServer:
            service = Service(tls=self._tls, reader=Guides(tokenizer))
            server = EdgeServer(engine, tokenizer.digest, tokenizer.vocab_size, service=service)
            await server.start("127.0.0.1", self.port)
            return server

        self._server = self._run(begin())
        self.port = self._server.port

    def kill(self) -> None:
        server, self._server = self._server, None
        self.held = False
        self.killed.set()
        if server is not None:
            self._run(server.close())

    def end(self) -> None:
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
