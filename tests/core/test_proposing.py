"""Proposals at the edge: the text is the target's own whoever proposes what, and each side counts what is its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from airdraft.core.drafting import Ask
from airdraft.core.edge import Help, Limits, Pace, Propose, nobody
from airdraft.core.events import Progress
from airdraft.core.messages import MOST_PROPOSED, Error, SchemeSpec, Tokens
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.proposers import PROPOSERS, USUAL, maker
from airdraft.proposers.draft import EdgeDraft
from airdraft.sim import alone
from airdraft.sim.pair import Pair

from ..suites import examples
from .tables import STREAMS, DeviceSide, EdgeSide, Fickle, alike, drafting, hello, opening, request, table, welcome
from .test_stream import MODES, Anyhow

VOCAB = 6


@dataclass
class Oracle:
    """Knows what the target will write, and proposes so much of it."""

    truth: Sequence[int]
    most: int = 99
    name: str = "oracle"
    right: float = 1.0
    dead: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def propose(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Sequence[int]:
        return self.truth[len(text) + len(drafts) :][: min(self.most, most)]

    def dropped(self, start: int, drafts: Sequence[int]) -> None:
        self.dead.append((start, tuple(drafts)))


class Liar(Oracle):
    """Knows it as well, and proposes anything else."""

    name = "liar"

    def propose(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Sequence[int]:
        return [(token + 1) % VOCAB for token in super().propose(text, drafts, most)]


class Babbler:
    """Proposes more than it may, something else each time, the end of the text among it."""

    name, right = "babbler", 2.0

    def __init__(self) -> None:
        self._random = random.Random(1)  # noqa: S311

    def propose(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Sequence[int]:
        return [self._random.randrange(VOCAB) for _ in range(most + self._random.randrange(9))]

    def dropped(self, start: int, drafts: Sequence[int]) -> None:
        pass


def eager(context: int) -> Help:
    """Make helpers that think their model fast, so that they draft a lot."""
    return lambda draw, pace: EdgeDraft(draw, Pace(1.0, 0.01), context)


class Lost:
    """A helper that wants forwards of anything, and has anything verified."""

    name = "lost"

    def __init__(self) -> None:
        self._random, self._asked = random.Random(2), 0  # noqa: S311

    def want(self, text: Sequence[int], drafts: Sequence[int], proposed: float, most: int) -> Ask | None:
        self._asked += 1
        return None if self._asked % 3 else Ask(0, tuple(text[:1]))

    def told(self, row: np.ndarray) -> None:
        pass

    def instead(self, text: Sequence[int], drafts: Sequence[int], proposed: float, most: int) -> Sequence[int]:
        return [self._random.randrange(VOCAB) for _ in range(self._random.randrange(most + 1))]


def named(name: str, truth: Sequence[int]) -> Propose:
    """Make proposers by the name of their kind. `truth`: prompt and text."""
    kinds: dict[str, Propose] = {
        "none": nobody,
        "usual": maker(USUAL),
        "oracle": lambda *_: [Oracle(truth)],
        "liar": lambda *_: [Liar(truth)],
        "babbler": lambda *_: [Babbler()],
        "lookup, then an oracle": lambda *_: [*maker(("lookup",))((), False), Oracle(truth, 2)],
    }
    return kinds[name] if name in kinds else maker((name,))


KINDS = (*PROPOSERS, "usual", "oracle", "liar", "babbler", "lookup, then an oracle")


@given(data=st.data())
@examples(60)
def test_the_text_is_the_targets_own_whoever_proposes_and_however_events_fall(data: st.DataObject) -> None:
    eos_ids = data.draw(st.sampled_from([(), (5,)]))
    # Steep rows repeat themselves, so that there is something to look up.
    target = table(
        data.draw(st.integers(0, 50)), vocab=VOCAB, scale=data.draw(st.sampled_from([2.5, 9.0])), eos_ids=eos_ids
    )
    draft = alike(target, 9, data.draw(st.sampled_from([0.0, 0.4, 5.0])), data.draw(st.sampled_from([4096, 9])))
    params = data.draw(st.sampled_from([SamplingParams(1.0), SamplingParams(0.0), SamplingParams(0.8, top_k=3)]))
    modes = data.draw(st.lists(st.sampled_from(MODES), min_size=1, max_size=4))
    seed, length = data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 24))
    prompt = (0, 1, 2, 0, 1)[: data.draw(st.integers(1, 5))]
    logprobs = data.draw(st.sampled_from([None, 2]))
    truth = list(alone.write(target, prompt, params, seed, length))
    propose = named(data.draw(st.sampled_from(KINDS)), (*prompt, *truth))
    helping = alike(target, 7, data.draw(st.sampled_from([0.0, 0.4, 5.0])), data.draw(st.sampled_from([4096, 9])))
    help = data.draw(st.sampled_from([None, eager(helping.max_context), lambda draw, pace: Lost()]))
    fails = data.draw(st.booleans())
    world = Anyhow(
        draft, target, data.draw(st.integers(1, 6)), propose=propose, help=help, helping=None if fails else helping
    )
    edited = st.sampled_from([[token] for token in truth] + [[], [0], [1, 2]])
    prediction = sum(data.draw(st.lists(edited, max_size=12)), truth[: data.draw(st.integers(0, 24))])
    asked = Request(
        prompt, SchemeSpec("stream"), params, seed, length, policy=Fickle(modes), logprobs=logprobs,
        prediction=prediction,
    )  # fmt: skip
    world.write(asked, data)
    assert world.tokens == truth
    assert asked.counts.committed == len(truth)
    assert asked.counts.accepted <= asked.counts.drafted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("race", [*STREAMS, "server"])
def test_every_stream_writes_the_targets_own_text(race: str, kind: str) -> None:
    spec, params = STREAMS.get(race, SchemeSpec("server")), SamplingParams(0.9)
    target = table(3, vocab=VOCAB, scale=3.0, eos_ids=(5,))
    for draft in (alike(target, 4), table(5, vocab=VOCAB), alike(target, 4, context=6)):
        for seed in range(3):
            truth = list(alone.write(target, (0, 1), params, seed, 30))
            pair = Pair(draft, target, propose=named(kind, (0, 1, *truth)))
            assert pair.write(request(spec, params, seed, 30, 4)).tokens == truth


def test_an_oracle_at_the_edge_saves_forwards_and_a_liar_costs_none() -> None:
    target = table(3, vocab=VOCAB, scale=2.0)
    truth = list(alone.write(target, (0, 1), SamplingParams(), 7, 40))
    forwards = {}
    for kind in ("none", "oracle", "liar"):
        asked = request(SchemeSpec("server"), seed=7, max_tokens=40)
        assert Pair(table(5, vocab=VOCAB), target, propose=named(kind, (0, 1, *truth))).write(asked).tokens == truth
        forwards[kind] = asked.counts.forwards
        assert asked.counts.raced == asked.counts.committed == 40
    assert forwards == {"none": 40, "oracle": 2, "liar": 40}  # 32 proposals and one token, then the rest


@pytest.mark.parametrize("order", [1, -1])
def test_the_proposer_that_expects_most_is_heard_whatever_the_order(order: int) -> None:
    target = table(3, vocab=VOCAB, scale=2.0)
    truth = list(alone.write(target, (0, 1), SamplingParams(), 7, 40))
    both = [Liar((0, 1, *truth), right=0.5), Oracle((0, 1, *truth))][::order]
    asked = request(SchemeSpec("server"), seed=7, max_tokens=40)
    assert Pair(table(5, vocab=VOCAB), target, propose=lambda *_: both).write(asked).tokens == truth
    assert asked.counts.forwards == 2


def test_proposals_cause_no_forward() -> None:
    """Under `off` the edge waits for a draft, and then a proposal rides along."""
    target = table(3)
    truth = tuple(alone.write(target, (0, 1), SamplingParams(), 7, 8))
    edge = EdgeSide(target, run=False, propose=lambda *_: [Oracle((0, 1, *truth), 2)])
    edge.send(hello(), opening(scheme=STREAMS["off"]))
    edge.forward()  # the prefill
    assert not edge.forwards
    edge.send(drafting((0, 1), truth[:1]))
    assert [(forward.rows, forward.proposed) for forward in edge.forwards] == [(4, 2)]
    (commit,) = edge.forward()
    assert isinstance(commit, Tokens)
    assert (commit.tokens, commit.accepted, commit.drafted) == (truth[1:4], 1, 1)
    assert not edge.forwards


def test_a_proposal_leaves_a_forward_as_spare_as_it_was() -> None:
    edge = EdgeSide(table(3), run=False, propose=lambda *_: [Oracle((0, 1, 2, 3))])
    edge.send(hello(), opening(scheme=STREAMS["idle"]))
    edge.forward()  # the prefill
    (raced,) = edge.forwards
    assert (raced.spare, raced.proposed) == (True, 2)
    edge.send(drafting((0, 1), (3,)))
    latest = edge.machine.latest(raced)
    assert (latest.spare, latest.tokens) == (False, (1, 3, 3))  # the oracle's second token follows the draft


def test_events_say_whose_tokens_were_committed() -> None:
    target = table(3)
    truth = tuple(alone.write(target, (0, 1), SamplingParams(), 7, 8))
    wrong = (truth[4] + 1) % 5
    edge = EdgeSide(target, run=False, propose=lambda *_: [Oracle((0, 1, *truth[:4], wrong))])
    edge.send(hello(), opening(scheme=STREAMS["always"]), drafting((0, 1), truth[:2]))
    edge.forward()  # the prefill
    (commit,) = edge.forward()
    assert isinstance(commit, Tokens)
    assert (commit.accepted, commit.drafted, commit.tokens) == (2, 2, truth[2:5])
    told = [note for note in edge.notes if isinstance(note, Progress)]
    assert told == [Progress(1, 2, 2, 3, 2, raced=False, proposer="oracle", proposed=3, taken=2)]


def test_drafts_in_vain_are_told_to_proposers() -> None:
    target = table(3)
    truth = tuple(alone.write(target, (0, 1), SamplingParams(), 7, 8))
    wrong = (truth[1] + 1) % 5
    oracle = Oracle(())
    edge = EdgeSide(target, run=False, propose=lambda *_: [oracle])
    edge.send(hello(), opening(scheme=STREAMS["off"]))
    edge.forward()  # the prefill
    edge.send(drafting((0, 1), (truth[0], wrong, 3, 4)))
    edge.forward()
    assert oracle.dead == [(3, (wrong, 3, 4))]
    edge.send(drafting((0, 1, truth[0], wrong, 3, 4), (2, 1)))  # it was under way
    assert oracle.dead[1:] == [(6, (2, 1))]


def test_a_text_keeps_room_for_its_last_token_and_an_edge_its_bound() -> None:
    target = table(3)
    truth = tuple(alone.write(target, (0, 1), SamplingParams(), 7, 200))
    edge = EdgeSide(target, Limits(max_draft=500), run=False, propose=lambda *_: [Oracle((0, 1, *truth, *truth))])
    edge.send(hello(), opening(scheme=SchemeSpec("server"), max_tokens=100))
    edge.forward()  # the prefill
    assert [forward.proposed for forward in edge.forwards] == [MOST_PROPOSED]
    edge.forward()
    assert [forward.proposed for forward in edge.forwards] == [100 - MOST_PROPOSED - 2]
    edge.forward()
    assert not edge.forwards


def test_rounds_take_no_proposals() -> None:
    target = table(3, vocab=VOCAB)
    truth = list(alone.write(target, (0, 1), SamplingParams(), 7, 12))
    for spec in (SchemeSpec("coupled"), SchemeSpec("topk")):
        plain, helped = (request(spec, seed=7, max_tokens=12, draft_length=3) for _ in range(2))
        draft = alike(target, 4)
        alone_, with_ = Pair(draft, target), Pair(draft, target, propose=named("oracle", (0, 1, *truth)))
        assert alone_.write(plain).tokens == with_.write(helped).tokens
        assert plain.counts == helped.counts


def test_a_prediction_travels_and_is_followed_and_goes_on_with_a_resumed_text() -> None:
    target = table(3, vocab=VOCAB, scale=2.0)
    truth = list(alone.write(target, (0, 1), SamplingParams(), 7, 60))
    pair = Pair(table(5, vocab=VOCAB), target, propose=maker(USUAL))
    forwards = {}
    for committed in (0, 25):
        for prediction in ((), truth):
            spec = SchemeSpec("server")
            asked = Request((0, 1), spec, SamplingParams(), 7, 60, committed=truth[:committed], prediction=prediction)
            assert pair.write(asked).tokens == truth[committed:]
            forwards[committed, len(prediction)] = asked.counts.forwards
    assert forwards[0, 60] < 0.2 * forwards[0, 0]
    assert forwards[25, 60] < 0.4 * forwards[25, 0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"predicted": 4096}, "context"),
        ({"predicted": 9}, "garbage"),
        ({"predicted": 1, "prediction": b"\xff"}, "garbage"),
        ({"prediction": b"\x00"}, "garbage"),
    ],
)
def test_a_prediction_that_is_none_is_refused_and_costs_nobody_else(change: dict[str, object], code: str) -> None:
    edge = EdgeSide(table(3), propose=maker(USUAL))
    (_, error) = edge.send(hello(), structs.replace(opening(scheme=STREAMS["always"]), **change))
    assert isinstance(error, Error)
    assert (error.session, error.code) == (1, code)
    assert not edge.machine.closed
    assert any(isinstance(answer, Tokens) for answer in edge.send(opening(2, scheme=STREAMS["always"])))


@pytest.mark.parametrize(
    ("prediction", "scheme", "why"),
    [
        ((5,), "stream", "the prediction holds an id outside the vocabulary of 5"),
        ((-1,), "server", "the prediction holds an id"),
        ((1,) * 64, "stream", "the prediction is 64 tokens, the target's context is 64; shorten the prediction"),
        ((1,), "topk", "of no use to topk; ask for auto, stream or server"),
    ],
)
def test_a_device_refuses_a_prediction_before_it_sends_anything(
    prediction: tuple[int, ...], scheme: str, why: str
) -> None:
    device = DeviceSide(table(1), welcome())
    with pytest.raises(BadParameterError, match=why) as refused:
        device.open(Request((0, 1), SchemeSpec(scheme), SamplingParams(), 1, 5, prediction=prediction))
    assert refused.value.field == "prediction"
    assert not device.machine.take()
