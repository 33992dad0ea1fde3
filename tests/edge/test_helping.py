"""An edge with a draft model of its own: the same texts in fewer forwards of the target, whatever that model does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from airdraft.api.alone import TargetWriter
from airdraft.core.events import Committed
from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import AirdraftError
from airdraft.models.base import FloatArray, OneByOne, Part
from airdraft.proposers import drafting
from airdraft.scheduler import Helping

from .loopback import GREEDY, TOKENIZER, VOCAB, WARM, Table, device, request, run, started, truth, write

PROMPT, LENGTH = (1, 2, 3), 40


class Broken(Table):
    """A model that fails after some forwards."""

    left = 5

    def row(self, prefix: tuple[int, ...]) -> FloatArray:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("it is broken")
        return super().row(prefix)


class Together(OneByOne):
    """An engine whose calls take all texts that wait, and so long that others come to wait."""

    def __init__(self, draft: Table) -> None:
        super().__init__(draft)
        self.info = replace(self.info, max_batch=8)
        self.texts: list[int] = []

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        time.sleep(0.005)
        self.texts.append(len(batch))
        return super().verify(batch)


def helping(draft: Table | OneByOne) -> Service:
    """An edge with that draft model, which thinks it fast."""
    helps = Helping(OneByOne(draft) if isinstance(draft, Table) else draft)
    make = drafting(helps.context)

    def eager(draw, pace):  # type: ignore[no-untyped-def]
        pace.verify_s = pace.verify_s or 1.0
        return make(draw, replace(pace, verify_s=1.0, draft_s=1e-3))

    return Service(helping=helps, help=eager)


@pytest.mark.parametrize("scheme", ["server", "stream", "coupled", "topk"])
def test_texts_are_the_targets_own_and_take_fewer_forwards(scheme: str) -> None:
    async def main() -> None:
        target = Table(1, eos_ids=())
        service = helping(Table(1, eos_ids=()))
        async with started(target, service) as (server, url), await device(url, Table(1, 2)) as client:
            for seed in range(3):
                asked = request(scheme, GREEDY if scheme == "topk" else WARM, seed, LENGTH, PROMPT, logprobs=1)
                assert await write(client, asked) == truth(target, asked)
                if scheme == "server":
                    assert asked.counts.forwards < LENGTH / 3
            assert not service.helping or scheme != "server" or service.helping.draft_s > 0
            registry = server.metrics.registry
            taken = registry.get_sample_value("airdraft_tokens_taken_total", {"proposer": "draft"}) or 0.0
            assert (taken > LENGTH) == (scheme in ("server", "stream"))

    run(main)


@pytest.mark.parametrize("draft", [Broken(1, eos_ids=()), Table(7, eos_ids=()), Table(1, eos_ids=(), max_context=9)])
def test_a_draft_model_that_fails_or_errs_or_is_short_costs_speed_only(draft: Table) -> None:
    async def main() -> None:
        target = Table(1, eos_ids=())
        async with started(target, helping(draft)) as (_, url), await device(url, Table(1, 2)) as client:
            for scheme in ("server", "stream"):
                asked = request(scheme, WARM, 3, LENGTH, PROMPT)
                assert await write(client, asked) == truth(target, asked)

    run(main)


def test_texts_whose_drafts_share_a_call_are_each_the_targets_own() -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=()), Together(Table(1, 3, eos_ids=()))
        async with started(target, helping(draft)) as (server, url), await device(url, Table(1, 2)) as client:
            asked = [request("server", WARM, seed, LENGTH, (seed, 2, 3)) for seed in range(6)]
            assert await asyncio.gather(*(write(client, each) for each in asked)) == [
                truth(target, each) for each in asked
            ]
            taken = server.metrics.registry.get_sample_value("airdraft_tokens_taken_total", {"proposer": "draft"})
            assert taken
        assert sum(texts > 1 for texts in draft.texts) > LENGTH / 4

    run(main)


def test_clients_without_a_draft_gain_as_well() -> None:
    async def main() -> None:
        target = Table(1, eos_ids=())
        service = helping(Table(1, eos_ids=()))
        asked = request("server", WARM, max_tokens=LENGTH, prompt=PROMPT, logprobs=2)
        async with EdgeServer(OneByOne(target), TOKENIZER, VOCAB, service=service) as server:
            for _ in range(2):
                events = [event async for event in TargetWriter(server, server._anybody).write(asked)]
                commits = [event for event in events if isinstance(event, Committed)]
                assert [token for commit in commits for token in commit.tokens] == truth(target, asked)
                assert len(commits) < LENGTH / 3
            assert service.helping is not None
            assert service.helping.scheduler.texts == 0

    run(main)


def test_a_device_is_told_whether_and_how_fast_the_edge_drafts() -> None:
    async def main() -> None:
        service = helping(Table(1))
        assert service.helping is not None
        service.helping.draft_s = 0.25
        for each, told in ((service, 0.25), (Service(), None)):
            async with started(Table(1), each) as (_, url), await device(url, Table(1, 2)) as client:
                assert client.welcome is not None
                assert client.welcome.draft_s == told

    run(main)
