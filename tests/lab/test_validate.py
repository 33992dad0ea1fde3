"""Virtual time against the wall clock: what is compared, and the verdict. The slow test does it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from airdraft import local
from airdraft.core.messages import SchemeSpec
from airdraft.edge.server import EdgeServer
from airdraft.errors import BadParameterError
from airdraft.lab.virtual import cell, validate
from airdraft.lab.virtual.validate import (
    CHECKS,
    FEW,
    MANY,
    OVERHEAD_PROFILE,
    Check,
    Checked,
    Overhead,
    ShippedPair,
    Validation,
    WallText,
)
from airdraft.models.base import OneByOne
from airdraft.models.profile import profile
from airdraft.models.registry import load


@pytest.fixture(scope="module")
def pair() -> ShippedPair:
    return ShippedPair(texts=2, tokens=24)


def at_full_speed(pair: ShippedPair, check: Check) -> list[WallText]:
    """What device and edge write over a socket, in one event loop."""

    async def both() -> list[WallText]:
        model, tokenizer = load("target")
        async with EdgeServer(OneByOne(model), tokenizer.digest, tokenizer.vocab_size) as server:
            await server.start("127.0.0.1", 0)
            _, texts = await pair.wall(f"ws://127.0.0.1:{server.port}", check)
            return texts

    return asyncio.run(both())


@pytest.mark.parametrize(("scheme", "length"), [("topk", 3), ("split", 2), ("dense", 1)])
def test_a_replay_has_the_luck_of_the_real_run(scheme: str, length: int, pair: ShippedPair) -> None:
    check = Check("none", 0.0, 1e3, scheme, length)
    texts = at_full_speed(pair, check)
    # A replay does not know of an end of text: its last token is written by the edge.
    accepted = sum(sum(text.accepted[:-1]) for text in texts)
    assert 0 < accepted < sum(len(text.tokens) for text in texts)
    replayed = cell.run(
        pair.recording_for(check, texts), cell.constant(1, 1e3, 1, 1), SchemeSpec(scheme), length=length
    )
    assert replayed.identical
    assert replayed.counts.accepted == accepted
    assert replayed.counts.committed == sum(len(text.tokens) for text in texts)


@pytest.mark.parametrize(("scheme", "length"), [("server", None), ("coupled", 3), ("stream/always", None)])
def test_under_shared_noise_the_recorded_texts_come_out(scheme: str, length: int | None, pair: ShippedPair) -> None:
    check = Check("none", 0.0, 1e3, scheme, length)
    texts = at_full_speed(pair, check)
    assert [text.tokens for text in texts] == [text.tokens for text in pair.recording.texts]
    assert pair.recording_for(check, texts) is pair.recording
    if scheme == "coupled":
        replayed = cell.run(pair.recording, cell.constant(1, 1e3, 1, 1), check.spec, length=length)
        assert replayed.counts.accepted == sum(sum(text.accepted[:-1]) for text in texts)


def test_overheads_slow_a_replay(pair: ShippedPair) -> None:
    server = Check("phone-8b", 20.0, 20.0, "server")
    bare, slower = (pair.virtual(server, [], added) for added in (Overhead(), Overhead(1.0, 0.003)))
    assert slower == pytest.approx(bare * 30 / 33, rel=0.02)
    rounds = Check("phone-8b", 20.0, 20.0, "coupled", 3)
    bare, slower = (pair.virtual(rounds, [], added) for added in (Overhead(), Overhead(0.002, 0.0)))
    assert slower == pytest.approx(bare * 95 / 101, rel=0.02)


@pytest.mark.slow
@pytest.mark.alone
def test_overheads_are_measured(pair: ShippedPair) -> None:
    """Bounds that a busy machine keeps: how long a wait overshoots is the machine's."""
    found = asyncio.run(pair.overhead())
    assert -0.005 < found.verify_s < 1.0
    assert -0.1 < found.draft_s < 1.0


