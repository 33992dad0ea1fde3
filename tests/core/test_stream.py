"""A stream's text is the target's own under every order of events, window, packet size and race policy."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.control.machine import device_machine
from airdraft.core.choosing import choose
from airdraft.core.device import DeviceMachine
from airdraft.core.device.tree import Tree
from airdraft.core.edge import EdgeMachine, Help, Limits, Propose, Target, nobody
from airdraft.core.events import Committed, Compile, Event, Failed, Finished, Forward
from airdraft.core.law import Guide, Law
from airdraft.core.messages import Decoder, Digest, Draft, Error, Message, Opened, SchemeSpec, Switch, ToEdge, Tokens
from airdraft.core.policy import Mode
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.proposers.draft import EdgeDraft
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel
from airdraft.sim.pair import Pair
from airdraft.sim.running import run

from ..suites import examples
from .tables import (
    STREAMS,
    DeviceSide,
    EdgeSide,
    Fickle,
    alike,
    drafting,
    hello,
    opening,
    packed,
    request,
    table,
    welcome,
)

MODES = [
    Mode("server", 0),
    Mode("coupled", 3),
    Mode("stream", 1, "off"),
    Mode("stream", 5, "off", 2, 3),
    Mode("stream", 9, "idle"),
    Mode("stream", 30, "always", 1, 4),
]


def tree_of(tree: Tree) -> dict[tuple[int, ...], list[int]]:
    """The likeliest draft behind the text and behind every draft."""
    found: dict[tuple[int, ...], list[int]] = {}
    for twig in tree.twigs:
        path = [each.token for each in tree._branch(twig)]
        found.setdefault(tuple(path[:-1]), path[-1:])
    return found


@dataclass
class Anyhow:
    """Both machines, with a scheduler that picks the next event. Bytes come in any pieces; forwards end any time."""

    draft: TableModel
    target: TableModel
    max_draft: int = 4
    now: float = 0.0
    tokens: list[int] = field(default_factory=list)
    over: bool = False
    propose: Propose = nobody
    help: Help | None = None
    helping: TableModel | None = None
    """The edge's own draft model; None: its forwards fail."""
    heard: list[Message] = field(default_factory=list)
    trees: bool = False
    """Whether the target runs trees."""
    wide: bool = False
    """Whether the draft does."""
    doubt: float = 0.0
    """As in `Target`."""
    guide: Guide | None = None
    """What every grammar of this connection is read as."""

    def __post_init__(self) -> None:
        vocab, context, eos_ids = self.target.vocab_size, self.target.max_context, self.target.eos_ids
        identity = Target(
            "test", "t", bytes(16), vocab, context, eos_ids, trees=self.trees, doubt=self.doubt,
            guides="" if self.guide is None else "the same",
        )  # fmt: skip
        limits = Limits(max_draft=self.max_draft)
        self.edge = EdgeMachine(identity, limits, now=0.0, propose=self.propose, help=self.help)
        self.device = device_machine(hello(vocab), self.draft.max_context, now=0.0, wide=self.wide)
        self.wires = {"up": bytearray(self.device.take()), "down": bytearray()}
        self.running: dict[str, Forward | Compile] = {}
        self.caches = {
            "device": self.draft.new_cache(),
            "edge": self.target.new_cache(),
            "helping": self.draft.new_cache(),
        }
        self._spy = Decoder(ToEdge)
        self._heard(bytes(self.wires["up"]))
        while not self.device.ready:
            self.step(self.actions()[0], 1 << 20)

    def open(self, request: Request) -> None:
        self.serve("device", self.device.open(request, self.now, self.guide)[1])

    def write(self, request: Request, data: st.DataObject) -> None:
        """Write a text, whose events come in any order that `data` draws."""
        self.open(request)
        while not self.over:
            actions = self.actions()
            assert actions, "nobody does anything, and the text is not done"
            self.step(data.draw(st.sampled_from(actions)), data.draw(st.integers(1, 40)))

    def actions(self) -> list[str]:
        return [name for name, wire in self.wires.items() if wire] + sorted(self.running)

    def step(self, action: str, size: int) -> None:
        """Deliver up to `size` bytes, or end a forward."""
        self.now += 0.3  # the policy is asked at every commit
        if action in self.wires:
            wire = self.wires[action]
            data = bytes(wire[:size])
            del wire[:size]
            side = "edge" if action == "up" else "device"
            self.serve(side, self.machine(side).receive(data, self.now))
            return
        forward = self.running.pop(action)
        if isinstance(forward, Compile):
            assert self.guide is not None
            self.serve("edge", self.edge.guided(forward.session, self.guide, self.now))
            return
        forward = self.machine(action).latest(forward) if size % 2 else forward
        if forward.draft:
            self.serve("edge", self.helped(forward))
            return
        model = self.draft if action == "device" else self.target
        assert action == "device" or forward.rows <= self.max_draft + 1, "more drafts in a forward than the edge takes"
        logits = run(model, self.caches[action], forward)
        self.serve(action, self.machine(action).forwarded(forward.session, logits, self.now))

    def helped(self, forward: Forward) -> list[Event]:
        """End a forward of the edge's own draft model."""
        assert forward.rows == 1
        if self.helping is None:
            return self.edge.unhelped(forward.session, self.now)
        row = self.helping.forward(self.caches["helping"], forward.keep, forward.tokens, 1)
        return self.edge.forwarded(forward.session, row, self.now)

    def machine(self, side: str) -> DeviceMachine | EdgeMachine:
        return self.device if side == "device" else self.edge

    def serve(self, side: str, events: list[Event]) -> None:
        for event in events:
            assert not isinstance(event, Failed), event
            if isinstance(event, Forward):
                assert side not in self.running, "two forwards of one text at once"
                self.running[side] = event
            elif isinstance(event, Compile):
                self.running["guide"] = event
            elif side == "device" and isinstance(event, Committed):
                self.tokens += event.tokens
            elif side == "device" and isinstance(event, Finished):
                self.over = True
        self.check_drafts()
        sent = self.machine(side).take()
        if side == "device":
            self._heard(sent)
        self.wires["up" if side == "device" else "down"] += sent

    def check_drafts(self) -> None:
        """Whatever was rolled back, every draft is the draft model's own choice after its prefix."""
        for session in self.device._sessions.values():
            branch, text, request = session._pen.branch, session.text.tokens, session._request
            drafts = tree_of(branch) if isinstance(branch, Tree) else {(): branch.drafts}
            for before, tokens in drafts.items():
                law, (_, place) = (
                    Law(request.params, request.seed, self.draft.vocab_size),
                    session.text.place.along(before),
                )
                for at, token in enumerate(tokens):
                    row = self.draft.row((*text, *before, *tokens[:at]))
                    assert token == law.choose(row, place)
                    place = place.then(token)
        for at_edge in self.edge._sessions.values():
            helper = at_edge._stream._helper
            if self.helping is None or not isinstance(helper, EdgeDraft):
                continue
            tokens, begun = [*at_edge.text.tokens[: helper._seen], *helper._line], helper._seen
            for at, own in enumerate(helper._own, begun):
                if own:
                    row = self.helping.row(tuple(tokens[:at]))
                    assert tokens[at] == choose(row, at_edge._law.params, at_edge._law.seed, at)

    def _heard(self, data: bytes) -> None:
        self.heard += self._spy.feed(data)


