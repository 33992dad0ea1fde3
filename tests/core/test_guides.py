"""Guided texts are the target's own under the same guide, however they are drafted, proposed, raced and resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from airdraft.core.edge import EdgeMachine, Limits, Target
from airdraft.core.events import Compile, Failed, Forward
from airdraft.core.law import Guide, Law, Place
from airdraft.core.messages import GuideSpec, SchemeSpec, encode
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, Code, GuideError, RefusedError, RemoteProtocolError
from airdraft.proposers import USUAL, maker
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel, chi_squared
from airdraft.sim.pair import Pair

from ..suites import examples, mostly_slow
from .tables import SPECS, STREAMS, Fickle, alike, drafting, hello, opening, table
from .test_proposing import KINDS, eager, named
from .test_stream import MODES, Anyhow

VOCAB, EOS = 6, 5
OTHERS = [name for name in SPECS if name not in ("coupled", "server")]
SPEC = GuideSpec("lark", "a grammar")


class Steps:
    """A grammar: no token follows itself, 1 follows 3, and after so many tokens the text ends."""

    bent, within, needed = Guide.bent, Guide.within, Guide.needed

    def __init__(self, left: int = 12, last: int = -1) -> None:
        self._left, self._last = left, last
        self.forced: int | None = EOS if left == 0 else 1 if last == 3 else None

    def allowed(self) -> Any:
        if self._last == EOS:
            return None
        known = np.arange(VOCAB)
        return known == self.forced if self.forced is not None else known != self._last

    def after(self, token: int) -> Guide:
        allowed = self.allowed()
        if allowed is not None and not allowed[token]:
            raise RemoteProtocolError(Code.STATE, f"token {token} is not allowed")
        return Steps(self._left - 1, token)


def model(seed: int = 2) -> TableModel:
    return table(seed, vocab=VOCAB, scale=2.0, eos_ids=(EOS,))


def asking(scheme: SchemeSpec, params: SamplingParams, seed: int, **changes: Any) -> Request:
    return Request((0, 1, 2), scheme, params, seed, 20, 4, guide=SPEC, **changes)


@given(data=st.data())
@examples(60)
def test_a_guided_text_is_the_targets_own_however_events_fall(data: st.DataObject) -> None:
    target = model(data.draw(st.integers(0, 50)))
    draft = alike(target, 9, data.draw(st.sampled_from([0.0, 0.4, 5.0])), data.draw(st.sampled_from([4096, 12])))
    params = data.draw(st.sampled_from([SamplingParams(1.0), SamplingParams(0.0), SamplingParams(0.7, top_k=2)]))
    modes = data.draw(st.lists(st.sampled_from(MODES), min_size=1, max_size=4))
    seed, length = data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 16))
    guide, prompt = Steps(data.draw(st.integers(0, 12))), (0, 1, 2)
    truth = list(alone.write(target, prompt, params, seed, length, guide=guide))
    trees = data.draw(st.booleans())
    world = Anyhow(
        draft, target, data.draw(st.integers(1, 8)), propose=named(data.draw(st.sampled_from(["none", *KINDS])), truth),
        trees=trees, wide=trees and data.draw(st.booleans()), guide=guide,
    )  # fmt: skip
    committed = data.draw(st.integers(0, max(0, len(truth) - 1)))  # as after a lost connection
    asked = Request(
        prompt, SchemeSpec("stream"), params, seed, length, policy=Fickle(modes), committed=truth[:committed],
        guide=SPEC, logprobs=data.draw(st.sampled_from([None, 2])),
    )  # fmt: skip
    world.write(asked, data)
    assert world.tokens == truth[committed:]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", [*STREAMS, "coupled", "server"])
def test_a_scheme_that_keeps_the_text_keeps_the_guided_one(name: str, temperature: float) -> None:
    spec, params, target = {**SPECS, **STREAMS}[name], SamplingParams(temperature), model()
    for trees, lookup in ((False, False), (True, False), (False, True)):
        pair = Pair(
            alike(target, 4), target, trees=trees, lookup=lookup, read=lambda *_: Steps(),
            propose=maker(("lookup", "salvage")),
        )  # fmt: skip
        for seed in range(4):
            text = pair.write(asking(spec, params, seed))
            assert text.tokens == list(alone.write(target, (0, 1, 2), params, seed, 20, guide=Steps()))
            assert text.reason == "stop"


@pytest.mark.parametrize("name", OTHERS)
def test_at_temperature_0_every_scheme_writes_the_targets_own(name: str) -> None:
    target, params = model(), SamplingParams(0.0)
    pair = Pair(alike(target, 4), target, read=lambda *_: Steps())
    text = pair.write(asking(SPECS[name], params, 3)).tokens
    assert text == list(alone.write(target, (0, 1, 2), params, 3, 20, guide=Steps()))


@pytest.mark.parametrize("name", mostly_slow(OTHERS, ("dense-block",)))
def test_a_guided_text_is_distributed_as_the_targets_own(name: str) -> None:
    target = model()
    pair, law = Pair(alike(target, 4), target, read=lambda *_: Steps(2)), Law(SamplingParams(), 0, VOCAB)
    written = (pair.write(asking(SPECS[name], SamplingParams(), seed)).tokens for seed in range(150))
    seen = Counter(map(tuple, written))

    def texts(before: tuple[int, ...], at: Place) -> dict[tuple[int, ...], float]:
        probs, found = law.probs(target.row(before), at), dict[tuple[int, ...], float]()
        for token in np.flatnonzero(probs).tolist():
            rest = {(): 1.0} if token == EOS else texts((*before, token), at.then(token))
            found |= {(token, *more): float(probs[token]) * chance for more, chance in rest.items()}
        return found

    expected = texts((0, 1, 2), Place(3, Steps(2)))
    assert seen.keys() <= expected.keys()
    assert chi_squared(seen, expected, 150).p_value > 1e-4


def test_forced_tokens_take_no_forward_of_the_draft_and_few_of_the_target() -> None:
    class Fixed(Steps):
        """One text of sixteen tokens."""

        def __init__(self, left: int = 16) -> None:
            super().__init__(left)
            self.forced = EOS if left == 0 else left % 5

        def after(self, token: int) -> Guide:
            return Fixed(self._left - 1)

    target, params = model(), SamplingParams()
    for spec in (*STREAMS.values(), SPECS["server"], SPECS["coupled"], SPECS["dense"]):
        asked = asking(spec, params, 1)
        pair = Pair(model(7), target, limits=Limits(max_draft=16), read=lambda *_: Fixed())
        assert pair.write(asked).tokens == list(alone.write(target, (0, 1, 2), params, 1, 20, guide=Fixed()))
        assert asked.counts.draft_rows == 0
        assert asked.counts.forwards <= (6 if spec in (SPECS["coupled"], SPECS["dense"]) else 2), spec


def test_a_device_refuses_an_edge_without_guides_before_it_sends_anything() -> None:
    pair = Pair(model(), model())
    with pytest.raises(BadParameterError, match="takes no guides") as caught:
        pair.device.open(asking(SPECS["coupled"], SamplingParams(), 1), 0.0, Steps())
    assert not pair.device.take()
    assert caught.value.field == "guide"


def test_an_edge_that_forgets_the_guide_is_caught() -> None:
    class Forgetful:
        forced, bent, within, needed = None, Guide.bent, Guide.within, Guide.needed

        def allowed(self) -> None:
            return None

        def after(self, token: int) -> Guide:
            return self  # type: ignore[return-value]

    guides: list[Any] = [Steps(), Forgetful()] * 20  # the device's, and the edge's
    pair = Pair(alike(model(), 4), model(), read=lambda *_: guides.pop(0))

    def write() -> None:
        for seed in range(10):
            pair.write(asking(SPECS["coupled"], SamplingParams(), seed))

    with pytest.raises(RefusedError, match="not allowed"):
        write()


class Hostile:
    """An edge's machine, and bytes that a device sends it."""

    def __init__(self, guides: str = "some") -> None:
        self.edge = EdgeMachine(Target("a", "t", bytes(16), VOCAB, 64, (EOS,), guides=guides), Limits(), now=0.0)
        self.sends(hello(VOCAB))

    def sends(self, *messages: Any) -> list[Any]:
        return [event for message in messages for event in self.edge.receive(encode(message), 0.0)]

    def opens(self, tokens: Sequence[int] = (0, 1), prompt: int = 2) -> list[Any]:
        message = opening(tokens=tuple(tokens), vocab=VOCAB)
        return self.sends(structs.replace(message, guide=SPEC, prompt_length=prompt))


