"""One cell of the laboratory: a recording, replayed under one scheme over one link at one compute speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from airdraft.control import predict
from airdraft.control.auto import Auto
from airdraft.control.course import MAX_DRAFT
from airdraft.control.facts import wire_of
from airdraft.control.forecast import Forecaster
from airdraft.control.machine import device_machine
from airdraft.core.connection import HEARTBEAT_S
from airdraft.core.edge import EdgeMachine, Limits, Propose, Target, nobody
from airdraft.core.messages import VERSION, Hello, SchemeSpec
from airdraft.core.policy import Facts, Length, Policy
from airdraft.core.request import Counts, Request
from airdraft.lab.record import Recording
from airdraft.lab.virtual.branches import Branches
from airdraft.lab.virtual.luck import Luck
from airdraft.lab.virtual.replay import Blank, Replay
from airdraft.link.base import LinkModel
from airdraft.link.const import ConstLink
from airdraft.models.profile import EDGE_DRAFT
from airdraft.proposers import drafting
from airdraft.sim.virtual import Compute, Span, Virtual, VirtualText

BUSY = 0.85
"""Share of the time at work from which a resource is the bottleneck; if none reaches it, the round trip is."""

TRIED, CLOSE = 2, 0.985
"""Draft lengths that are run, of all that might be best: the one that comes out fastest, and others that reach this
share of its speed."""
WIDENING = 1.15
"""Duration of a draft forward at several places of a tree, in those at one, where weights are most of what is read."""
SETTLE_S = 1.0
"""Seconds between a connection and its first text, in which the device measures the link."""


@dataclass(frozen=True)
class Setting:
    """A place to write texts: a link, and how fast both sides compute."""

    link: LinkModel
    compute: Compute


def constant(
    rtt_ms: float, uplink_mbps: float, draft_ms: float, verify_ms: float, downlink_mbps: float = 100.0
) -> Setting:
    """A link that never changes."""
    link = ConstLink(uplink_mbps * 1e6, downlink_mbps * 1e6, rtt_ms / 1e3)
    return Setting(link, compute(draft_ms, verify_ms))


def compute(draft_ms: float, verify_ms: float) -> Compute:
    """How fast both sides compute, given a forward of the device's draft model and one of the target."""
    return Compute(draft_ms / 1e3, verify_ms / 1e3, EDGE_DRAFT * verify_ms / 1e3, WIDENING)


@dataclass
class Result:
    """The outcome of one scheme there. Times are virtual."""

    scheme: str
    length: int | None
    """Draft length, for schemes with rounds."""
    began_s: float = 0.0
    """When the first text began, by the link's clock: before it the two sides shook hands and measured."""
    seconds: float = 0.0
    counts: Counts = field(default_factory=Counts)
    uplink_bytes: int = 0
    """With every header."""
    downlink_bytes: int = 0
    identical: bool = True
    """Whether every text was the recorded one."""
    bottleneck: str = ""
    busy_s: dict[str, float] = field(default_factory=dict)
    """Seconds for which `draft`, `target`, `uplink` and `downlink` were busy meanwhile."""
    waits_s: list[float] = field(default_factory=list)
    """For each token, seconds since the device had its predecessor; the first of a text counts from the text's
    start."""

    @property
    def tokens_per_s(self) -> float:
        """Committed tokens divided by the time of their texts."""
        return self.counts.committed / self.seconds


