"""An edge whose engine chooses tokens itself writes the same texts, over real sockets, with the shipped pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airdraft.api.alone import TargetWriter
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.writer import Writer
from airdraft.edge.access import anybody
from airdraft.edge.server import EdgeServer, Service
from airdraft.guides.reading import Guides
from airdraft.guides.specs import of_json
from airdraft.models.base import Part
from airdraft.models.engines.hf import HfModel
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load

from ..suites import mostly_slow

torch = pytest.importorskip("torch", reason="the hf engine takes airdraft[hf]")
HOST = "127.0.0.1"
PARAMS = (SamplingParams(0.0), SamplingParams(0.7, top_p=0.9), SamplingParams(1.0, 40, 0.95, 0.02))


class Noting(HfModel):
    """The engine, which counts what it chose and what it was asked for rows."""

    chosen = rows = moved = 0

    def choose(self, batch: Sequence[Part]) -> list[Any]:
        found = super().choose(batch)
        self.chosen += sum(part.rows for part in batch if part.choice is not None)
        self.rows += sum(part.rows for part in batch if part.choice is None)
        self.moved += sum(isinstance(row, np.ndarray) for each in found if isinstance(each, list) for row in each)
        return found

    def verify(self, batch: Sequence[Part], *more: Any) -> list[Any]:
        self.rows += sum(part.rows for part in batch)
        return super().verify(batch, *more)


@pytest.fixture(scope="module")
def target() -> Iterator[Noting]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Noting(shipped("target"), device="cpu")
    torch.set_num_threads(before)


def tokens(event: Committed) -> list[Any]:
    return list(event.tokens)


def said(event: Committed) -> list[Any]:
    return list(event.logprobs)


def of_edge(
    target: Noting, asked: Sequence[Request], what: Callable[[Committed], list[Any]] = tokens
) -> list[list[Any]]:
    """The texts that a device writes at an edge with that target, and then those that the edge's own API writes."""
    draft, tokenizer = load("draft", engine="onnx")
    guides = Guides(tokenizer)

    async def tokens_of(events: Any) -> list[Any]:
        found: list[Any] = []
        async for event in events:
            if isinstance(event, Committed):
                found += what(event)
        return found

    async def main() -> list[list[Any]]:
        service = Service(reader=guides)
        async with EdgeServer(target, tokenizer.digest, tokenizer.vocab_size, service=service) as server:
            await server.start(HOST, 0)
            url = f"ws://{HOST}:{server.port}"
            async with Writer([url], draft, tokenizer.digest, tokenizer.vocab_size, reader=guides) as writer:
                texts = await asyncio.gather(*(tokens_of(writer.write(each)) for each in asked))
            alone = [replace(each, scheme=SchemeSpec("server")) for each in asked]
            return texts + [await tokens_of(TargetWriter(server, anybody(0.0)).write(each)) for each in alone]

    return asyncio.run(main())


def requests(scheme: str, **more: Any) -> list[Request]:
    """Three texts that share calls of the engine, each with parameters of its own."""
    return [
        Request((5, 6, 7, 8), SchemeSpec(scheme), params, seed, 8, **more) for seed, params in enumerate(PARAMS, 40)
    ]


@pytest.mark.parametrize("scheme", mostly_slow(["server", "coupled", "stream"], {"stream"}))
@pytest.mark.parametrize("guided", [False, True])
def test_texts_are_the_same(target: Noting, scheme: str, guided: bool) -> None:
    asked = requests(scheme, guide=of_json({"enum": ["red", "green", [1, 2, 3]]}) if guided else None)
    target.info = replace(target.info, chooses=False)
    plain = of_edge(target, asked)
    target.chosen = target.rows = 0
    target.info = replace(target.info, chooses=True)
    assert of_edge(target, asked) == plain
    assert target.chosen > 0
    assert target.rows == 0  # but those of no prompt
    assert plain[:3] == plain[3:]  # whatever the scheme


def say(target: Noting, asked: Sequence[Request]) -> tuple[Any, Any]:
    """What is written where rows are given, and where the engine answers."""
    target.info = replace(target.info, chooses=False)
    plain = of_edge(target, asked, said)
    target.chosen = target.rows = 0
    target.info = replace(target.info, chooses=True)
    return plain, of_edge(target, asked, said)


@pytest.mark.parametrize("scheme", mostly_slow(["split", "dense"], {"dense"}))
def test_rounds_move_few_rows(target: Noting, scheme: str) -> None:
    """Where a round ends depends on time, and what is written on that: the rulings are compared elsewhere."""
    target.info = replace(target.info, chooses=True)
    target.rows = target.chosen = target.moved = 0
    assert all(len(text) == 8 for text in of_edge(target, requests(scheme)))
    assert target.rows == 0
    assert 0 < target.moved < target.chosen


@pytest.mark.parametrize("scheme", mostly_slow(["coupled", "stream"], {"stream"}))
@pytest.mark.parametrize("guided", mostly_slow([False, True], {True}))
def test_log_probabilities_are_the_same(target: Noting, scheme: str, guided: bool) -> None:
    guide = of_json({"enum": ["red", "green", [1, 2, 3]]}) if guided else None
    plain, found = say(target, requests(scheme, logprobs=3, guide=guide))
    for texts, others in zip(plain, found, strict=True):
        assert [each.token for each in texts] == [each.token for each in others]
        # Which texts share a call depends on time, and rows on that; bits are compared elsewhere, of the same rows.
        for each, other in zip(texts, others, strict=True):
            assert other.logprob == pytest.approx(each.logprob, abs=1e-4)
            assert [value for _, value in other.top] == pytest.approx([value for _, value in each.top], abs=1e-4)
    assert target.chosen > 0
    assert target.rows == 0