def test_an_edge_takes_drafts_while_it_reads_a_guide_and_closes_cleanly() -> None:
    side = Hostile()
    events = side.opens()
    assert [type(event) for event in events if isinstance(event, Forward | Compile)] == [Forward, Compile]
    side.sends(drafting((0, 1), (2, 2), vocab=VOCAB))  # the second is forbidden
    assert side.edge.forwarded(1, np.zeros((0, VOCAB)), 0.0) == []
    [forward] = [each for each in side.edge.guided(1, Steps(), 0.0) if isinstance(each, Forward)]
    assert forward.tokens == (1, 2, 2)
    side.edge.forwarded(1, np.zeros((3, VOCAB), np.float32), 0.0)
    assert len(side.edge.text(1)) in (3, 4)
    assert side.edge.guided(2, Steps(), 0.0) == []  # a text that is gone


def test_an_edge_refuses_what_a_guide_forbids_or_where_it_takes_none() -> None:
    assert not any(isinstance(event, Compile) for event in Hostile("").opens())
    side = Hostile()
    side.opens((0, 1, 2, 2), prompt=2)
    [failed] = [event for event in side.edge.guided(1, Steps(), 0.0) if isinstance(event, Failed)]
    assert failed.code == Code.STATE


class Tired(Steps):
    """A grammar whose reader gives up."""

    def allowed(self) -> Any:
        raise GuideError("the guide is too much for its reader; ask for a simpler one")

    def after(self, token: int) -> Guide:
        raise GuideError("the guide is too much for its reader; ask for a simpler one")


