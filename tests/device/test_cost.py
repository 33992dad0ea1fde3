"""The figures people compare."""

from __future__ import annotations

import pytest

from airdraft.core.request import Counts
from airdraft.device.cost import CostMeter

from ..edge.loopback import Table, device, request, run, serving, write


def test_tokens_a_forward_count_every_forward_of_the_target() -> None:
    counts = Counts(forwards=4, drafted=9, accepted=5, rejected=2, raced=1, committed=10)
    figures = CostMeter(counts, seconds=2.0).figures()
    assert figures["mean_acceptance_length"] == 2.5
    assert figures["acceptance_rate"] == pytest.approx(5 / 7)
    assert (figures["forwards"], figures["raced"], figures["tokens_per_s"]) == (4, 1, 5.0)


def test_nothing_written_has_no_ratios() -> None:
    figures = CostMeter().figures()
    assert figures["mean_acceptance_length"] is figures["acceptance_rate"] is figures["tokens_per_s"] is None


@pytest.mark.parametrize("scheme", ["server", "stream", "coupled"])
def test_plain_streaming_commits_one_token_a_forward_and_drafting_no_fewer(scheme: str) -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=()), Table(1, eos_ids=())  # the same: every draft is accepted
        asked = request(scheme, max_tokens=30, draft_length=None if scheme == "server" else 4)
        async with serving(target) as url, await device(url, draft) as client:
            cost = CostMeter(asked.counts)
            with cost.measuring(client):
                await write(client, asked)
            figures = cost.figures()
            prefill = 1
            assert figures["forwards"] == target.forwards - prefill
            length = figures["mean_acceptance_length"]
            assert length is not None
            assert length == 1 if scheme == "server" else length >= 1
            if scheme == "coupled":
                assert length == 5

    run(main)