def test_overheads_are_what_is_beyond_the_pace(pair: ShippedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = profile(OVERHEAD_PROFILE)
    asked: list[Check] = []

    async def between(self: ShippedPair, url: str, check: Check) -> list[float]:
        assert url == "the edge"
        asked.append(check)
        drafted_s = 0.0 if check.length is None else 0.5 + check.length * (pace.draft_s + 0.002)
        taken_s = drafted_s or pace.target_s + 0.003
        return [taken_s, 9.0, taken_s, 0.0, taken_s]  # a median heeds neither of the others

    @asynccontextmanager
    async def edge(target: str, name: str, **_: object) -> AsyncIterator[str]:
        assert (target, name) == ("target", OVERHEAD_PROFILE)
        yield "the edge"

    monkeypatch.setattr(ShippedPair, "_between_commits", between)
    monkeypatch.setattr(local, "edge", edge)
    found = asyncio.run(pair.overhead())
    assert (found.draft_s, found.verify_s) == (pytest.approx(0.002), pytest.approx(0.003))
    assert [(check.profile, check.rtt_ms, check.scheme, check.length) for check in asked] == [
        (OVERHEAD_PROFILE, 0.0, "server", None), (OVERHEAD_PROFILE, 0.0, "coupled", FEW),
        (OVERHEAD_PROFILE, 0.0, "coupled", MANY),
    ]  # fmt: skip


def test_the_checks() -> None:
    assert len(CHECKS) >= 8
    assert ("server", OVERHEAD_PROFILE) not in [(check.scheme, check.profile) for check in CHECKS]
    assert {check.scheme for check in CHECKS} >= {"server", "coupled", "topk", "split", "stream/off", "auto"}
    places = [check.place for check in CHECKS]
    assert len(set(places)) == 1 + sum(a != b for a, b in pairwise(places))  # started once each
    assert all(profile(check.profile).draft_s for check in CHECKS)
    assert CHECKS[0].spec == SchemeSpec("server")
    assert Check("none", 0, 1, "stream/off").spec == SchemeSpec("stream", race="off")
    assert Check("none", 0, 1, "auto").spec == SchemeSpec("stream")


def validation(*errors: float) -> Validation:
    check = Check("phone-8b", 20.0, 5.0, "coupled", 3)
    return Validation(Overhead(4e-4, 5e-4), [Checked(check, 20.0, 20.0 * (1 + error), 22.0, True) for error in errors])


@pytest.mark.parametrize(
    ("errors", "held"),
    [
        ((0.01, -0.02, 0.03), True),
        ((0.01, 0.02, -0.19), True),
        ((0.01, 0.02, 0.21), False),
        ((-0.09, 0.01, -0.1), False),
    ],
)
def test_the_verdict(errors: tuple[float, ...], held: bool) -> None:
    found = validation(*errors)
    sizes = sorted(map(abs, errors))
    assert (found.median_error, found.worst_error) == (pytest.approx(sizes[1]), pytest.approx(sizes[2]))
    assert found.held is held
    record = found.record()
    assert record["held"] is held
    assert (record["median_bar"], record["worst_bar"]) == (0.08, 0.20)
    first = record["cells"][0]
    assert first["error"] == pytest.approx(errors[0])
    assert first["error_without_overhead"] == pytest.approx(0.1)
    assert (first["scheme"], first["length"], first["draft_ms"], first["verify_ms"]) == ("coupled", 3, 15.0, 30.0)


def test_texts_that_must_be_the_recorded_ones_and_are_not() -> None:
    place = ("phone-8b", 20.0, 5.0)
    for scheme, held in (("coupled", False), ("stream/always", False), ("auto", False), ("topk", True)):
        found = Validation(Overhead(), [Checked(Check(*place, scheme, 3), 20.0, 20.1, 20.2, identical=False)])
        assert found.held is held
        assert [check.scheme for check in found.others] == ([] if held else [scheme])


def test_nothing_to_check(pair: ShippedPair) -> None:
    with pytest.raises(BadParameterError, match="give at least one cell"):
        asyncio.run(validate.validate(pair, []))


@pytest.mark.slow
@pytest.mark.alone
def test_real_processes(pair: ShippedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the bars of the command, which times itself: how fast a machine is says nothing of the code."""
    measured = Overhead(0.001, 0.002)

    async def overhead(self: ShippedPair) -> Overhead:
        return measured

    monkeypatch.setattr(ShippedPair, "overhead", overhead)
    checks = (Check("phone-8b", 20.0, 20.0, "server"), Check("phone-8b", 20.0, 20.0, "split", 2))
    heard: list[Check] = []
    on_check: Callable[[Check], None] = heard.append
    found = asyncio.run(validate.validate(pair, checks, on_check))
    assert found.overhead is measured
    assert heard == list(checks)
    assert [each.check for each in found.found] == heard
    assert found.found[0].identical
    assert all(min(each.wall_tokens_per_s, each.virtual_tokens_per_s) > 0 for each in found.found)
    assert all(each.bare_tokens_per_s > each.virtual_tokens_per_s for each in found.found)
