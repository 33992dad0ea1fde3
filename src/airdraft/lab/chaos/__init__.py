"""Sessions through faults: whatever happens to link and edge, the text is the target's own.

Everything in a session follows from a seed and its number: models, request, links, speeds, faults. The machines are the
real ones, in virtual time. The models are tables whose rows depend on the whole prefix, so a token that is lost,
doubled or misplaced changes all that follows. Each text is compared with what the target writes alone.
"""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np

from airdraft.control.auto import Auto
from airdraft.control.machine import device_machine
from airdraft.core import schemes
from airdraft.core.edge import EdgeMachine, Limits, Propose, Target
from airdraft.core.events import Committed, Event, Finished, Progress
from airdraft.core.messages import VERSION, Hello, SchemeSpec
from airdraft.core.policy import Facts, Mode, Policy
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Ruling
from airdraft.device.resume import Backoff, Resumable
from airdraft.errors import AirdraftError, Code, LinkError, ModelError, RefusedError
from airdraft.lab.chaos import forms
from airdraft.lab.chaos.faults import ENDING, KINDS, MEANING, Fault, TroubledCompute, TroubledLink, draw
from airdraft.lab.helps import PREDICTIONS, Prediction, predicted, tenant
from airdraft.lab.pool import processes
from airdraft.link.base import LinkModel
from airdraft.link.const import ConstLink
from airdraft.link.markov2 import Markov2Link
from airdraft.link.rayleigh import RayleighLink
from airdraft.models.base import FloatArray, Part
from airdraft.models.lineage import check_parents, check_picks
from airdraft.proposers import PROPOSERS, USUAL, drafting
from airdraft.proposers.draft import NAME as DRAFT
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel
from airdraft.sim.virtual import Virtual

VOCAB = len(forms.PIECES)
FORMED = 0.5
"""Share of the texts that have a guide."""
PATIENCE_S = 600.0
"""Virtual seconds after the last fault within which a text must be done."""


def _ways(exact: str) -> tuple[str, ...]:
    """Schemes of this exactness, once for each race policy or downlink that they have."""
    found: list[str] = []
    for name in schemes.named(exact=exact):
        traits = schemes.traits(name)
        choices = schemes.RACES if traits.races else schemes.DOWNLINKS if "downlink" in traits.options else ()
        found += [f"{name}/{choice}" for choice in choices] or [name]
    return tuple(found)


RETRIED = (Code.SILENT, Code.BUSY)
"""Refusals after which the device tries again. No other may come, because links lose bytes but never change them."""
WAYS = (*_ways("text"), "auto", "switching")
"""Schemes whose text is the target's own, to the token."""
GREEDY = _ways("distribution")
"""Schemes whose text is so at temperature 0. Elsewhere they are exact in distribution, which one text cannot show."""