@given(data=st.data())
@examples(60)
def test_the_text_is_the_targets_own_however_events_fall(data: st.DataObject) -> None:
    vocab = 6
    eos_ids = data.draw(st.sampled_from([(), (5,)]))
    target = table(data.draw(st.integers(0, 50)), vocab=vocab, scale=2.5, eos_ids=eos_ids)
    draft = alike(target, 9, data.draw(st.sampled_from([0.0, 0.4, 5.0])), data.draw(st.sampled_from([4096, 9])))
    params = data.draw(st.sampled_from([SamplingParams(1.0), SamplingParams(0.0), SamplingParams(0.8, top_k=3)]))
    modes = data.draw(st.lists(st.sampled_from(MODES), min_size=1, max_size=4))
    seed, length = data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 24))
    world = Anyhow(draft, target, data.draw(st.integers(1, 6)))
    prompt = (0, 1, 2)[: data.draw(st.integers(1, 3))]
    world.write(Request(prompt, SchemeSpec("stream"), params, seed, length, policy=Fickle(modes)), data)
    assert world.tokens == list(alone.write(target, prompt, params, seed, length))


@pytest.mark.parametrize("window", [None, 0, 1, 2, 7, 99])
@pytest.mark.parametrize("race", STREAMS)
def test_streams_write_the_targets_own_text(race: str, window: int | None) -> None:
    target = table(3, vocab=50, scale=2.0, eos_ids=(49,))
    for draft in (alike(target, 4), table(5, vocab=50), alike(target, 4, context=6)):
        pair = Pair(draft, target)
        for seed in range(6):
            asked = request(STREAMS[race], SamplingParams(0.9), seed, 12, window)
            assert pair.write(asked).tokens == list(alone.write(target, (0, 1), SamplingParams(0.9), seed, 12))


def test_a_race_that_is_off_writes_nothing_without_a_draft_but_the_last_token() -> None:
    target = table(3, vocab=50, scale=2.0)
    pair = Pair(table(5, vocab=50), target)
    asked = request(STREAMS["off"], seed=1, max_tokens=30, draft_length=4)
    pair.write(asked)
    assert asked.counts.raced <= 1
    assert asked.counts.forwards >= 29 - asked.counts.accepted - 1


def tokens(start: int, drafted: int, accepted: int, last: tuple[int, ...], text: tuple[int, ...]) -> Tokens:
    return Tokens(1, start, last, Digest(text).value, accepted, drafted)


