"""An edge's own draft reads a prompt for a device that has the same draft: real HTTP, the shipped pair."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.api.app import edge_app
from airdraft.api.drafts import PATH
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.client import EdgeConnection
from airdraft.device.writer import Writer
from airdraft.edge import offering as module
from airdraft.edge.access import Access
from airdraft.edge.offering import Offering
from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import LinkError
from airdraft.models.base import OneByOne, info_of
from airdraft.models.profile import Paced, PacedEngine
from airdraft.models.registry import load, load_helping, load_target
from airdraft.prompts.arriving import StoredPrompts
from airdraft.prompts.blocks import BLOCK, Layout, chain, opened
from airdraft.scheduler import Helping
from airdraft.sim import alone
from airdraft.telemetry.http import serving

PROMPT = [at * 31 % 4000 + 1 for at in range(10 * BLOCK + 20)]
TOKENS = ("a-token-of-the-first-tenant", "a-token-of-another-tenant")
TEXT = 8


@pytest.fixture(scope="module")
def target() -> Any:
    """The target, slow, so that texts stay open."""
    model, tokenizer = load_target("target")
    return PacedEngine(model, 0.2), tokenizer


@asynccontextmanager
async def edge(target: Any, folder: Path) -> AsyncIterator[tuple[EdgeServer, Offering, str]]:
    """An edge with a draft of its own and two tenants, its URL, and what it offers."""
    model, tokenizer = target
    (folder / "tokens").write_text("\n".join(TOKENS))
    helping = Helping(load_helping("draft", tokenizer))
    service = Service(access=Access(folder / "tokens"), helping=helping)
    async with EdgeServer(model, tokenizer.digest, tokenizer.vocab_size, service=service) as server:
        await server.start("127.0.0.1", 0)
        yield server, Offering(helping), f"ws://127.0.0.1:{server.port}"


def asked(prompt: list[int], most: int = TEXT, private: int | None = None) -> Request:
    return Request(prompt, SchemeSpec("coupled"), SamplingParams(0.0), 1, most, private=private)


class Slow(Paced):
    """A draft that reads the next piece of a prompt when one block more has come, however busy this machine is."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, 0.5)
        self.trees = False
        self.came = threading.Semaphore(0)

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> Any:
        if len(tokens) > BLOCK:
            self.came.acquire(timeout=60)
        return super().forward(cache, keep, tokens, rows)


class Told(StoredPrompts):
    """Tells the draft of every block."""

    draft: Slow

    async def block(self, name: bytes) -> Any:
        found = await super().block(name)
        self.draft.came.release()
        return found


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what aiohttp warns of is its own
def test_a_device_takes_what_the_edges_draft_has_read(target: Any, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="a device reads over HTTP by aiohttp")
    draft, words = load("draft", digest=True)
    slow = Slow(draft)
    key = {"headers": {"Authorization": f"Bearer {TOKENS[0]}"}}

    async def main() -> tuple[list[int], int]:
        async with AsyncExitStack() as stack:
            server, offering, url = await stack.enter_async_context(edge(target, tmp_path))
            app = edge_app(server, words, offering=offering)
            port = await stack.enter_async_context(serving(app, "127.0.0.1", 0))
            at = partial(Told.at, f"http://127.0.0.1:{port}{PATH}", OneByOne(slow, info_of(draft).digest))
            stranger = await asyncio.to_thread(at)
            with pytest.raises(LinkError, match="401"):
                await asyncio.to_thread(stranger.store.prompts)
            prompts: Any = await asyncio.to_thread(at, options=key)
            prompts.draft = slow
            async with Writer([url], slow, words.digest, words.vocab_size, token=TOKENS[0], prompts=prompts) as device:
                events = [each async for each in device.write(asked(PROMPT))]
                written = [token for event in events if isinstance(event, Committed) for token in event.tokens]
                return written, device.fetched

    written, fetched = asyncio.run(main())
    assert written == list(
        alone.write(load("target")[0], PROMPT, SamplingParams(0.0), 1, TEXT, vocab_size=words.vocab_size)
    )
    assert fetched >= 2 * BLOCK


def test_a_prompt_is_given_to_its_tenant_alone_while_its_text_is_open(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of what is private, in no other layout, and never more than the bound."""
    monkeypatch.setattr(module, "COMES_S", 0.2)
    draft, words = load("draft", digest=True)
    names = chain(PROMPT)

    async def main() -> None:
        async with edge(target, tmp_path) as (server, offering, url):
            tenants = [server.tenant_of(f"Bearer {token}") for token in TOKENS]

            async def given(tenant: Any, block: int, layer: int | str = 0, of: str = offering.target) -> bytes | None:
                place = f"{of}/{'0' * 32}/blocks/{names[block].hex()}/{layer}"
                found = await offering.object(tenant, place)
                return None if found is None else opened(place, found)

            client = await EdgeConnection.connect(url, draft, words.digest, words.vocab_size, token=TOKENS[0])
            async with client:
                assert await given(tenants[0], 0) is None
                private = 5 * BLOCK + 3
                text = client.write(asked(PROMPT, 300, private))
                await anext(text)
                cache = draft.new_cache()
                draft.forward(cache, 0, PROMPT, 0)
                layout = Layout.of(OneByOne(draft, info_of(draft).digest))
                for block in (0, 4):
                    found = [await given(tenants[0], block, layer) for layer in range(layout.layers)]
                    true = cache.take(BLOCK * block, BLOCK * (block + 1))
                    for one, other in zip(layout.read([each or b"" for each in found]), true, strict=True):
                        assert np.allclose(one, other, atol=1e-3)
                assert await given(tenants[0], 5) is None  # the private part begins in it
                assert await given(tenants[1], 0) is None
                assert await given(tenants[0], 0, layout.layers) is None
                assert await given(tenants[0], 0, of="0" * 32) is None
                assert await given(tenants[0], 0, "../0") is None
                monkeypatch.setattr(module, "MOST_BYTES", 9 * layout.held_bytes)  # five are held, nine are asked for
                other = client.write(asked(PROMPT[BLOCK:], 300))
                await anext(other)
                place = f"{offering.target}/{'0' * 32}/blocks/{chain(PROMPT[BLOCK:])[0].hex()}/0"
                assert await offering.object(tenants[0], place) is None
                await text.aclose()
                async with asyncio.timeout(60):
                    while await offering.object(tenants[0], place) is None:  # noqa: ASYNC110 - until the edge knows
                        await asyncio.sleep(0.02)
                assert await given(tenants[0], 0) is None
                await other.aclose()

    asyncio.run(main())
