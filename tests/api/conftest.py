"""The shipped pair behind the API: an edge and a device in a thread, so that any client can be used from the test's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import openai
import pytest

from airdraft.api.app import device_app, edge_app
from airdraft.core.sampling import SamplingParams
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer, Service
from airdraft.guides import Guides
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer
from airdraft.sim import alone
from airdraft.telemetry.http import serving

HOST = "127.0.0.1"
END = 0
"""The token that ends the pair's texts."""
PROMPT = 'def parse(text):\n    """Parse a line."""\n'

T = TypeVar("T")


@pytest.fixture(scope="session")
def target() -> OnnxModel:
    return OnnxModel(shipped("target"))


@pytest.fixture(scope="session")
def draft() -> OnnxModel:
    return OnnxModel(shipped("draft"))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(shipped("target"))


Truth = Callable[..., list[int]]


@pytest.fixture(scope="session")
def truth(target: OnnxModel, tokenizer: Tokenizer) -> Truth:
    """The tokens that the target alone writes, each text written once."""

    @cache
    def own(ids: tuple[int, ...], params: SamplingParams, seed: int, max_tokens: int) -> list[int]:
        return list(alone.write(target, ids, params, seed, max_tokens, tokenizer.vocab_size))

    def write(prompt: str | list[int] = PROMPT, *, seed: int = 0, max_tokens: int = 24, **params: Any) -> list[int]:
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return [*own(tuple(ids), SamplingParams(**params), seed, max_tokens)]

    return write


@pytest.fixture(scope="session")
def long_seed(truth: Truth) -> int:
    """A seed whose text after `PROMPT` is 60 tokens and more: which it is, is the model's and the CPU's affair."""
    return next(seed for seed in range(5, 99) if len(truth(seed=seed, max_tokens=60)) == 60)


@dataclass
class Served:
    """An edge and a device, and where each serves the API."""

    server: EdgeServer
    device: str
    edge: str
    submit: Callable[[Coroutine[Any, Any, Any]], Any]
    """Run something in the servers' loop."""


@contextlib.contextmanager
def loop_in_thread() -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """A loop of its own; runs what it is given, from here."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda main: asyncio.run_coroutine_threadsafe(main, loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.fixture(scope="session")
def served(target: OnnxModel, draft: OnnxModel, tokenizer: Tokenizer) -> Iterator[Served]:
    @contextlib.asynccontextmanager
    async def both() -> AsyncIterator[tuple[EdgeServer, int, int]]:
        guides = Guides(tokenizer)
        service = Service(reader=guides)
        async with EdgeServer(target, tokenizer.digest, tokenizer.vocab_size, service=service) as server:
            await server.start(HOST, 0)
            url = f"ws://{HOST}:{server.port}"
            async with (
                Writer([url], draft, tokenizer.digest, tokenizer.vocab_size, reader=guides) as writer,
                serving(device_app(writer, tokenizer, "target", context=lambda: writer.context), HOST, 0) as device,
                serving(edge_app(server, tokenizer), HOST, 0) as edge,
            ):
                await writer.connect()
                yield server, device, edge

    with loop_in_thread() as submit:
        context = both()
        server, device, edge = submit(context.__aenter__())
        yield Served(server, f"http://{HOST}:{device}/v1", f"http://{HOST}:{edge}/v1", submit)
        submit(context.__aexit__(None, None, None))


@pytest.fixture(scope="session", params=["device", "edge"])
def url(request: pytest.FixtureRequest, served: Served) -> str:
    """Where the API is served, once on the device and once at the edge."""
    return str(getattr(served, request.param))


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client
