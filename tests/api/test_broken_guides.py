"""A guide whose reader panics in the midst of a text: a device stops drafting, an edge ends the text with one error."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import openai
import pytest

from airdraft.api.app import device_app, edge_app
from airdraft.core.law import Guide
from airdraft.core.messages import GuideSpec
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer, Service
from airdraft.guides import Guides
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.text import Tokenizer
from airdraft.telemetry.http import serving

from ..guides.test_hostile import Panicking
from .conftest import HOST, PROMPT, Truth

BREAKS = "[a-z]{40}"
KEEPS = "[a-z ]{12}"


class Breaking(Guides):
    """Reads guides, of which one panics on its way."""

    reads = 0

    async def read(self, spec: GuideSpec, eos_ids: Sequence[int]) -> Guide:
        """See `Guides.read`."""
        self.reads += spec.text == BREAKS
        guide: Any = await super().read(spec, eos_ids)
        if spec.text == BREAKS:
            walk = guide._walk
            walk._grammar, walk._matcher, walk._trail = (
                Panicking(each, "compute_bitmask") for each in (walk._grammar, walk._matcher, walk._trail)
            )
        return guide


@pytest.mark.parametrize("where", ["device", "edge"])
def test_a_panic_ends_one_text_at_most(
    where: str, target: OnnxModel, draft: OnnxModel, tokenizer: Tokenizer, truth: Truth
) -> None:
    readers = {each: (Breaking if each == where else Guides)(tokenizer) for each in ("device", "edge")}
    plain = tokenizer.decode(truth(seed=3, max_tokens=40))

    async def check(port: int, breaks: bool, **more: str) -> Any:
        async with openai.AsyncOpenAI(base_url=f"http://{HOST}:{port}/v1", api_key="none", max_retries=0) as client:
            create: Any = client.completions.create
            asked: Any = {"model": "target", "prompt": PROMPT, "seed": 3, "max_tokens": 40}

            def guided(pattern: str) -> Any:
                return create(**asked, extra_body={"regex": pattern, **more})

            broken, free, kept = await asyncio.gather(
                guided(BREAKS), create(**asked), guided(KEEPS), return_exceptions=True
            )
            assert free.choices[0].text == plain
            assert len(kept.choices[0].text) == 12
            if breaks:
                assert isinstance(broken, openai.BadRequestError)
                assert broken.param == "regex"
                assert "the guide breaks its reader (index out of bounds: the len is 5); ask for another" in str(broken)
            assert (await create(**asked)).choices[0].text == plain
            assert (await guided(KEEPS)).choices[0].text == kept.choices[0].text
            return None if breaks else broken.choices[0].text

    async def main() -> None:
        service = Service(reader=readers["edge"])
        async with EdgeServer(target, tokenizer.digest, tokenizer.vocab_size, service=service) as server:
            await server.start(HOST, 0)
            url = f"ws://{HOST}:{server.port}"
            async with (
                Writer([url], draft, tokenizer.digest, tokenizer.vocab_size, reader=readers["device"]) as writer,
                serving(device_app(writer, tokenizer, "target"), HOST, 0) as device,
                serving(edge_app(server, tokenizer), HOST, 0) as edge,
            ):
                await writer.connect()
                connection = writer.edge
                written = await check(device, where == "edge", scheme="coupled")
                assert writer.edge == connection
                assert getattr(readers[where], "reads", 0) == 1  # it is no use to ask again
                alone = await check(edge, where == "edge")
                assert written == alone
                assert where == "edge" or re.fullmatch(BREAKS, alone)

    asyncio.run(main())