class _Table(TableModel):
    """A table that refuses nonsense."""

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`."""
        if not 0 <= keep <= len(cache) or not 0 <= rows <= len(tokens) or not tokens:
            raise ModelError(f"a forward keeps {keep} of {len(cache)} positions and asks {rows} rows of {len(tokens)}")
        return super().forward(cache, keep, tokens, rows)

    def verify(self, batch: Sequence[Part]) -> list[FloatArray]:
        """See `TargetEngine.verify`."""
        for part in batch:
            check_picks(len(part.cache), part.keep, part.picks)
            check_parents(part.keep + len(part.picks), len(part.tokens), part.parents)
        return super().verify(batch)


@lru_cache(maxsize=8)
def table(seed: int, like: TableModel | None = None, noise: float = 2.0, **more: object) -> TableModel:
    """A model whose row is drawn from the whole prefix; with `like` it is that model, bent by `noise`.

    The same one again, for a while: its rows are made once for all connections of a text.
    """

    def row(prefix: tuple[int, ...]) -> FloatArray:
        own = np.random.default_rng([seed, *prefix]).normal(0.0, noise, VOCAB)
        return (own if like is None else like.row(prefix) + own).astype(np.float32)

    return _Table(row, VOCAB, **more)  # type: ignore[arg-type]


class Restless:
    """A policy that changes its mind whenever it is asked."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311

    def choose(self, facts: Facts, now: float) -> Mode:
        """See `Policy.choose`."""
        rng = self._rng
        scheme = rng.choice(schemes.named(exact="text"))
        length = rng.randint(1, 12) if schemes.traits(scheme).drafts else 0
        return Mode(scheme, length, rng.choice(("off", "idle", "always")), rng.randint(1, 3), rng.randint(1, 3))

    def why(self) -> str:
        """See `Policy.why`."""
        return "restless"


@dataclass(frozen=True)
class Site:
    """An edge, and the way to it."""

    link: LinkModel
    draft_s: float
    verify_s: float


@dataclass(frozen=True)
class Aid:
    """What the edges draft by themselves for a text, besides copying."""

    draft_noise: float | None = None
    """How far their own draft model is from the target. None: they have none."""
    draft_context: int = 0
    draft_share: float = 0.0
    """Duration of its forward, in those of the target's."""
    draft_fails: bool = False
    ngram: bool = False
    """Whether they learn from the tenant's texts."""
    prediction: Prediction | None = None
    """How true what the client predicts is, if it does."""
    seed: int = 0
    """Of what is predicted, and of the tenant's texts before."""


@dataclass
class Case:
    """Everything that is drawn for one session."""

    way: str
    request: Request
    target_seed: int
    draft_noise: float
    context: int
    draft_context: int
    eos_ids: tuple[int, ...]
    limits: Limits
    sites: tuple[Site, Site]
    faults: list[Fault]
    lookup: bool = False
    """Whether the device copies, too, or without a draft model only does that."""
    trees: bool = False
    """Whether both models run trees."""
    form: forms.Kind | None = None
    """Of which kind the request's guide is, if it has one."""
    read_s: float = 0.0
    """Seconds that an edge takes to read it."""
    aid: Aid = Aid()

    def target(self, site: int) -> TableModel:
        """The target that the edge at `site` serves, which is the same everywhere."""
        return table(self.target_seed, max_context=self.context, eos_ids=self.eos_ids)


def _link(rng: random.Random) -> LinkModel:
    rtt_s, rate_bps = 10 ** rng.uniform(-2.5, -0.6), 10 ** rng.uniform(4.5, 8)
    return rng.choice((
        ConstLink(rate_bps, 1e8, rtt_s),
        Markov2Link(rate_bps, 4 * rate_bps, rtt_s=rtt_s, seed=rng.randrange(1 << 30)),
        RayleighLink(bandwidth_hz=max(1e4, rate_bps / 8), rtt_s=rtt_s, seed=rng.randrange(1 << 30)),
    ))  # fmt: skip


def case(seed: int, number: int) -> Case:
    """Session `number` of a run with this seed."""
    drawn = _unhelped(seed, number)
    rng, request = random.Random(f"{seed} {number} help"), drawn.request  # noqa: S311  the draws before stay what they are
    if drawn.way == "switching":  # to be predicted, a text must not begin in rounds
        spec = msgspec.structs.replace(request.scheme, name=rng.choice((schemes.COUPLED, schemes.STREAM)))
        drawn = replace(drawn, request=replace(request, scheme=spec))
    aid = Aid(ngram=rng.random() < 0.3, seed=rng.randrange(1 << 30))
    if rng.random() < 0.4:
        aid = replace(
            aid, draft_noise=rng.uniform(0.1, 2.5), draft_context=rng.choice((drawn.context, drawn.context, 30)),
            draft_share=rng.uniform(0.05, 0.5), draft_fails=rng.random() < 0.15,
        )  # fmt: skip
    if not schemes.traits(drawn.request.scheme.name).rounds and rng.random() < 0.4:
        aid = replace(aid, prediction=rng.choice(PREDICTIONS))
    return replace(drawn, aid=aid)


def _unhelped(seed: int, number: int) -> Case:
    rng = random.Random(f"{seed} {number}")  # noqa: S311
    way = rng.choice((*WAYS, *WAYS, *GREEDY))
    name, _, option = {"auto": schemes.STREAM, "switching": schemes.COUPLED}.get(way, way).partition("/")
    k = rng.choice((2, 64))
    spec = SchemeSpec(name, k=k, bits=rng.choice((4, 16)), resolution=4 * k, verify="block" if k == 2 else "token")
    spec = msgspec.structs.replace(
        spec, **{"race" if schemes.traits(name).races else "downlink": option} if option else {}
    )
    params = SamplingParams(0.0)
    if way not in GREEDY and rng.random() < 0.75:
        params = SamplingParams(
            rng.uniform(0.5, 1.5), rng.choice((0, 0, 5)), rng.choice((1.0, 1.0, 0.9)), rng.choice((0.0, 0.0, 0.05))
        )
    policy: Policy | None = None
    if way in ("auto", "switching"):
        policy = Auto(VOCAB) if way == "auto" else Restless(rng.randrange(1 << 30))
    tokens = rng.randint(8, 96)
    request = Request(
        [rng.randrange(VOCAB) for _ in range(rng.randint(1, 12))], spec, params, rng.randrange(1 << 62), tokens,
        rng.choice((None, None, 1, 4, 9)), policy=policy,
    )  # fmt: skip
    context = rng.choice((4096, 4096, 4096, 60))
    heartbeat_s = rng.uniform(0.3, 2.0)
    sites = [Site(_link(rng), 10 ** rng.uniform(-3, -1.5), 10 ** rng.uniform(-2.3, -1)) for _ in range(2)]
    drawn = Case(
        way, request, rng.randrange(1 << 30), rng.uniform(0.1, 2.5), context, rng.choice((context, context, 30)),
        rng.choice(((), (), (3,))), Limits(max_draft=rng.choice((2, 8, 32)), heartbeat_s=heartbeat_s),
        (sites[0], sites[1]), draw(rng, 0.1 + tokens * sites[0].verify_s, heartbeat_s),
    )  # fmt: skip
    lookup = rng.random() < 0.4
    drawn = replace(drawn, lookup=lookup, draft_context=0 if lookup and rng.random() < 0.3 else drawn.draft_context)
    branching = replace(request, branches=rng.choice((None, 0, 1, 4)))
    drawn = replace(drawn, trees=rng.random() < 0.7, request=branching)
    forming = random.Random(f"{seed} {number} form")  # noqa: S311  the draws before stay what they are
    if forming.random() >= FORMED:
        return drawn
    kind, guide = forms.draw(forming)
    return replace(
        drawn, form=kind, request=replace(branching, guide=guide), eos_ids=(forms.END,),
        read_s=10 ** forming.uniform(-3, 0),
    )  # fmt: skip


class Outcome(msgspec.Struct):
    """The outcome of a session."""

    number: int
    way: str
    identical: bool = False
    error: str = ""
    """Why the text was given up, if it was."""
    unhandled: str = ""
    """An exception that is not one of the library's."""
    form: str = ""
    """Of which kind its guide was, if it had one."""
    prediction: str = ""
    """How true its prediction was, if it had one."""
    faults: dict[str, int] = {}
    """Faults that were felt, by kind."""
    taken: dict[str, int] = {}
    """Tokens that the edges' own proposers got right, by proposer."""
    connections: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Duration by the session's clock."""
    timeline: list[tuple[float, str]] = []


class _EndedError(LinkError):
    """A fault has ended the connection."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Edge(EdgeMachine):
    """An edge that counts what its own proposers get right."""

    taken: Counter[str]

    def forwarded(self, session: int, logits: np.ndarray, now: float, ruling: Ruling | None = None) -> list[Event]:
        """See `EdgeMachine.forwarded`."""
        events = super().forwarded(session, logits, now, ruling)
        for event in events:
            if isinstance(event, Progress) and event.taken:
                self.taken[event.proposer] += event.taken
        return events


class _Life:
    """A session in progress: its text, and the state of both edges."""

    def __init__(self, case: Case, outcome: Outcome, resume: Callable[[Request], Resumable], text: list[int]) -> None:
        """`text`: the one that is to be written."""
        self._case, self._outcome = case, outcome
        self._rng, self._target_text = random.Random(case.aid.seed), text  # noqa: S311
        prediction = () if case.aid.prediction is None else self._like(case.aid.prediction)[: case.context - 1]
        self._text = resume(replace(case.request, prediction=prediction))
        self._propose = [self._tenant(), self._tenant()]
        self.taken = Counter[str]()
        self._backoff = Backoff(0.05, 2.0, 0.5, outcome.number)
        self._now = 0.0
        self._world: Virtual | None = None
        self._site = 0
        self._ending = [fault for fault in case.faults if fault.kind in ENDING]  # those whose moment is yet to come
        self._busy: Fault | None = None
        self._listens_s = [0.0, 0.0]  # when an edge that has ended listens again
        self._takes_s = [0.0, 0.0]  # when an edge that is busy takes texts again
        self._verify_s = [0.0, 0.0]  # of a forward, if the edge has measured one
        self._until_s = max(fault.until_s for fault in case.faults) + PATIENCE_S

    @property
    def now(self) -> float:
        """The session's clock."""
        return self._world.now if self._world else self._now

    def _like(self, kind: Prediction) -> list[int]:
        return predicted(kind, self._target_text, VOCAB, self._rng)

    def _tenant(self) -> Propose:
        """What makes the proposers at an edge that has just begun: the tenant's texts before were half like this."""
        learns, text = self._case.aid.ngram, [*self._case.request.prompt, *self._like("half true")]
        return tenant(tuple(PROPOSERS), [text]) if learns else tenant(USUAL, [])

    def live(self) -> list[int]:
        """Write the text in spite of everything. Raises: `AirdraftError` when it has to be given up."""
        while not self._text.finished:
            delay_s = 0.0
            try:
                self._write()
                if not self._text.finished:
                    raise AirdraftError("a session has finished, and its text has not")
            except (LinkError, RefusedError) as error:
                delay_s = self._lost(error)
            self._now, self._world = self.now + delay_s, None
        return self._text.tokens

    def _lost(self, error: LinkError | RefusedError) -> float:
        """Handle the early end of a connection or a session. Returns how long to wait before the next, in seconds."""
        if isinstance(error, RefusedError) and error.code not in RETRIED:
            raise error
        if isinstance(error, _EndedError):
            error.fault.hit = error.fault.kind != "busy"
            if error.fault.kind == "handover":
                self._site = 1 - self._site
                self._tell(str(error))
                return 0.0
        elif isinstance(error, RefusedError) and error.code == Code.BUSY and self._busy:
            self._busy.hit = True
        delay_s = self._backoff.failed()
        self._tell(f"{error}; again in {delay_s:.3f} s")
        return delay_s

    def _tell(self, what: str) -> None:
        self._outcome.timeline.append((self.now, what))

    def _write(self) -> None:
        """Write over one connection, until it or the text ends."""
        case, now, at = self._case, self._now, self._site
        if now < self._listens_s[at]:
            raise LinkError(f"edge {at} cannot be reached")
        site, target, aid = case.sites[at], case.target(at), case.aid
        draft = table(1 + case.target_seed, target, case.draft_noise, max_context=case.draft_context)
        limits = replace(case.limits, max_sessions=0) if now < self._takes_s[at] else case.limits
        context, eos_ids = target.max_context, target.eos_ids
        identity = Target(
            "chaos", "target", bytes(16), VOCAB, context, eos_ids, trees=case.trees, guides=forms.guides().name
        )
        helped, own = aid.draft_noise is not None, None
        if aid.draft_noise is not None and not aid.draft_fails:
            own = table(2 + case.target_seed, target, aid.draft_noise, max_context=aid.draft_context)
        edge = _Edge(
            identity, limits, now, self._verify_s[at], propose=self._propose[at],
            help=drafting(aid.draft_context) if helped else None, draft_s=aid.draft_share * self._verify_s[at],
        )  # fmt: skip
        edge.taken = self.taken
        device = device_machine(
            Hello(VERSION, "chaos", "draft", bytes(16), VOCAB), draft.max_context, now, lookup=case.lookup,
            wide=case.trees,
        )  # fmt: skip
        device.heartbeat_s = limits.heartbeat_s  # until the edge's welcome says the same
        self._outcome.connections += 1
        self._tell(f"connects to edge {at} with {len(self._text.tokens)} tokens")
        befalling = [(fault.at_s, partial(self._befall, fault)) for fault in self._ending]
        world = Virtual(
            device, edge, draft, target, TroubledLink(site.link, case.faults),
            TroubledCompute(
                site.draft_s, site.verify_s, aid.draft_share * site.verify_s, read_s=case.read_s, faults=case.faults
            ),
            began_s=now, faults=[(now, self._begun), *befalling, (self._until_s, self._give_up)],
            read=forms.guides().make, helping=own,
        )  # fmt: skip
        self._text.ends_with(identity.eos_ids)
        try:
            world.write(self._text.next_request(), self._take)
        finally:
            self._verify_s[at] = 0.0 if world.now < self._listens_s[at] else edge.verify_s

    def _take(self, event: Event) -> None:
        if isinstance(event, Committed):
            self._backoff.succeeded()
        if isinstance(event, Committed | Finished):
            self._text.take(event)
            what = event.kind if isinstance(event, Committed) else event.reason
            self._tell(f"{len(self._text.tokens)} tokens: {what}")

    def _begun(self, world: Virtual) -> None:
        self._world = world

    def _give_up(self, world: Virtual) -> None:
        raise AirdraftError(f"{PATIENCE_S:g} s after the last fault the text was not done")

    def _befall(self, fault: Fault, world: Virtual) -> None:
        """Let a fault strike that ends the connection."""
        self._ending.remove(fault)
        if fault.kind == "tear":
            world.tear(fault.side, fault.strength, _EndedError(fault))
            return
        if fault.kind == "restart":
            self._listens_s[self._site], self._propose[self._site] = world.now + fault.lasts_s, self._tenant()
        elif fault.kind == "busy":
            self._takes_s[self._site], self._busy = world.now + fault.lasts_s, fault
        raise _EndedError(fault)


def expected(case: Case) -> list[int]:
    """The tokens that the target writes alone."""
    asked = case.request
    guide = None if asked.guide is None else forms.guides().make(asked.guide, case.eos_ids)
    return list(alone.write(case.target(0), asked.prompt, asked.params, asked.seed, asked.max_tokens, guide=guide))


def live(number: int, case: Case, resume: Callable[[Request], Resumable] = Resumable) -> Outcome:
    """Live one session and compare its text."""
    outcome = Outcome(number, case.way, form=case.form or "", prediction=case.aid.prediction or "")
    life: _Life | None = None
    try:
        text = expected(case)
        life = _Life(case, outcome, resume, text)
        tokens = life.live()
        outcome.identical, outcome.tokens = tokens == text, len(tokens)
    except AirdraftError as error:
        outcome.error = f"{type(error).__name__}: {error}"
    except Exception:
        outcome.unhandled = traceback.format_exc()
    if life is not None:
        outcome.seconds, outcome.taken = life.now, dict(life.taken)
    outcome.faults = dict(Counter(fault.kind for fault in case.faults if fault.hit))
    return outcome


def session(seed: int, number: int) -> Outcome:
    """Draw and live session `number` of a run with this seed."""
    return live(number, case(seed, number))


def chaos(
    sessions: int, seed: int, jobs: int = 1, on_session: Callable[[int, int], None] = lambda done, of: None
) -> list[Outcome]:
    """Run all sessions, in `jobs` processes."""
    one = partial(_brief, seed)
    outcomes = []
    with processes(jobs) as pool:
        for outcome in pool.map(one, range(sessions), chunksize=8):
            outcomes.append(outcome)
            on_session(len(outcomes), sessions)
    return outcomes


def _brief(seed: int, number: int) -> Outcome:
    """An outcome without its timeline, which is long and can be reproduced."""
    outcome = session(seed, number)
    outcome.timeline = []
    return outcome


def record_of(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """A summary of a run, for JSON."""
    faults = Counter[str]()
    for outcome in outcomes:
        faults.update(outcome.faults)
    felt = Counter(sum(outcome.faults.values()) for outcome in outcomes)
    ways = Counter(outcome.way for outcome in outcomes)
    kinds, predictions = Counter(each.form for each in outcomes), Counter(each.prediction for each in outcomes)
    taken = Counter[str]()
    for outcome in outcomes:
        taken.update(outcome.taken)
    return {
        "seed": seed,
        "sessions": len(outcomes),
        "identical": sum(outcome.identical for outcome in outcomes),
        "faults": {kind: faults[kind] for kind in KINDS},
        "faults_a_session": {str(count): felt[count] for count in sorted(felt)},
        "connections": sum(outcome.connections for outcome in outcomes),
        "tokens": sum(outcome.tokens for outcome in outcomes),
        "guides": {kind: kinds[kind] for kind in forms.KINDS},
        "predictions": {kind: predictions[kind] for kind in PREDICTIONS},
        "taken": {name: taken[name] for name in (*PROPOSERS, DRAFT)},
        "schemes": {way: ways[way] for way in (*WAYS, *GREEDY)},
        "unhandled": sum(bool(outcome.unhandled) for outcome in outcomes),
        "wrong": [
            {"session": outcome.number, "scheme": outcome.way,
             "why": outcome.unhandled or outcome.error or "another text than the target's"}
            for outcome in outcomes if not outcome.identical
        ],
    }  # fmt: skip


def held(record: dict[str, Any]) -> bool:
    """Whether there were sessions, every text was the target's own, no exception went unhandled, and at least as many
    faults as sessions were felt."""
    return bool(
        record["sessions"]
        and record["identical"] == record["sessions"]
        and not record["unhandled"]
        and sum(record["faults"].values()) >= record["sessions"]
    )


def report(record: dict[str, Any]) -> str:
    """The summary as Markdown."""
    felt = {int(count): sessions for count, sessions in record["faults_a_session"].items()}
    lines = ["| fault | what happens | felt |", "|---|---|---:|"]
    lines += [f"| {kind} | {MEANING[kind]} | {record['faults'][kind]:,} |" for kind in KINDS]
    guided = ", ".join(f"{kind}: {count}" for kind, count in record["guides"].items())
    told = ", ".join(f"{kind}: {count}" for kind, count in record["predictions"].items())
    taken = ", ".join(f"{name}: {count:,}" for name, count in record["taken"].items())
    histogram = ", ".join(f"{count}: {sessions}" for count, sessions in felt.items())
    return "\n".join([
        f"{record['identical']:,} of {record['sessions']:,} texts were the target's own, to the token; "
        f"{record['unhandled']} exceptions were unhandled. {record['tokens']:,} tokens over "
        f"{record['connections']:,} connections. {sum(record['guides'].values()):,} texts had a guide: {guided}. "
        f"{sum(record['predictions'].values()):,} had a prediction: {told}. "
        f"Tokens that the edges' own proposers got right: {taken}.",
        "", *lines, "", f"Sessions by how many faults each felt: {histogram}.",
    ])  # fmt: skip