def run(
    recording: Recording,
    setting: Setting,
    spec: SchemeSpec,
    *,
    length: int | None = None,
    policy: Callable[[], Policy] | None = None,
    label: str = "",
    oracle: bool = False,
    spans: list[Span] | None = None,
    until_s: float | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    on_text: Callable[[VirtualText], None] = lambda _: None,
    propose: Propose = nobody,
    lookup: bool = False,
    drafts: bool = False,
    branches: Branches | None = None,
    lucks: Mapping[SchemeSpec, Sequence[Luck]] | None = None,
    forecast: Callable[[], Forecaster] | None = None,
    rule: Length | None = None,
) -> Result:
    """Write the recorded texts, one after another over one connection: once, or again and again for `until_s`.

    In the second case the text under way `until_s` after the first began is the last, and is written to its end. A link
    that is silent for three times `heartbeat_s` ends the connection.

    Without `length` the device finds draft length, window and packets by what it measures. `policy` makes a policy for
    each text, which chooses the scheme as well. `propose` makes the edge's proposers, as for `EdgeMachine`; it
    `drafts` itself with a model that chooses as the device's does; with `lookup` the device copies, too, and with
    `branches` it drafts trees. `lucks` is as for `Replay`, `forecast` as for `device_machine`; `rule` ends the
    rounds of all texts. The edge has been in service: it knows how long its forwards take. A forward takes that long
    however many rows it has. Further candidates have rows of their own.
    """
    replay, vocab = Replay(recording, oracle=oracle, branches=branches, lucks=lucks), recording.vocab_size
    device = device_machine(
        Hello(VERSION, "lab", "draft", bytes(16), vocab), Blank.max_context, 0.0, replay.make, lookup=lookup,
        wide=branches is not None, forecast=forecast,
    )  # fmt: skip
    trees = branches is not None or spec.candidates > 1
    target = Target("lab", "target", bytes(16), vocab, Blank.max_context, (), trees=trees)
    limits = Limits(heartbeat_s=heartbeat_s)
    device.heartbeat_s = heartbeat_s  # until the edge's welcome says the same
    help = drafting(Blank.max_context) if drafts else None
    pace = setting.compute
    edge = EdgeMachine(target, limits, 0.0, pace.verify_s, replay.make, propose, help, pace.edge_draft_s)
    world = Virtual(device, edge, replay.model, replay.model, setting.link, pace, spans, helping=Blank(vocab))
    world.rest(SETTLE_S)
    result = Result(label or spec.name, length)
    began_s, before, busy = world.now, world.sent_bytes, world.busy_s
    result.began_s = began_s
    while True:
        for at, text in enumerate(recording.texts):
            prompt, tokens = text.prompt or [0] * text.prompt_length, text.tokens
            request = Request(
                prompt, spec, recording.params, at, len(tokens), length, counts=result.counts,
                policy=policy() if policy else None, rule=rule,
            )  # fmt: skip
            written = world.write(request)
            on_text(written)
            result.identical &= written.tokens == tokens
            result.seconds += written.ended_s - written.began_s
            result.waits_s += _waits(written)
            if until_s is not None and result.seconds >= until_s:
                break
        if until_s is None or result.seconds >= until_s:
            break
    result.uplink_bytes, result.downlink_bytes = (
        after - first for after, first in zip(world.sent_bytes, before, strict=True)
    )
    result.busy_s = {name: world.busy_s[name] - busy[name] for name in busy}
    result.bottleneck = _bottleneck(result.busy_s, world.now - began_s)
    return result


def _waits(text: VirtualText) -> list[float]:
    """The waits of a text's tokens: a commit's first token waited for the link, the others came with it."""
    waits, last_s = [], text.began_s
    for at_s, event in text.commits:
        waits += [at_s - last_s, *[0.0] * (len(event.tokens) - 1)]
        last_s = at_s
    return waits


def _bottleneck(busy_s: dict[str, float], seconds: float) -> str:
    most = max(busy_s, key=lambda name: busy_s[name])
    return most if busy_s[most] >= BUSY * seconds else "round trip"


def best_rounds(recording: Recording, setting: Setting, spec: SchemeSpec, facts: Facts) -> Result:
    """A scheme with rounds at its best draft length here.

    How many rounds a length takes is counted along the recorded texts, and how long one takes is predicted. The length
    that comes out fastest is run, and so is a second if it is `CLOSE`; the faster run counts.
    """
    sent = wire_of(spec, recording.vocab_size)
    replay = Replay(recording)

    def seconds(length: int) -> float:
        predicted = predict.rounds(facts, sent, length)
        return replay.rounds(spec.name, length) / (predicted.tokens_per_s * predicted.target_forwards_per_token)

    took_s = {length: seconds(length) for length in range(1, MAX_DRAFT + 1)}
    lengths = sorted(took_s, key=took_s.__getitem__)[:TRIED]
    close = [length for length in lengths if took_s[lengths[0]] >= CLOSE * took_s[length]]
    runs = [run(recording, setting, spec, length=length) for length in close]
    return max(runs, key=lambda result: result.tokens_per_s)


def auto(vocab_size: int, spec: SchemeSpec) -> Callable[[], Policy]:
    """A maker of policies that choose by themselves."""
    return lambda: Auto(vocab_size, k=spec.k, bits=spec.bits)
