"""Drafters without a model or with nothing to propose, and the edge's reaction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from airdraft.control.machine import device_machine
from airdraft.core.drafting import Drafter, ModelDrafter
from airdraft.core.events import Committed, Finished, Forward
from airdraft.core.messages import Draft, SchemeSpec, Tokens
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Guess
from airdraft.sim import alone

from .tables import DeviceSide, EdgeSide, drafting, hello, opening, request, table

TARGET = table(2)
PROMPT = (0, 1)
LENGTH = 12
STREAM_OFF = SchemeSpec("stream", race="off")
SPECS = {
    "coupled": SchemeSpec("coupled"),
    **{race: SchemeSpec("stream", race=race) for race in ("off", "idle", "always")},
}


def targets_own(seed: int = 7) -> list[int]:
    return list(alone.write(TARGET, PROMPT, SamplingParams(), seed, LENGTH))


class Copying:
    """A drafter that copies a known continuation, `reach` tokens at a time, and proposes nothing beyond it."""

    def __init__(self, source: Sequence[int], reach: int = 3, mute: range = range(0)) -> None:
        self.source, self.reach, self.mute = [*PROMPT, *source], reach, mute
        self.cuts: list[int] = []

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int, at: object = None) -> Sequence[Guess]:
        at = len(text) + len(drafts)
        known = [*text, *drafts] == self.source[:at]
        return self.source[at : at + min(most, self.reach)] if known and at not in self.mute else ()

    def told(self, row: object) -> Sequence[Guess]:
        raise AssertionError("no row was asked for")

    def cut(self, at: int) -> None:
        self.cuts.append(at)


def written(drafter: Drafter, spec: SchemeSpec, draft_length: int = 4) -> tuple[list[int], DeviceSide, list[Draft]]:
    """Return the text over the wire, the device, and the drafts that it sent."""
    edge, device = EdgeSide(TARGET), DeviceSide(table(1))
    device.machine = device_machine(hello(), 4096, now=0.0, drafter=lambda: drafter)
    device.send(*edge.feed(device.machine.take()))
    device.events.clear()
    up, drafts = device.open(request(spec, max_tokens=LENGTH, draft_length=draft_length)), list[Draft]()
    for _ in range(100):
        drafts += [message for message in up if isinstance(message, Draft)]
        if any(isinstance(event, Finished) for event in device.events):
            break
        up = device.send(*edge.send(*up))
    tokens = [token for event in device.events if isinstance(event, Committed) for token in event.tokens]
    return tokens, device, drafts


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_copying_drafter_writes_the_targets_text_without_a_draft_model(spec: SchemeSpec) -> None:
    own = targets_own()
    tokens, device, drafts = written(Copying(own), spec)
    assert tokens == own
    assert device.forwards == []
    assert sum(draft.count for draft in drafts) > 0
    accepted = sum(event.accepted for event in device.events if isinstance(event, Committed))
    # Several guesses at a time are right. An edge that races is ahead of them here, where nothing takes time.
    assert accepted >= (LENGTH // 2 if spec.race == "off" or spec.name == "coupled" else 1)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("mute", [range(2, 100), range(4, 7), range(0)])
def test_who_has_nothing_to_say_holds_nobody_up(spec: SchemeSpec, mute: range) -> None:
    own = targets_own()
    tokens, _, drafts = written(Copying(own, mute=mute), spec)
    assert tokens == own
    if mute and spec.name == "stream":
        # It is sent once, and again only after drafts.
        assert [draft.count for draft in drafts].count(0) >= 1
        assert not any(a.count == b.count == 0 for a, b in itertools.pairwise(drafts))


def test_a_copy_that_is_wrong_costs_speed_only() -> None:
    own = targets_own()
    wrong = [*own[:3], (own[3] + 1) % 5, *own[4:]]
    drafter = Copying(wrong)
    tokens, device, _ = written(drafter, STREAM_OFF)
    assert tokens == own
    assert drafter.cuts[0] == len(PROMPT) + 3
    assert device.machine.learner.facts().acceptance < 1


def test_an_edge_that_was_told_to_go_on_waits_again_after_the_next_drafts() -> None:
    edge = EdgeSide(TARGET)
    edge.send(hello())

    own = targets_own()
    opened = edge.send(opening(scheme=STREAM_OFF, max_tokens=LENGTH))
    assert not any(isinstance(message, Tokens) for message in opened)  # it waits
    edge.run = False
    assert edge.send(drafting(PROMPT, ())) == []
    (first,) = edge.forward()  # it writes on alone
    assert isinstance(first, Tokens)
    assert (first.tokens, first.drafted) == ((own[0],), 0)
    assert isinstance(edge.forwards[0], Forward)
    edge.send(drafting((*PROMPT, 0, 0), (0,), seq=2))  # of a dead branch, but the device is back
    (second,) = edge.forward()  # the forward that was under way
    assert isinstance(second, Tokens)
    assert not edge.forwards  # and now it waits


def test_a_model_drafter_feeds_what_it_has_not_seen() -> None:
    drafter = ModelDrafter()
    ask = drafter.want([1, 2, 3], [], 4)
    assert (ask.keep, ask.tokens) == (0, (1, 2, 3))
    assert len(drafter.told(table(1).row((1, 2, 3)))) == 1
    ask = drafter.want([1, 2, 3], [4], 4)
    assert (ask.keep, ask.tokens) == (3, (4,))
    drafter.cut(3)  # another token stands where 4 was drafted
    assert drafter.told(table(1).row((1, 2, 3, 4))) == ()
    ask = drafter.want([1, 2, 3, 0], [], 4)
    assert (ask.keep, ask.tokens) == (3, (0,))


class Babbling(ModelDrafter):
    """A drafter that asks for one row and answers with many guesses."""

    def told(self, row: np.ndarray) -> Sequence[Guess]:
        return [*super().told(row), 0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_more_guesses_than_were_asked_for_are_left_out(spec: SchemeSpec) -> None:
    tokens, _, drafts = written(Babbling(), spec, draft_length=2)
    assert tokens == targets_own()
    assert max(draft.count for draft in drafts) <= 2
