"""Predictions against figures known from elsewhere, and against the rules played out token by token."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.control import predict
from airdraft.control.course import cycle
from airdraft.control.facts import wire
from airdraft.core.policy import Facts, Mode
from airdraft.errors import BadParameterError

from ..suites import examples, mostly_slow
from .stream_rules import Stream

SERVER, COUPLED, STREAM, SPLIT = (wire(name, 32000) for name in ("server", "coupled", "stream", "split"))

# Acceptance, draft ms, target ms, RTT ms; tokens/s of server, best rounds, stream, racing; no limit of rate.
KNOWN = [
    (0.6, 5, 30, 20, 33.3, 33.5, 37.2, 41.9),
    (0.8, 5, 30, 5, 33.3, 61.5, 72.9, 73.4),
    (0.8, 5, 30, 50, 33.3, 36.2, 43.7, 51.5),
    (0.8, 5, 30, 200, 33.3, 16.3, 18.8, 36.6),
    (0.9, 10, 60, 50, 16.7, 32.7, 43.8, 45.2),
    (0.9, 15, 30, 200, 33.3, 18.2, 27.0, 37.0),
    (0.8, 30, 30, 50, 33.3, 17.4, 22.9, 33.3),
]


@pytest.mark.parametrize(("alpha", "draft", "verify", "rtt", "server", "rounds", "off", "always"), KNOWN)
def test_known_figures(
    alpha: float, draft: float, verify: float, rtt: float, server: float, rounds: float, off: float, always: float
) -> None:
    facts = Facts(draft / 1e3, verify / 1e3, rtt / 1e3, math.inf, math.inf, alpha)
    assert predict.server(facts, SERVER).tokens_per_s == pytest.approx(server, rel=0.01)
    assert predict.best_rounds(facts, COUPLED).tokens_per_s == pytest.approx(rounds, rel=0.01)
    assert predict.best_stream(facts, STREAM, "off", 64).tokens_per_s == pytest.approx(off, rel=0.06)
    assert predict.best_stream(facts, STREAM, "always", 64).tokens_per_s == pytest.approx(always, rel=0.06)


def some_facts(rng: np.random.Generator) -> Facts:
    return Facts(
        draft_s=rng.uniform(0.002, 0.03),
        verify_s=rng.uniform(0.015, 0.06),
        rtt_s=float(rng.choice([0.0, 0.005, 0.02, 0.05, 0.1, 0.2]) * rng.uniform(0.7, 1.3)),
        uplink_bps=10 ** rng.uniform(5, 7),
        downlink_bps=10 ** rng.uniform(5.5, 8),
        acceptance=rng.uniform(0.3, 0.95),
    )


@pytest.mark.parametrize("race", ["off", "always"])
@pytest.mark.parametrize("seed", mostly_slow(range(16), often=range(4)))
def test_stream_is_what_its_rules_give(race: str, seed: int) -> None:
    rng = np.random.default_rng([seed, race == "off"])
    facts = some_facts(rng)
    least = next(n for n in range(1, 99) if STREAM.packet_bits(n) <= n * facts.draft_s * facts.uplink_bps)
    window, first, then = int(rng.choice([1, 2, 4, 8, 16, 32])), int(rng.integers(1, 5)), least + int(rng.integers(4))
    mode = Mode("stream", window, race, first, then)
    found, played = cycle(facts, STREAM, mode), Stream(facts, STREAM, mode, seed).play(30_000)
    assert found.tokens_per_s == pytest.approx(played.tokens_per_s, rel=0.02)
    assert found.forwards / found.tokens == pytest.approx(played.forwards / played.tokens, rel=0.025)
    assert found.drafts / found.tokens == pytest.approx(played.drafts / played.tokens, rel=0.05)
    # What leaves in vain is the less certain part.
    assert found.uplink_bits / found.tokens == pytest.approx(played.uplink_bits / played.tokens, rel=0.2, abs=16)


@pytest.mark.parametrize("seed", range(6))
def test_rounds_are_what_their_rules_give(seed: int) -> None:
    rng = np.random.default_rng(seed)
    facts, length = some_facts(rng), int(rng.integers(1, 10))
    runs = np.cumprod(rng.random((40_000, length)) < facts.acceptance, axis=1).sum(axis=1)
    down_bits = SPLIT.answer_bits + 8 * SPLIT.reject_bytes * (runs < length)
    seconds = (
        length * facts.draft_s
        + SPLIT.packet_bits(length) / facts.uplink_bps
        + facts.rtt_s
        + facts.verify_s
        + down_bits / facts.downlink_bps
    )
    found = predict.rounds(facts, SPLIT, length)
    assert found.tokens_per_s == pytest.approx((runs + 1).sum() / seconds.sum(), rel=0.01)
    assert found.target_forwards_per_token == pytest.approx(1 / (runs + 1).mean(), rel=0.01)
    assert found.uplink_bits_per_token == pytest.approx(SPLIT.packet_bits(length) / (runs + 1).mean(), rel=0.01)
    assert found.downlink_bits_per_token == pytest.approx(down_bits.sum() / (runs + 1).sum(), rel=0.02)


FACTS = st.builds(
    Facts,
    draft_s=st.floats(0.001, 0.1),
    verify_s=st.floats(0.005, 0.1),
    rtt_s=st.floats(0, 0.5),
    uplink_bps=st.floats(1e4, 1e9) | st.just(math.inf),
    downlink_bps=st.floats(1e5, 1e9) | st.just(math.inf),
    acceptance=st.floats(0, 1),
)


@examples(30)
@given(FACTS, st.sampled_from(["off", "always"]))
def test_a_stream_keeps_within_its_bounds(facts: Facts, race: str) -> None:
    found = predict.best_stream(facts, STREAM, race)
    assert 0 < found.tokens_per_s <= (predict.MAX_DRAFT + 1) / facts.verify_s * (1 + 1e-9)
    assert 1 / (predict.MAX_DRAFT + 1) - 1e-9 <= found.target_forwards_per_token <= 1 + 1e-9
    if race == "off":
        assert found.uplink_bits_per_token * found.tokens_per_s <= facts.uplink_bps * (1 + 1e-9)
    assert found.downlink_bits_per_token * found.tokens_per_s <= facts.downlink_bps * (1 + 1e-9)
    if race == "always":
        assert found.tokens_per_s >= predict.server(facts, SERVER).tokens_per_s * (1 - 1e-9)


@examples(60)
@given(FACTS)
def test_the_best_rounds_are_the_best(facts: Facts) -> None:
    best = predict.best_rounds(facts, SPLIT, 12)
    assert all(predict.rounds(facts, SPLIT, n).tokens_per_s <= best.tokens_per_s for n in range(1, 13))
    assert 1 <= best.mode.length <= 12


def test_ends_of_acceptance() -> None:
    facts = Facts(0.005, 0.03, 0.05, math.inf, math.inf, 1.0)
    assert predict.mean_tokens(1.0, 7) == 8
    assert predict.stream(facts, STREAM, "always", 64).tokens_per_s == pytest.approx(1 / 0.005, rel=0.02)
    never = replace(facts, acceptance=0.0)
    assert predict.stream(never, STREAM, "always", 8).tokens_per_s == pytest.approx(1 / 0.03)
    # One draft in vain for each token: it starts when the last token is known, and a forward follows it.
    assert predict.stream(never, STREAM, "off", 1).tokens_per_s == pytest.approx(1 / (0.05 + 0.005 + 0.03), rel=0.01)


def test_a_useless_draft_changes_nothing_under_race() -> None:
    facts = Facts(0.05, 0.03, 0.02, math.inf, math.inf, 0.8)
    found = predict.best_stream(facts, STREAM, "always")
    assert found.tokens_per_s == pytest.approx(1 / 0.03)
    assert (found.target_forwards_per_token, found.uplink_bits_per_token) == (1, 0)


@pytest.mark.parametrize(
    ("change", "bottleneck"),
    [
        ({"draft_s": 0.2}, "draft"),
        ({"verify_s": 0.5}, "target"),
        ({"rtt_s": 0.8}, "round trip"),
        ({"uplink_bps": 2e3}, "uplink"),
        ({"downlink_bps": 2e3}, "downlink"),
    ],
)
def test_bottlenecks(change: dict[str, float], bottleneck: str) -> None:
    facts = replace(Facts(0.01, 0.03, 0.01, 1e7, 1e8, 0.8), **change)
    assert predict.bottleneck(facts, COUPLED, Mode("coupled", 4)) == bottleneck
    assert predict.bottleneck(facts, STREAM, Mode("stream", 8, "off", 4, 4)) == bottleneck


def test_server_is_bound_by_the_slower_of_target_and_downlink() -> None:
    facts = Facts(0.01, 0.03, 0.3, 1e7, 1e8, 0.8)
    assert predict.server(facts, SERVER) == predict.Prediction(
        Mode("server"), pytest.approx(1 / 0.03), 1.0, 0.0, SERVER.answer_bits
    )
    assert predict.bottleneck(facts, SERVER, Mode("server")) == "target"
    slow_link = replace(facts, downlink_bps=1000)
    slow = predict.server(slow_link, SERVER)
    assert slow.tokens_per_s == pytest.approx(1000 / SERVER.answer_bits)
    assert predict.bottleneck(slow_link, SERVER, Mode("server")) == "downlink"


def test_packets_grow_until_the_uplink_keeps_up() -> None:
    facts = Facts(0.005, 0.03, 0.05, 60e3, 1e8, 0.8)
    mode = predict.best_stream(facts, STREAM, "always").mode
    assert mode.then > 1
    assert STREAM.packet_bits(mode.then) <= mode.then * facts.draft_s * facts.uplink_bps


@pytest.mark.parametrize("race", mostly_slow(["off", "always"], often=("always",)))
def test_more_drafts_may_arrive_than_a_forward_takes(race: str) -> None:
    facts, mode = Facts(0.0005, 0.1, 0.02, math.inf, math.inf, 0.98), Mode("stream", 100, race)
    played = Stream(facts, STREAM, mode, 3, max_draft=predict.MAX_DRAFT).play(200_000)
    assert cycle(facts, STREAM, mode).tokens_per_s == pytest.approx(played.tokens_per_s, rel=0.02)


def test_an_edge_that_drafts_takes_what_has_come_from_the_device_meanwhile() -> None:
    facts = Facts(0.005, 0.03, 0.0, math.inf, math.inf, 0.8, edge_draft_s=0.003)
    alone = predict.server(facts, SERVER).tokens_per_s
    far = predict.best_stream(replace(facts, draft_s=1.0), STREAM, "always")
    assert far.tokens_per_s == pytest.approx(alone, rel=0.001)
    # A device that is as fast as the edge's own model, and has its tokens, goes on while the target runs.
    assert predict.best_stream(replace(facts, draft_s=0.003), STREAM, "always").tokens_per_s > 1.1 * alone
    near = predict.best_stream(facts, STREAM, "always").tokens_per_s
    tree = predict.best_stream(replace(facts, beside=0.6), STREAM, "always").tokens_per_s
    assert alone < near < tree


def test_a_stream_needs_a_window() -> None:
    with pytest.raises(BadParameterError, match="window of a stream is 0"):
        predict.stream(Facts(0.01, 0.03, 0.01, 1e7, 1e8, 0.8), STREAM, "off", 0)
