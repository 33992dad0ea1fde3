"""An edge and devices in one event loop, over real sockets, with models that are tables."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from airdraft.core.bits import BitWriter, id_width
from airdraft.core.edge import Limits
from airdraft.core.events import Committed, Finished
from airdraft.core.messages import (
    VERSION,
    Close,
    Decoder,
    Digest,
    Error,
    Hello,
    Message,
    Open,
    SchemeSpec,
    ToDevice,
    Tokens,
    Welcome,
    encode,
)
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.client import EdgeConnection
from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import RefusedError
from airdraft.models.base import FloatArray, OneByOne
from airdraft.models.files.digest import digest
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel

HOST = "127.0.0.1"
VOCAB = 40
EOS = 7
FAULT = VOCAB - 1
"""A prompt with this token makes a `Table` raise its fault."""
TOKENIZER = bytes(range(16))
SCHEMES = ("server", "dense", "topk", "lattice", "split", "coupled")
GREEDY = SamplingParams(0.0)
WARM = SamplingParams(0.9)

T = TypeVar("T")


class Cache(list[int]):
    """A cache that tests can watch."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class Table(TableModel):
    """A table that can be slow or fail, and knows its live caches."""

    def __init__(
        self,
        *seeds: int,
        vocab_size: int = VOCAB,
        eos_ids: tuple[int, ...] = (EOS,),
        max_context: int = 512,
        seconds: float = 0.0,
        fault: Callable[[], Exception] | None = None,
    ) -> None:
        """Rows are sums of the rows of `seeds`: tables that share a seed resemble each other."""

        def row(prefix: tuple[int, ...]) -> FloatArray:
            parts = [np.random.default_rng([seed, *prefix[-3:]]).normal(size=vocab_size) for seed in seeds]
            return np.asarray(2 * np.sum(parts, axis=0), np.float32)

        super().__init__(row, vocab_size, max_context, eos_ids)
        self.seconds = seconds
        self.forwards = 0
        self.caches: weakref.WeakSet[Cache] = weakref.WeakSet()
        self._fault = fault

    def new_cache(self) -> Cache:
        cache = Cache()
        self.caches.add(cache)
        return cache

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        self.forwards += 1
        time.sleep(self.seconds)
        if self._fault is not None and keep == 0 and FAULT in tokens:
            raise self._fault()
        return super().forward(cache, keep, tokens, rows)


def run(main: Callable[[], Coroutine[Any, Any, T]], seconds: float = 100) -> T:
    """Run `main` to its end in bounded time, and check that it leaves no task or thread behind."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            result = await main()
            while left := asyncio.all_tasks() - {asyncio.current_task()}:  # what is already ending
                await asyncio.wait(left)
        return result

    threads = set(threading.enumerate())
    result = asyncio.run(bounded())
    assert set(threading.enumerate()) <= threads
    gc.collect()  # an unclosed socket warns now, and warnings are errors
    return result


def engine(target: TableModel) -> OneByOne:
    """The engine of a table, which says what defines its rows."""
    return OneByOne(target, digest(target.row((0,)).tobytes()))


@contextlib.asynccontextmanager
async def started(
    target: Table, service: Service | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[EdgeServer, str]]:
    """An edge and its URL."""
    async with EdgeServer(engine(target), TOKENIZER, target.vocab_size, limits, service=service) as server:
        await server.start(HOST, 0)
        yield server, f"ws{'s' if service and service.tls else ''}://{HOST}:{server.port}"


@contextlib.asynccontextmanager
async def serving(target: Table, limits: Limits | None = None) -> AsyncIterator[str]:
    """Run an edge. Yields its URL."""
    async with started(target, limits=limits) as (_, url):
        yield url


async def device(url: str, draft: Table) -> EdgeConnection:
    return await EdgeConnection.connect(url, draft, TOKENIZER, draft.vocab_size)


def request(
    scheme: str = "coupled",
    params: SamplingParams = GREEDY,
    seed: int = 0,
    max_tokens: int = 10,
    prompt: Sequence[int] = (1, 2, 3),
    **options: Any,
) -> Request:
    return Request(prompt, SchemeSpec(scheme, k=8), params, seed, max_tokens, **options)


def truth(target: Table, asked: Request) -> list[int]:
    """Write the target's own text."""
    same = TableModel(target.row, target.vocab_size, target.max_context, target.eos_ids)
    return list(alone.write(same, asked.prompt, asked.params, asked.seed, asked.max_tokens))


async def write(client: EdgeConnection, asked: Request, into: list[int] | None = None) -> list[int]:
    """Return the tokens of one text, which also go `into` a list as they come."""
    tokens: list[int] = [] if into is None else into
    reasons = []
    async for event in client.write(asked):
        assert not reasons
        if isinstance(event, Committed):
            tokens += event.tokens
        if isinstance(event, Finished):
            reasons.append(event.reason)
    assert reasons in (["stop"], ["length"])
    return tokens


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Raw:
    """A peer that can send anything."""

    welcome: Welcome

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._decoder = Decoder(ToDevice)
        self._messages: list[Message] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, url: str, greet: bool = True, token: str = "", **options: Any) -> AsyncIterator[Raw]:
        headers = {"Authorization": f"Bearer {token}"} if token else None
        async with connect(
            url, compression=None, ping_interval=None, proxy=None, additional_headers=headers, **options
        ) as socket:
            raw = cls(socket)
            if greet:
                await raw.send(hello())
                answer = await raw.receive()
                assert isinstance(answer, Welcome)
                raw.welcome = answer
            yield raw

    async def send(self, *messages: Message) -> None:
        await self.socket.send(b"".join(encode(message) for message in messages))

    async def receive(self) -> Message:
        while not self._messages:
            data = await self.socket.recv()
            assert isinstance(data, bytes)
            self._messages += self._decoder.feed(data)
        return self._messages.pop(0)

    async def text(self, session: int, prompt: Sequence[int], max_tokens: int, eos: int | None = EOS) -> list[int]:
        """What the edge writes by itself after a prompt. Raises: `RefusedError`, whatever session is refused."""
        await self.send(opening(session, tuple(prompt), "server", max_tokens))
        written: list[int] = []
        while len(written) < max_tokens and not (written and written[-1] == eos):
            message = await self.receive()
            if isinstance(message, Error):
                raise RefusedError(message.code, f"session {message.session}: {message.message}")
            if isinstance(message, Tokens):
                written += message.tokens
        await self.send(Close(session, "over"))
        return written


def opening(
    session: int = 1, prompt: tuple[int, ...] = (1, 2, 3), scheme: str = "coupled", max_tokens: int = 400
) -> Open:
    packed = BitWriter()
    packed.write(list(prompt), id_width(VOCAB))
    spec = SchemeSpec(scheme)
    return Open(session, spec, GREEDY, 0, max_tokens, len(prompt), len(prompt), packed.bytes(), Digest(prompt).value)


def hello(version: int = VERSION, tokenizer: bytes = TOKENIZER, vocab_size: int = VOCAB) -> Hello:
    return Hello(version, "a test", "a model", tokenizer, vocab_size)