@pytest.mark.parametrize(
    "bad",
    [
        tokens(2, 1, 9, (3,), (0, 1, 3)),  # accepts drafts that were never made
        tokens(2, 0, 1, (3,), (0, 1, 3)),  # accepts more than it verified
        tokens(3, 0, 0, (3,), (0, 1, 3)),  # leaves a gap
        tokens(2, 0, 0, (), (0, 1)),  # commits nothing
        tokens(2, 0, 0, (3,), (0, 1, 2)),  # another text
        tokens(2, 0, 0, (7,), (0, 1, 7)),  # outside the vocabulary
    ],
)
def test_a_false_commit_ends_the_connection(bad: Tokens) -> None:
    device = DeviceSide(table(1), welcome())
    device.open(request(STREAMS["always"], draft_length=3))
    device.send(Opened(1, 2, tokens(2, 0, 0, (), (0, 1)).digest))
    said = device.send(bad)
    assert device.machine.closed
    assert type(said[-1]).__name__ == "Error"


def test_drafts_of_a_dead_branch_cost_nothing_but_the_uplink() -> None:
    target = table(3, vocab=5)
    edge = EdgeSide(target, run=False)
    edge.send(hello(), opening(scheme=STREAMS["off"]))
    edge.forward()  # the prefill
    truth = list(alone.write(target, (0, 1), SamplingParams(), 7, 8))
    wrong = (truth[0] + 1) % 5
    edge.send(drafting((0, 1), (wrong,)))
    (verdict,) = edge.forward()
    assert isinstance(verdict, Tokens)
    assert (verdict.tokens, verdict.accepted, verdict.drafted) == ((truth[0],), 0, 1)
    assert edge.send(drafting((0, 1, wrong), (1, 2))) == []  # sent before the device could know
    assert not edge.forwards
    edge.send(drafting((0, 1, truth[0]), (truth[1],)))
    (verdict,) = edge.forward()
    assert isinstance(verdict, Tokens)
    assert (verdict.start, verdict.accepted, verdict.tokens) == (3, 1, (truth[2],))


def test_a_draft_that_the_edge_has_overtaken_still_counts_for_its_end() -> None:
    target = table(3, vocab=5)
    truth = tuple(alone.write(target, (0, 1), SamplingParams(), 7, 8))
    edge = EdgeSide(target, run=False)
    edge.send(hello(), opening(scheme=STREAMS["always"]))
    edge.forward()  # the prefill; the edge races from here on
    edge.forward()
    edge.send(drafting((0, 1), truth[:4]))  # the first of them is committed already, the second under way
    edge.forward()
    (commit,) = edge.forward()
    assert isinstance(commit, Tokens)
    assert (commit.start, commit.accepted, commit.drafted) == (4, 2, 2)


def test_a_race_policy_changes_while_the_prompt_is_read_and_drafts_come_meanwhile() -> None:
    edge = EdgeSide(table(3), run=False)
    edge.send(hello(), opening(scheme=STREAMS["off"]))
    answers = edge.send(
        Switch(1, STREAMS["always"]),
        drafting((0, 1), (1, 2)),
        Switch(1, SchemeSpec("server")),
        Switch(1, STREAMS["off"]),
    )
    assert [type(answer) for answer in answers] == [Opened] * 3
    assert edge.forward() == []  # the prefill
    assert [forward.rows for forward in edge.forwards] == [3]
    (commit,) = edge.forward()
    assert isinstance(commit, Tokens)
    assert commit.drafted == 2


def test_more_switches_than_a_device_needs_end_the_text() -> None:
    edge = EdgeSide(table(3), run=False)
    edge.send(hello(), opening(scheme=STREAMS["off"]), opening(2, scheme=STREAMS["off"]))
    many = [Switch(1, STREAMS[race]) for race in ("always", "off")] * 8
    assert {type(answer) for answer in edge.send(*many)} == {Opened}
    (error,) = edge.send(many[0])
    assert isinstance(error, Error)
    assert (error.session, error.code) == (1, "state")
    assert "switch less often" in error.message
    assert edge.send(*many) == []
    edge.forward()
    assert edge.send(drafting((0, 1), (1,), session=2)) == []


def test_each_token_allows_two_more_switches() -> None:
    edge = EdgeSide(table(3), run=False)
    edge.send(hello(), opening(scheme=STREAMS["always"]))
    edge.forward()
    for _ in range(8):
        answers = [*edge.forward(), *edge.send(Switch(1, STREAMS["off"]), Switch(1, STREAMS["always"]))]
        assert not any(isinstance(answer, Error) for answer in answers)


@pytest.mark.parametrize(
    "message",
    [
        Draft(1, 1, 2, 2, 0, 99, packed([1] * 99, 5)),  # farther than anybody may
        Draft(1, 1, 2, 2, 0, 1, packed([1], 5), recovered=1),
        Switch(1, SchemeSpec("nonsense")),
        Switch(1, SchemeSpec("coupled"), recovered=1),
    ],
)
def test_what_no_device_may_say_ends_its_text_only(message: Message) -> None:
    edge = EdgeSide(table(3), run=False)
    edge.send(hello(), opening(scheme=STREAMS["off"]), opening(2, scheme=STREAMS["off"]))
    (error,) = edge.send(message)
    assert (type(error).__name__, getattr(error, "session", 0)) == ("Error", 1)
    assert not edge.machine.closed
    edge.forward()
    assert edge.send(drafting((0, 1), (1,), session=2)) == []
