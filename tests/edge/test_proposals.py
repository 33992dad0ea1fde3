"""An edge that proposes tokens itself: same texts in fewer forwards, counted, and paid for only if they are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from airdraft.api.alone import TargetWriter
from airdraft.core.events import Committed
from airdraft.edge.access import Tenant
from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import BadParameterError
from airdraft.models.base import FloatArray, OneByOne
from airdraft.proposers import USUAL, maker

from .loopback import GREEDY, TOKENIZER, VOCAB, WARM, Table, device, request, run, started, truth, write

PROPOSING = Service(propose=maker(USUAL))
PROMPT, LENGTH = (1, 2, 3), 60


class Circle(Table):
    """A table whose rows depend on the last token alone, so that greedy texts go round and round."""

    def row(self, prefix: tuple[int, ...]) -> FloatArray:
        return super().row(prefix[-1:])


class Fed(Table):
    """A table that counts the tokens it is fed."""

    fed = 0

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        self.fed += len(tokens)
        return super().forward(cache, keep, tokens, rows)


def count(registry: CollectorRegistry, name: str, proposer: str) -> float:
    return registry.get_sample_value(f"airdraft_tokens_{name}_total", {"proposer": proposer}) or 0.0


@pytest.fixture
def paid(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every number of tokens that a tenant pays for."""
    numbers: list[int] = []
    pace, spend = Tenant.pace, Tenant.spend

    async def noted_pace(self: Tenant, tokens: int) -> None:
        numbers.append(tokens)
        await pace(self, tokens)

    def noted_spend(self: Tenant, tokens: int) -> None:
        numbers.append(tokens)
        spend(self, tokens)

    monkeypatch.setattr(Tenant, "pace", noted_pace)
    monkeypatch.setattr(Tenant, "spend", noted_spend)
    return numbers


def test_a_text_that_repeats_itself_takes_fewer_forwards_and_costs_a_tenant_no_more(paid: list[int]) -> None:
    async def main() -> None:
        target = Circle(1, eos_ids=())
        asked = request("server", GREEDY, max_tokens=LENGTH, prompt=PROMPT)
        async with started(target, PROPOSING) as (server, url), await device(url, Table(1, 2)) as client:
            assert await write(client, asked) == truth(target, asked)
            registry = server.metrics.registry
            proposed, taken = (count(registry, name, "lookup") for name in ("proposed", "taken"))
            assert asked.counts.forwards + taken == asked.counts.committed == LENGTH
            assert LENGTH / 2 < taken <= proposed
            assert registry.get_sample_value("airdraft_tokens_committed_total") == LENGTH
            assert registry.get_sample_value("airdraft_tokens_accepted_total") == 0
        assert sum(paid) == len(PROMPT) - 1 + LENGTH

    run(main)


@pytest.mark.parametrize("scheme", ["server", "coupled", "stream"])
@pytest.mark.parametrize("draft", [Fed(1, 2, eos_ids=()), Fed(7, eos_ids=())])
def test_an_edge_that_proposes_nothing_is_paid_for_all_it_feeds(paid: list[int], scheme: str, draft: Fed) -> None:
    """The drafts of the device among it, whatever comes of them. A stream may have paid for drafts that died before
    their turn."""

    async def main() -> None:
        target = Fed(1, eos_ids=())
        asked = request(scheme, WARM, 3, LENGTH, PROMPT)
        async with started(target) as (_, url), await device(url, draft) as client:
            assert await write(client, asked) == truth(Table(1, eos_ids=()), asked)
        assert target.fed > LENGTH
        assert sum(paid) == target.fed or (scheme == "stream" and sum(paid) > target.fed)

    run(main)


def test_a_prediction_hastens_a_text_that_is_mostly_as_predicted(paid: list[int]) -> None:
    async def main() -> None:
        target = Table(1, eos_ids=())
        asked = request("server", WARM, 3, LENGTH, PROMPT)
        expected = truth(target, asked)
        edited = [*expected[:20], 5, *expected[21:40], *expected[42:]]
        asked = replace(asked, prediction=edited)
        async with started(target, PROPOSING) as (server, url), await device(url, Table(1, 2)) as client:
            assert await write(client, asked) == expected
            assert asked.counts.forwards < LENGTH / 3
            assert count(server.metrics.registry, "taken", "predicted") > LENGTH / 2
        assert sum(paid) == len(PROMPT) - 1 + LENGTH

    run(main)


@pytest.mark.parametrize("scheme", ["stream", "server", "coupled", "topk"])
def test_texts_of_a_proposing_edge_are_the_targets_own(scheme: str) -> None:
    async def main() -> None:
        target, draft = Circle(1, eos_ids=()), Circle(1, 2, eos_ids=())
        async with started(target, PROPOSING) as (_, url), await device(url, draft) as client:
            for seed in range(4):
                asked = request(scheme, GREEDY if scheme == "topk" else WARM, seed, LENGTH, PROMPT, logprobs=1)
                assert await write(client, asked) == truth(target, asked)

    run(main)


def test_clients_without_a_draft_gain_as_well(paid: list[int]) -> None:
    async def main() -> None:
        target = Circle(1, eos_ids=())
        asked = request("server", GREEDY, max_tokens=LENGTH, prompt=PROMPT, logprobs=2)
        async with EdgeServer(OneByOne(target), TOKENIZER, VOCAB, service=PROPOSING) as server:
            events = [event async for event in TargetWriter(server, server._anybody).write(asked)]
            commits = [event for event in events if isinstance(event, Committed)]
            assert [token for commit in commits for token in commit.tokens] == truth(target, asked)
            assert all(len(commit.logprobs) == len(commit.tokens) for commit in commits)
            assert len(commits) == asked.counts.forwards < LENGTH / 2
            assert count(server.metrics.registry, "taken", "lookup") == LENGTH - len(commits)
        assert sum(paid) == len(PROMPT) - 1 + LENGTH

    run(main)


def test_clients_without_a_draft_predict_as_well() -> None:
    async def main() -> None:
        target = Table(1, eos_ids=())
        asked = request("server", WARM, 3, LENGTH, PROMPT)
        asked = replace(asked, prediction=truth(target, asked))
        async with EdgeServer(OneByOne(target), TOKENIZER, VOCAB, service=PROPOSING) as server:
            writer = TargetWriter(server, server._anybody)
            commits = [event async for event in writer.write(asked) if isinstance(event, Committed)]
            assert [token for commit in commits for token in commit.tokens] == truth(target, asked)
            assert asked.counts.forwards < LENGTH / 8
            for prediction, why in (((VOCAB,), "leaves the vocabulary"), ((1,) * 512, "the prediction is 512 tokens")):
                with pytest.raises(BadParameterError, match=why) as refused:
                    await anext(writer.write(replace(asked, prediction=prediction)))
                assert refused.value.field == "prediction"

    run(main)