def test_a_guide_that_gives_up_ends_its_text_and_not_the_connection() -> None:
    guides: list[Any] = [Tired(), Steps(), Steps(), Steps()]  # the device's, and the edge's, of two texts
    pair = Pair(alike(model(), 4), model(), read=lambda *_: guides.pop(0))
    asked = asking(SPECS["server"], SamplingParams(), 1)
    with pytest.raises(RefusedError, match="too much for its reader") as caught:
        pair.write(asked)
    assert caught.value.code == Code.GUIDE
    assert pair.write(asked).tokens == list(alone.write(model(), (0, 1, 2), SamplingParams(), 1, 20, guide=Steps()))


def test_the_time_that_a_guide_takes_to_read_is_no_forwards() -> None:
    side = Hostile()
    side.opens()
    side.edge.forwarded(1, np.zeros((0, VOCAB)), 0.25)
    side.sends(drafting((0, 1), (2,), vocab=VOCAB))
    assert any(isinstance(each, Forward) for each in side.edge.guided(1, Steps(), 8.0))
    side.edge.forwarded(1, np.zeros((2, VOCAB), np.float32), 8.5)
    assert side.edge.verify_s == 0.5


class Trap(Steps):
    """A grammar that allows all, whose reader gives up behind one token."""

    def __init__(self, trap: int, last: int = -1) -> None:
        self._trap, self._last = trap, last

    @property
    def forced(self) -> int | None:  # type: ignore[override]
        if self._last == self._trap:
            raise GuideError("the guide is too much for its reader; ask for a simpler one")
        return None

    def allowed(self) -> Any:
        return None

    def after(self, token: int) -> Guide:
        return Trap(self._trap, token)


@pytest.mark.parametrize("who", ["model", "tree", "copies", "edge"])
@pytest.mark.parametrize("scheme", ["coupled", "stream"])
def test_a_guide_that_gives_up_behind_drafts_ends_no_text_that_does_not_come_there(scheme: str, who: str) -> None:
    """Whoever drafts: only what is drafted ends there."""
    target, tried, prompt = model(), 0, (0, 1, 2, 3, 0, 1, 2)
    drafter: dict[str, Any] = {
        "model": {},
        "tree": {"trees": True},
        "copies": {"lookup": True, "propose": maker(USUAL)},
        "edge": {"help": eager(64), "helping": alike(target, 7)},
    }[who]
    for seed in range(12):
        truth = list(alone.write(target, prompt, SamplingParams(), seed, 20))
        for trap in {*range(EOS)} - {*truth}:
            pair, tried = Pair(alike(target, 4), target, read=lambda *_, at=trap: Trap(at), **drafter), tried + 1
            asked = replace(asking(SchemeSpec(scheme), SamplingParams(), seed), prompt=prompt)
            assert pair.write(asked).tokens == truth
    assert tried > 5


@pytest.mark.parametrize("scheme", ["coupled", "stream"])
def test_where_a_guide_gives_up_at_once_nobody_drafts_and_the_edge_says_so(scheme: str) -> None:
    pair = Pair(alike(model(), 4), model(), lookup=True, read=lambda *_: Trap(2, 2))
    with pytest.raises(GuideError, match="too much for its reader"):  # its driver ends the text by that
        pair.write(asking(SchemeSpec(scheme), SamplingParams(), 1))
