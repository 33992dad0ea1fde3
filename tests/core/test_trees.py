"""Trees of drafts: the text is the target's own whatever grows where, and no false tree harms another text."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.control.estimate import Estimator
from airdraft.core.choosing import likely
from airdraft.core.device.stream import DeviceStream
from airdraft.core.device.tree import BRANCHES, CHILDREN, shape
from airdraft.core.drafting import Ask, ModelDrafter
from airdraft.core.edge import Limits
from airdraft.core.law import Law, Place
from airdraft.core.messages import (
    MOST_BACK,
    MOST_NODES,
    MOST_VERIFIED,
    Decoder,
    Digest,
    Draft,
    Error,
    Message,
    Opened,
    SchemeSpec,
    ToDevice,
    ToEdge,
    Tokens,
    encode,
)
from airdraft.core.policy import Facts, Mode
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.sim import alone
from airdraft.sim.pair import Pair

from ..suites import examples
from .tables import (
    SPECS,
    STREAMS,
    DeviceSide,
    EdgeSide,
    Fickle,
    alike,
    drafting,
    hello,
    opening,
    packed,
    table,
    welcome,
)
from .test_proposing import KINDS, named
from .test_stream import MODES, Anyhow

VOCAB = 6


def growing(
    before: Sequence[int], drafts: Sequence[int], parents: Sequence[int], seq: int = 1, vocab: int = 5, session: int = 1
) -> Draft:
    """Make drafts of a tree after the text `before`."""
    start, digest = len(before), Digest(before).value
    return Draft(session, seq, start, start, digest, len(drafts), packed(drafts, vocab), parents=bytes(parents))


@given(data=st.data())
@examples(40)
def test_the_text_is_the_targets_own_whatever_grows_and_however_events_fall(data: st.DataObject) -> None:
    eos_ids = data.draw(st.sampled_from([(), (5,)]))
    target = table(data.draw(st.integers(0, 50)), vocab=VOCAB, scale=2.5, eos_ids=eos_ids)
    draft = alike(target, 9, data.draw(st.sampled_from([0.0, 0.4, 1.5, 5.0])), data.draw(st.sampled_from([4096, 12])))
    params = data.draw(st.sampled_from([SamplingParams(1.0), SamplingParams(0.0), SamplingParams(0.7, top_k=3)]))
    modes = data.draw(st.lists(st.sampled_from(MODES), min_size=1, max_size=4))
    seed, length = data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 24))
    prompt = (0, 1, 2)[: data.draw(st.integers(1, 3))]
    logprobs = data.draw(st.sampled_from([None, 2]))
    truth = list(alone.write(target, prompt, params, seed, length))
    propose = named(data.draw(st.sampled_from(["none", *KINDS])), (*prompt, *truth))
    world = Anyhow(
        draft,
        target,
        data.draw(st.integers(1, 20)),
        propose=propose,
        trees=True,
        wide=data.draw(st.booleans()),
        doubt=data.draw(st.sampled_from([0.0, 0.5, 9.0])),
    )
    committed = data.draw(st.integers(0, max(0, len(truth) - 1)))  # as after a lost connection
    if truth[committed - 1 : committed] and truth[committed - 1] in eos_ids:
        committed = 0
    branches = data.draw(st.sampled_from([None, 0, 1, 2, 4, 16]))
    asked = Request(
        prompt, SchemeSpec("stream"), params, seed, length, policy=Fickle(modes), logprobs=logprobs,
        committed=truth[:committed], branches=branches,
    )  # fmt: skip
    world.write(asked, data)
    assert world.tokens == truth[committed:]
    assert asked.counts.accepted <= asked.counts.drafted
    if branches == 0:
        assert not any(message.parents for message in world.heard if isinstance(message, Draft))


@pytest.mark.parametrize("branches", [1, 4])
@pytest.mark.parametrize("race", STREAMS)
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_trees_write_the_targets_own_text(temperature: float, race: str, branches: int) -> None:
    params, target = SamplingParams(temperature), table(3, vocab=50, scale=2.0, eos_ids=(49,))
    for draft in (alike(target, 4), table(5, vocab=50), alike(target, 4, context=9)):
        pair = Pair(draft, target, trees=True)
        for seed in range(2):
            asked = Request((0, 1), STREAMS[race], params, seed, 20, 6, branches=branches)
            assert pair.write(asked).tokens == list(alone.write(target, (0, 1), params, seed, 20))


def forwards(branches: int, noise: float) -> int:
    target, total = table(3, vocab=50, scale=2.0), 0
    for seed in range(6):
        asked = Request((0, 1), STREAMS["off"], SamplingParams(0.9), seed, 24, 6, branches=branches)
        Pair(alike(target, 4, noise), target, trees=True).write(asked)
        total += asked.counts.forwards
    return total


def test_a_tree_takes_fewer_forwards_than_a_chain() -> None:
    assert forwards(4, 0.7) < 0.9 * forwards(0, 0.7)


def test_the_edge_without_trees_gets_a_chain() -> None:
    target = table(3, vocab=VOCAB)
    world = Anyhow(alike(target, 4), target, wide=True)
    world.open(Request((0, 1), STREAMS["off"], SamplingParams(), 1, 12, 4))
    while not world.over:
        world.step(world.actions()[0], 99)
    sent = [message for message in world.heard if isinstance(message, Draft)]
    assert sent
    assert not any(message.parents for message in sent)


def test_a_chain_is_sent_as_ever() -> None:
    """The fields of trees take no byte of a chain's messages, and an older peer's are read."""
    for message, fields in ((drafting((0, 1), (3, 1)), 9), (Tokens(1, 2, (3,), 9, 0, 0, 1), 8)):
        frame = encode(message)
        assert frame[1] == 0x90 + fields
        decoder = Decoder(ToEdge if isinstance(message, Draft) else ToDevice)
        assert list(decoder.feed(frame)) == [message]
    for longer in (growing((0, 1), (3, 1), (0, 0)), Tokens(1, 2, (3,), 9, 1, 2, 1, 0)):
        decoder = Decoder(ToEdge if isinstance(longer, Draft) else ToDevice)
        assert list(decoder.feed(encode(longer))) == [longer]


def edge_of(target_seed: int = 3, race: str = "off", **limits: int) -> tuple[EdgeSide, tuple[int, ...]]:
    """An edge that has read a prompt, and what it will write."""
    target = table(target_seed)
    edge = EdgeSide(target, Limits(**limits), run=False, trees=True)
    edge.send(hello(), opening(scheme=STREAMS[race], max_tokens=40))
    edge.forward()  # the prefill
    return edge, tuple(alone.write(target, (0, 1), SamplingParams(), 7, 40))


def test_the_second_branch_is_accepted_and_stays_in_the_cache() -> None:
    edge, truth = edge_of()
    wrong = [(token + 1) % 5 for token in truth]
    edge.send(growing((0, 1), (wrong[0], truth[0], truth[1], wrong[1]), (0, 0, 1, 3)))
    (forward,) = edge.forwards
    assert (forward.tokens, forward.parents) == ((1, wrong[0], truth[0], truth[1], wrong[1]), (-1, 0, 0, 2, 1))
    (commit,) = edge.forward()
    assert commit == Tokens(1, 2, (truth[2],), Digest((0, 1, *truth[:3])).value, 2, 4, 1, 2)
    edge.send(growing((0, 1, *truth[:3]), (wrong[3], truth[3]), (0, 0), 2))
    (forward,) = edge.forwards
    assert (forward.keep, forward.picks, forward.tokens[0]) == (1, (0, 2, 3), truth[2])
    (commit,) = edge.forward()
    assert isinstance(commit, Tokens)
    assert (commit.tokens, commit.accepted, commit.node) == ((truth[4],), 1, 5)


def test_a_draft_may_follow_one_that_is_committed_by_now() -> None:
    edge, truth = edge_of()
    edge.send(growing((0, 1), truth[:1], (0,)))
    edge.forward()  # commits two
    edge.send(growing((0, 1), (truth[1], (truth[1] + 1) % 5, truth[2]), (1, 2, 2), 2))
    (forward,) = edge.forwards
    assert forward.tokens == (truth[1], truth[2])
    (commit,) = edge.forward()
    assert isinstance(commit, Tokens)
    assert (commit.accepted, commit.node, commit.tokens) == (1, 3, (truth[3],))


def test_a_draft_behind_a_dead_one_is_dropped_and_harms_nothing() -> None:
    edge, truth = edge_of()
    wrong = (truth[0] + 1) % 5
    edge.send(growing((0, 1), (wrong,), (0,)))
    edge.forward()
    assert edge.send(growing((0, 1), (2, 3), (1, 1), 2)) == []
    assert not edge.forwards
    edge.send(growing((0, 1, truth[0]), (truth[1],), (0,), 3))
    (commit,) = edge.forward()
    assert isinstance(commit, Tokens)
    assert (commit.accepted, commit.node) == (1, 3)


def test_a_forward_takes_the_drafts_that_came_first() -> None:
    edge, truth = edge_of()  # five drafts, and five behind each of the first three
    edge.send(growing((0, 1), [*range(5)] * 4, (*[0] * 5, *[5 * (1 + at // 5) + at % 5 - at // 5 for at in range(15)])))
    (forward,) = edge.forwards
    assert forward.rows == 1 + MOST_VERIFIED
    (commit,) = edge.forward()
    assert isinstance(commit, Tokens)
    assert truth[:2] == (1, 0)
    assert (commit.accepted, commit.drafted, commit.node) == (2, MOST_VERIFIED, 10)


BAD = {
    "a parent that was never sent": growing((0, 1), (1, 2), (0, 3)),
    "a first draft behind another": growing((0, 1), (1,), (1,)),
    "fewer parents than drafts": growing((0, 1), (1, 2), (0,)),
    "more parents than drafts": growing((0, 1), (1,), (0, 1)),
    "too many drafts": growing((0, 1), [at % 5 for at in range(MOST_NODES + 1)], (*range(6), *[6] * (MOST_NODES - 5))),
    "drafts beyond the end": growing((0, 1), [1] * 32, [*[0], *[1] * 31]),
    "one that the device recovered": Draft(1, 1, 2, 2, Digest((0, 1)).value, 1, packed((1,), 5), 1, b"\0"),
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_a_tree_that_is_none_ends_its_text_only(message: Draft) -> None:
    edge = EdgeSide(table(3), run=False, trees=True)
    edge.send(hello(), opening(scheme=STREAMS["off"], max_tokens=12), opening(2, scheme=STREAMS["off"]))
    answers = edge.send(message)
    assert [(type(answer), getattr(answer, "session", 0)) for answer in answers] == [(Error, 1)], answers
    assert not edge.machine.closed
    edge.forward()
    edge.forward()
    assert edge.send(growing((0, 1), (1, 2), (0, 0), session=2)) == []
    (commit,) = edge.forward()
    assert isinstance(commit, Tokens)


@pytest.mark.parametrize(
    ("scheme", "trees"), [(STREAMS["always"], False), (SPECS["coupled"], True), (SPECS["topk-3x8"], True)], ids=str
)
def test_a_tree_where_none_is_taken_ends_its_text_only(scheme: SchemeSpec, trees: bool) -> None:
    edge = EdgeSide(table(3), run=False, trees=trees)
    edge.send(hello(), opening(scheme=scheme), opening(2, scheme=STREAMS["off"]))
    (error,) = edge.send(growing((0, 1), (1, 2), (0, 0)))
    assert isinstance(error, Error)
    assert (error.session, error.code) == (1, "state")
    assert "chain" in error.message
    assert not edge.machine.closed


def test_more_live_drafts_than_allowed_over_many_messages_end_the_text() -> None:
    edge, _ = edge_of(max_draft=8)
    edge.send(growing((0, 1), (0, 1, 2, 3, 4), (0,) * 5))
    said: list[Message] = []
    for seq, _ in enumerate(range(MOST_NODES // 5), 2):
        said += edge.send(growing((0, 1), (0, 1, 2, 3, 4), [5 * (seq - 1) - (seq - 2) + at for at in range(5)], seq))
    assert [type(answer) for answer in said] == [Error]


class Babbler:
    """A device that sends trees of anything: right drafts, wrong ones, dead parents, in any order."""

    def __init__(self, truth: Sequence[int], rng: random.Random) -> None:
        self._truth, self._rng = truth, rng
        self._sent = 0

    def says(self, text: Sequence[int], seq: int) -> Draft:
        rng = self._rng
        start = rng.randint(2, len(text))
        drafts, parents = [], bytearray()
        for _ in range(rng.randint(1, 4)):
            back = rng.randint(0, min(self._sent, MOST_BACK))
            right = self._truth[start - 2 + rng.randint(0, 1)] if start < len(self._truth) else 0
            drafts.append(right if rng.random() < 0.7 else rng.randrange(5))
            parents.append(back if rng.random() < 0.6 else 0)
            self._sent += 1
        digest = Digest(text[:start]).value if rng.random() < 0.9 else rng.randrange(1 << 32)
        return Draft(1, seq, start, start, digest, len(drafts), packed(drafts, 5), parents=bytes(parents))


@given(seed=st.integers(0, 10_000), race=st.sampled_from(list(STREAMS)))
@examples(60)
def test_a_device_that_babbles_costs_speed_only(seed: int, race: str) -> None:
    edge, truth = edge_of(race=race)
    rng = random.Random(seed)  # noqa: S311
    device, text = Babbler(truth, rng), [0, 1]
    for seq in itertools.count(1):
        answers = edge.send(device.says(text, seq))
        while edge.forwards and rng.random() < 0.7:
            answers += edge.forward()
        for answer in answers:
            if isinstance(answer, Error):  # too many of it are alive
                assert answer.session == 1
                assert tuple(text[2:]) == truth[: len(text) - 2]
                return
            assert isinstance(answer, Tokens)
            assert answer.start == len(text)
            text += truth[len(text) - 2 :][: answer.accepted]
            text += answer.tokens
            assert Digest(text).value == answer.digest
        if len(text) >= 36 or seq > 200:
            break
    assert tuple(text[2:]) == truth[: len(text) - 2]


@pytest.mark.parametrize(
    "bad",
    [
        Tokens(1, 2, (3,), 0, 1, 2, 1, 99),  # a draft that was never sent
        Tokens(1, 2, (3,), 0, 2, 2, 1, 0),  # farther from the text than it is
        Tokens(1, 2, (3,), 0, 0, 2, 1, 0),  # none accepted, and yet one
        Tokens(1, 2, (3,), 0, 1, 2, 1),  # some draft
    ],
)
def test_a_false_commit_of_a_tree_ends_the_connection(bad: Tokens) -> None:
    device = DeviceSide(table(1), welcome(trees=32, max_draft=8))
    device.open(Request((0, 1), STREAMS["always"], SamplingParams(), 7, 8, 3, branches=1))
    device.send(Opened(1, 2, Digest((0, 1)).value))
    said = device.send(bad)
    assert device.machine.closed
    assert isinstance(said[-1], Error)


def test_a_drafter_goes_on_at_several_places_and_feeds_nothing_twice() -> None:
    drafter, text = ModelDrafter(), [1, 2, 3]
    assert drafter.grow(text, [[]], 99) == Ask(0, (1, 2, 3), 1)
    assert drafter.grow(text, [[4], [5]], 99) == Ask(3, (4, 5), 2, (-1, -1))
    assert drafter.grow(text, [[4, 6], [5, 7]], 99) == Ask(3, (6, 7), 2, (-2, -1), (0, 1))
    assert drafter.grow([*text, 5], [[7, 8]], 99) == Ask(3, (8,), 1, None, (1, 3))
    assert drafter.grow([*text, 5], [[9], [7, 8, 1]], 99) == Ask(4, (9, 1), 2, (-3, -1), (0, 1))
    assert drafter.grow([*text, 5, 2], [[]], 99) == Ask(4, (2,), 1)  # the text went elsewhere
    assert drafter.grow([*text, 5, 2], [[]], 99) == Ask(4, (2,), 1)  # its row was lost


def test_a_drafter_without_room_goes_on_at_one_place() -> None:
    drafter, text = ModelDrafter(), [1, 2, 3]
    drafter.grow(text, [[]], 5)
    drafter.grow(text, [[4], [5]], 5)
    assert drafter.grow(text, [[5, 7], [4, 6]], 5) == Ask(3, (5, 7), 1)
    assert drafter.grow(text, [[4, 6]], 5) == Ask(3, (4, 6), 1)


def test_what_was_fed_before_a_cut_is_fed_again() -> None:
    drafter, text = ModelDrafter(), [1, 2, 3]
    drafter.grow(text, [[]], 99)
    drafter.grow(text, [[4], [5]], 99)
    drafter.cut(2)
    assert drafter.grow(text, [[4, 6]], 99) == Ask(2, (3, 4, 6), 1)
    assert drafter.want(text, [4], 1) == Ask(3, (4,))


def facts(draft_s: float, widening: float | None) -> Facts:
    return Facts(draft_s, 0.03, 0.02, math.inf, math.inf, 0.7, widening=widening)


@pytest.mark.parametrize(
    ("draft_ms", "widening", "wide", "alone", "width", "branching"),
    [
        (10, None, True, True, BRANCHES, True),  # it is to be measured
        (10, 1.3, True, True, BRANCHES, True),
        (10, 1.4, True, True, 1, True),
        (5, 1.5, True, True, BRANCHES, True),  # six drafts in a forward of the target
        (5, 1.6, True, True, 1, True),
        (16, 1.4, True, True, 1, False),
        (16, 1.2, True, True, BRANCHES, True),
        (5, None, False, True, 1, True),
        (16, None, False, True, 1, False),
        (5, None, False, False, 1, False),  # copies
    ],
)
def test_a_tree_is_as_wide_as_its_cost_allows(
    draft_ms: int, widening: float | None, wide: bool, alone: bool, width: int, branching: bool
) -> None:
    found = shape(facts(draft_ms / 1000, widening), None, wide, alone)
    assert found == (width, CHILDREN if branching else 1)
    assert shape(facts(draft_ms / 1000, widening), 7, wide, alone) == (7 if wide else 1, CHILDREN)


def test_the_noise_tells_a_hit_from_a_miss_better_than_the_draft_does() -> None:
    target = table(3, vocab=50, scale=2.0)
    draft, law = alike(target, 4, 0.7), Law(SamplingParams(), 7, 50)
    ranks, seen = np.zeros(9), list[tuple[bool, float, float]]()
    for at in range(400):
        place, row = Place(at), draft.row((at,))
        likely, truth = law.likely(row, place, 8), law.choose(target.row((at,)), place)
        assert likely[0][0] == law.choose(row, place)
        assert sum(math.exp(log) for _, log in likely) < 1
        assert likely == sorted(likely, key=lambda found: -found[1])
        ranks[next((rank for rank, (token, _) in enumerate(likely) if token == truth), 8)] += 1
        seen.append((likely[0][0] == truth, likely[0][1], law.probs(row, place)[likely[0][0]]))
    assert (np.diff(ranks[:4]) < 0).all()

    def parted(column: int) -> float:
        """How often a hit has a higher value than a miss."""
        hits, misses = (np.array([each[column] for each in seen if each[0] is hit]) for hit in (True, False))
        return float((hits[:, None] > misses).mean())

    assert parted(1) > parted(2) + 0.03


def test_the_cost_of_several_places_is_learned_once_both_were_seen() -> None:
    learner = Estimator()
    for _ in range(3):
        learner.drafted(0.01)
        assert learner.facts().widening is None
    for _ in range(3):
        learner.drafted(0.014, 4)
    assert learner.facts().widening == pytest.approx(1.4)
    assert learner.facts().draft_s == pytest.approx(0.01)


@pytest.mark.parametrize("branches", [-1, 17])
def test_a_device_refuses_a_width_out_of_range(branches: int) -> None:
    device = DeviceSide(table(1), welcome(trees=32))
    with pytest.raises(BadParameterError, match="give 0 to 16") as refused:
        device.open(Request((0, 1), STREAMS["always"], SamplingParams(), 1, 5, branches=branches))
    assert refused.value.field == "branches"
    assert not device.machine.take()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_token_beyond_all_chance_is_listed_without_a_warning(temperature: float) -> None:
    row = np.array([0.0, -1e4, -np.inf, -2e4], np.float32)
    found = likely(row, SamplingParams(temperature), 1, 5, 4)
    assert found[0][0] == 0
    assert all(log < -1e3 for _, log in found[1:])


def test_nothing_waits_for_the_uplink_while_the_edge_waits_for_drafts() -> None:
    """An edge that does not write on alone has answered all packets: the last drafts leave, whatever the queue."""
    stream, facts, mode = DeviceStream(), Facts(0.01, 0.05, 0.02, 1e6, 1e6, 0.7), Mode("stream", 8)
    branch = SimpleNamespace(unsent=3, fresh=False)
    assert stream.is_due(branch, mode, facts, now=1.0, more=False, queued_s=1.0)  # type: ignore[arg-type]
    stream.sends(1, 3, facts, now=1.0, queued_s=0.0)
    assert not stream.is_due(branch, mode, facts, now=1.0, more=False, queued_s=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("race", ["off", "idle", "always"])
def test_drafts_wait_while_the_uplink_is_slower_than_is_known(race: str) -> None:
    """A packet that should have been answered is on its way still. Only an edge that writes on can do without more."""
    stream, facts, mode = DeviceStream(), Facts(0.01, 0.05, 0.02, 1e6, 1e6, 0.7), Mode("stream", 8, race)
    stream.sends(1, 3, facts, now=1.0, queued_s=0.0)
    for fresh, flying in ((False, True), (True, False), (False, False)):
        branch = SimpleNamespace(unsent=3, fresh=fresh, flying=flying)
        assert stream.is_due(branch, mode, facts, now=1.1, more=False)  # type: ignore[arg-type]
        urgent = not flying and race != "always"
        assert stream.is_due(branch, mode, facts, now=1.2, more=False) is urgent  # type: ignore[arg-type]
