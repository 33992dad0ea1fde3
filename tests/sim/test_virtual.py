"""In virtual time the real machines run, and the clock agrees with calculations by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from airdraft.control.auto import Auto
from airdraft.control.machine import device_machine
from airdraft.core.edge import EdgeMachine, Limits, Target
from airdraft.core.messages import VERSION, Hello, SchemeSpec
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import RefusedError
from airdraft.link.base import LinkModel
from airdraft.link.const import ConstLink
from airdraft.link.markov2 import Markov2Link
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel
from airdraft.sim.virtual import Compute, Span, Virtual

from ..core.tables import alike, table

FREE = ConstLink(math.inf, math.inf, 0.0)
TARGET = table(3, vocab=12, scale=2.0)


def world(
    link: LinkModel = FREE,
    compute: Compute | None = None,
    draft: TableModel | None = None,
    target: TableModel = TARGET,
    spans: list[Span] | None = None,
) -> Virtual:
    draft = draft or alike(target, 4, 0.3)
    identity = Target("test", "t", bytes(16), target.vocab_size, target.max_context, target.eos_ids)
    device = device_machine(Hello(VERSION, "test", "d", bytes(16), draft.vocab_size), draft.max_context, 0.0)
    edge = EdgeMachine(identity, Limits(), 0.0)
    return Virtual(device, edge, draft, target, link, compute or Compute(0.01, 0.03), spans)


def request(
    name: str = "stream", tokens: int = 24, seed: int = 1, length: int | None = None, **more: object
) -> Request:
    return Request((0, 1), SchemeSpec(name), SamplingParams(0.9), seed, tokens, length, **more)  # type: ignore[arg-type]


def test_server_streaming_takes_one_forward_a_token_and_half_a_round_trip_each_way() -> None:
    text = world(ConstLink(math.inf, math.inf, 0.08)).write(request("server", 10))
    # Up, the prefill and ten forwards, down.
    assert text.ended_s - text.began_s == pytest.approx(0.04 + 11 * 0.03 + 0.04)
    assert text.counts == Counts(forwards=10, raced=10, committed=10)


def test_a_round_is_its_drafts_a_round_trip_and_a_forward() -> None:
    text = world(ConstLink(math.inf, math.inf, 0.08), Compute(0.01, 0.03), draft=TARGET).write(
        request("coupled", 15, length=4)
    )
    # All are accepted: five tokens a round, three rounds; the prefill runs while the first draft is made and sent.
    assert text.counts.rounds == 3
    assert text.ended_s - text.began_s == pytest.approx(3 * (0.04 + 0.08 + 0.03), abs=0.012)


@pytest.mark.parametrize("race", ["off", "idle", "always"])
def test_a_perfect_draft_is_never_waited_for_twice(race: str) -> None:
    spec = SchemeSpec("stream", race=race)
    text = world(ConstLink(math.inf, math.inf, 0.2), draft=TARGET).write(
        Request((0, 1), spec, SamplingParams(0.9), 1, 200, 60)
    )
    rate = 200 / (text.ended_s - text.began_s)
    assert rate > 200 / (200 * 0.01 + 0.2 + 2 * 0.03)  # what drafting takes, one round trip, the last forwards
    assert text.counts.rejected == 0


@pytest.mark.parametrize("link", [FREE, ConstLink(1e5, 1e6, 0.05), Markov2Link(2e6, 6e6, seed=3)])
@pytest.mark.parametrize("name", ["server", "coupled", "stream", "auto"])
def test_the_text_is_the_targets_own_over_any_link(name: str, link: LinkModel) -> None:
    here = world(link)
    for seed in range(4):
        policy = Auto(12) if name == "auto" else None
        asked = request("stream" if name == "auto" else name, 40, seed, policy=policy)
        text = here.write(asked)
        assert text.tokens == list(alone.write(TARGET, (0, 1), SamplingParams(0.9), seed, 40))
        assert sum(len(event.tokens) for _, event in text.commits) == 40
        times = [at_s for at_s, _ in text.commits]
        assert times == sorted(times)


def test_the_same_world_gives_the_same_times() -> None:
    runs = [world(ConstLink(1e5, 1e6, 0.05)).write(request()).commits for _ in range(2)]
    assert runs[0] == runs[1]


def test_resources_are_never_busier_than_the_clock() -> None:
    spans: list[Span] = []
    here = world(ConstLink(5e4, 1e6, 0.02), spans=spans)
    here.write(request(tokens=60))
    assert all(0 < busy_s <= here.now for busy_s in here.busy_s.values())
    for lane in ("device", "edge"):
        lanes = [span for span in spans if span.lane == lane]
        assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(lanes))
    assert {span.lane for span in spans} == {"device", "edge", "uplink", "downlink"}


def test_texts_follow_each_other_though_a_forward_of_the_last_one_still_runs() -> None:
    here = world(ConstLink(math.inf, math.inf, 0.3))
    for seed in range(5):
        text = here.write(request(tokens=6, seed=seed, length=9))
        assert text.tokens == list(alone.write(TARGET, (0, 1), SamplingParams(0.9), seed, 6))


def test_a_refusal_is_raised() -> None:
    with pytest.raises(RefusedError, match="vocabulary"):
        world(draft=table(1, vocab=12), target=TableModel(TARGET.row, 11))
