"""Predictions beside what the laboratory measures: the same link, times and acceptance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airdraft.control import predict
from airdraft.control.facts import wire
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts
from airdraft.core.sampling import SamplingParams
from airdraft.lab.record import Recording, prompts, record, synthetic
from airdraft.lab.virtual.cell import constant, run
from airdraft.models.profile import EDGE_DRAFT
from airdraft.models.registry import load

UPLINK_MBPS, DOWNLINK_MBPS = 5.0, 100.0
CELLS = [(5.0, 30.0, 50.0), (15.0, 30.0, 5.0), (10.0, 60.0, 200.0)]
"""Times of a draft and of a verification, and round trips, in ms."""


@pytest.fixture(scope="module", params=["made up", pytest.param("pair", marks=pytest.mark.slow)])
def recording(request: pytest.FixtureRequest) -> Recording:
    """Texts at temperature 1, where the draft is wrong most often; and others in which it is so independently."""
    if request.param == "made up":
        return synthetic(0.6, 2, 128, 1, 4096)
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    return record(draft, target, prompts(12), SamplingParams(1.0), 128, 1, tokenizer.vocab_size, "pair").longest(4)


@pytest.mark.parametrize(("draft_ms", "verify_ms", "rtt_ms"), CELLS)
def test_a_prediction_is_what_is_measured_but_for_the_beginning_of_a_text(
    recording: Recording, draft_ms: float, verify_ms: float, rtt_ms: float
) -> None:
    plain = Facts(
        draft_ms / 1e3, verify_ms / 1e3, rtt_ms / 1e3, UPLINK_MBPS * 1e6, DOWNLINK_MBPS * 1e6, recording.acceptance
    )
    helped = replace(plain, edge_draft_s=EDGE_DRAFT * plain.verify_s)
    server, stream = (wire(name, recording.vocab_size) for name in ("server", "stream"))
    setting, tokens = constant(rtt_ms, UPLINK_MBPS, draft_ms, verify_ms, DOWNLINK_MBPS), recording.length
    beginning_s = len(recording.texts) * (plain.rtt_s + plain.verify_s)  # `Open` and its answer, and the prompt is read

    for found, drafts in (
        (predict.server(plain, server), False),
        (predict.best_stream(plain, stream, "always"), False),
        (predict.server(helped, server), True),
    ):
        measured = run(recording, setting, SchemeSpec(found.mode.scheme), drafts=drafts)
        speed = tokens / (tokens / found.tokens_per_s + beginning_s)
        assert speed == pytest.approx(measured.tokens_per_s, rel=0.05)
        drafted = measured.counts.draft_rows / measured.counts.committed
        assert found.device_drafts_per_token == pytest.approx(drafted, rel=0.15)
