"""The drafting half of a text, which draws tokens from the drafter's guesses and sends them when due."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from airdraft.core.device.branch import Branch
from airdraft.core.device.rounds import DeviceRounds
from airdraft.core.device.stream import DeviceStream
from airdraft.core.device.tree import Tree, shape
from airdraft.core.drafting import Ask, Drafter, Grower
from airdraft.core.events import Forward, Offered, Out
from airdraft.core.law import Law, Place
from airdraft.core.messages import MOST_NODES, REACH, Draft, SchemeSpec, Welcome
from airdraft.core.policy import Facts, Learner, Mode, Policy
from airdraft.core.request import Request
from airdraft.core.schemes import Drafts, Guess, Scheme
from airdraft.core.states import DeviceState as State
from airdraft.core.text import Prefix
from airdraft.errors import GuideError

DRAFT_HEADER = 80
"""Most bytes in a `Draft` message besides its body."""
DRAFT_BYTES = 19
"""Approximate size of a `Draft` without its body, good enough to estimate the link's rate."""
MOST_DRAFT = 256
"""Most tokens in one round, even if the edge allows more."""


@dataclass
class Peer:
    """The edge's description of itself."""

    welcome: Welcome
    verify_s: float
    """Duration of a target forward in seconds; 0 if not known."""


@dataclass(frozen=True)
class Making:
    """The parts shared by all texts of one connection."""

    peer: Peer
    learner: Learner
    plan: Callable[[Request, int, int], Policy]
    """Makes the policy of a request without one, given the vocabulary size and the longest draft."""
    make: Callable[[SchemeSpec, Law, int], Scheme]
    drafter: Callable[[], Drafter]
    draft_context: int
    """Most positions that the draft model holds."""
    wide: bool
    """Whether the draft model's forwards may have `parents` and `picks`."""
    vocab_size: int

    def facts(self) -> Facts:
        """What is learned of the connection so far, and what the edge has said of itself."""
        facts, welcome = self.learner.facts(), self.peer.welcome
        beside = facts.beside if self.wide and welcome.trees > 0 else 0.0
        return replace(facts, beside=beside, edge_draft_s=welcome.draft_s or 0.0)


class Pen:
    """Drafts and sends under the session's current scheme and mode."""

    scheme: Scheme
    mode: Mode
    facts: Facts
    state: State

    def __init__(self, number: int, text: Prefix, law: Law, request: Request, making: Making) -> None:
        self._drafter, self._request = making.drafter(), request
        grower = self._drafter if isinstance(self._drafter, Grower) else None
        self._alone, self._wide = grower is not None, grower if making.wide else None
        self._live = 0 if request.branches == 0 else min(making.peer.welcome.trees, MOST_NODES)
        self._tries = self.measures and self._wide is not None
        self._tree = Tree(text, self._drafter, self._live, making.draft_context, self._wide)
        self.rows, self._void = 0, False  # rows that the drafter waits for, and whether they are of no use
        self.branch: Branch | Tree = Branch(text, self._drafter)
        self.rounds, self.stream = DeviceRounds(), DeviceStream()
        self.seq = 0
        """Number of the last `Draft`."""
        welcome = making.peer.welcome
        self.most = min(welcome.max_draft, MOST_DRAFT)  # the policy considers every length up to this one
        self._end = min(int(text.end) - 1, making.draft_context)  # the bonus token needs a place too
        self._max_bits = max(0, welcome.max_frame - DRAFT_HEADER) * 8
        self._number, self._text, self._law, self._learner = number, text, law, making.learner
        self._asked_s, self._asked_most, self._vain = 0.0, 0, False  # the last: whether drafts would come too late
        self._copied = set[int]()  # where the last draft was a copy

    def begin(self, state: State, scheme: Scheme) -> None:
        """Go on without drafts. Streams draft trees where the edge takes them."""
        self.state, self.scheme = state, scheme
        self.branch.clear()
        is_tree, was = self._live > 0 and state is State.STREAMING, isinstance(self.branch, Tree)
        if is_tree != was:
            self._void, self._tree.asking = self.branch.asking, False
            self.branch = self._tree if is_tree else Branch(self._text, self._drafter)
            self.branch.asking = self._void
            self.branch.clear()

    def told(self, rows: np.ndarray, now: float) -> None:
        """Take the draft model's rows [rows, vocab]."""
        self._learner.drafted(now - self._asked_s, len(rows))
        if self._tries and self.facts.widening is None:
            self.facts = self._learner.facts()
        self._request.counts.draft_rows += len(rows)
        branch, drafts = self.branch, self.state in (State.DRAFTING, State.STREAMING)
        if self._void:  # asked for by another branch
            self._void = branch.asking = False
        elif isinstance(branch, Tree):
            branch.told(rows, self.scheme, self.reach if drafts else 0, self._shape[1])
        else:
            guesses = branch.told(rows[0])
            if drafts:
                self._draft(branch, guesses[: self._asked_most])

    def advance(self, now: float) -> list[Out]:
        """Draft another token, or send the drafts."""
        if self.state is State.DRAFTING and isinstance(self.branch, Branch):  # rounds have no trees, see `begin`
            return self._advance_round(self.branch, now)
        return self._advance_stream(now) if self.state is State.STREAMING else []

    def copies(self, accepted: Sequence[int]) -> frozenset[int]:
        """Return which of these drafts, the next ones, are copies, counted from 0."""
        if isinstance(self.branch, Tree):
            return self.branch.copies(accepted)
        start = self._text.length
        return frozenset(at for at in range(len(accepted)) if start + at in self._copied)

    @property
    def reach(self) -> int:
        """Position where a stream's drafts must end for now."""
        window = min(self.mode.length, REACH * self.most) if self.mode.traits.drafts and not self._vain else 0
        return min(self._text.length + window, self._end)

    @property
    def is_answer_due(self) -> bool:
        """Whether the edge must answer what it has, even if nothing more is sent."""
        if self.state is not State.STREAMING:
            return self.state in (State.VERIFYING, State.RECOVERING, State.SWITCHING)
        alone = self.scheme.race == "always" or self.stream.silent or self._text.length + 1 >= self._text.end
        return alone or self.branch.flying

    @property
    def measures(self) -> bool:
        """Whether the shape of trees is to be chosen by measurement."""
        return self._live > 0 and self._request.branches is None

    @property
    def _shape(self) -> tuple[int, int]:
        """Number of drafts behind which a step of a tree runs the draft model, and most drafts behind one."""
        tries = self._tries and self.facts.widening is None
        width, children = shape(self.facts, self._request.branches, self._wide is not None, self._alone)
        return (1 if tries and self.rows > 1 else width), children  # both kinds in turn, to learn what a wide one costs

    def _draft(self, branch: Branch, guesses: Sequence[Guess]) -> None:
        """Draw tokens from the guesses, until the round or the text ends."""
        for at, guess in enumerate(guesses):
            if at and self._is_enough(branch):
                break
            place = branch.place
            try:
                drafted = self.scheme.draw(guess, place)
                branch.append(drafted.token)
            except GuideError:
                branch.stuck = True
                break
            (self._copied.add if isinstance(guess, int) else self._copied.discard)(branch.end - 1)
            if self.state is State.DRAFTING:
                self.rounds.drafts.append(drafted)
                if self._request.rule:  # it needs the model's probability; a believed token has none
                    self.rounds.probs.append(self._chance(guess, drafted.token, place))

    def _chance(self, guess: Guess, token: int, place: Place) -> float:
        """Chance of a draft. The noise tells more of it than the draft model alone, where both sides draw with it."""
        if isinstance(guess, int):
            return 1.0
        if self.scheme.traits.exact == "text":
            return math.exp(self.scheme.likely(guess, place, 1)[0][1])
        return float(self._law.probs(guess, place)[token])

    def _is_enough(self, branch: Branch) -> bool:
        """Whether to stop drafting, though more tokens are allowed."""
        drafts, rule = branch.drafts, self._request.rule
        if not drafts:
            return False
        if drafts[-1] in self._text.eos_ids:
            return True
        if rule is None or self.state is not State.DRAFTING:
            return False
        return not rule.more([self._learner.chance(prob) for prob in self.rounds.probs], self.facts)

    def _advance_round(self, branch: Branch, now: float) -> list[Out]:
        length = self.most if self._request.rule else self.mode.length
        fit = int(min(self._max_bits, self.scheme.traits.body_bits)) // self.scheme.draft_bits
        most = min(length, self.most, fit, self._end - self._text.length)
        while len(branch.drafts) < most and not self._is_enough(branch):
            if (asked := self._want(branch, most - len(branch.drafts), now)) is not None:
                return asked
        return self._end_round(now)

    def _end_round(self, now: float) -> list[Out]:
        self.rounds.sent_s, self.state = now, State.VERIFYING
        return self._send(self._text.length, self._text.digest, self.rounds.take())

    def _advance_tree(self, tree: Tree, now: float) -> list[Out]:
        outs, end = list[Out](), self.reach
        while True:
            more = tree.asking or bool(tree.open(end))
            outs += self._send_due(now, more)
            wanted = None if tree.asking else tree.want(end, self._shape[0])
            if isinstance(wanted, Ask):
                return [*outs, self._ask(wanted, now, end)]
            if wanted is None:
                return outs
            if not tree.take(wanted, self.scheme, end, self._shape[1]):
                # As for a chain: an empty draft tells the edge to go on alone until the next one; once is enough.
                return outs if self.stream.silent else [*outs, *self._send_branch(now)]

    def _ask(self, ask: Ask, now: float, most: int) -> Forward:
        self._asked_s, self._asked_most, self.rows = now, most, ask.rows
        return Forward(self._number, ask.keep, ask.tokens, ask.rows, parents=ask.parents, picks=ask.picks)

    def _advance_stream(self, now: float) -> list[Out]:
        self._vain = self.mode.race == "always" and self._learner.late(self._number, now, self.seq, self.stream.heard)
        if isinstance(self.branch, Tree):
            return self._advance_tree(self.branch, now)
        branch, outs, end = self.branch, list[Out](), self.reach
        while True:
            more = branch.end < end and not self._is_enough(branch)
            outs += self._send_due(now, more)
            if not more:
                return outs
            asked = self._want(branch, end - branch.end, now)
            if asked is not None:
                return [*outs, *asked]

    def _send_due(self, now: float, more: bool) -> list[Out]:
        due = self.stream.is_due(self.branch, self.mode, self.facts, now, more, self._learner.queued_s(now))
        return self._send_branch(now) if due else []

    def _send_branch(self, now: float) -> list[Out]:
        start, digest, drafts, parents = self.branch.send()
        self.stream.sends(self.seq + 1, len(drafts), self.facts, now, self._learner.queued_s(now))
        return self._send(start, digest, Drafts.of_tokens(drafts), parents)

    def _want(self, branch: Branch, most: int, now: float) -> list[Out] | None:
        """Ask the drafter for more. Returns the steps needed before it can go on, or None if it has drafted."""
        if branch.asking:
            return []
        wanted = () if branch.stuck else branch.want(most)
        if isinstance(wanted, Ask):
            return [self._ask(wanted, now, most)]
        if wanted:
            self._draft(branch, wanted[:most])
            return None
        if self.state is State.DRAFTING:
            return self._end_round(now)
        if branch.drafts:  # what is in flight brings a commit, and then the drafter is asked again
            return self._send_due(now, more=False)
        # An empty draft tells the edge to go on alone until the next one; once is enough.
        return [] if self.stream.silent else self._send_branch(now)

    def _send(self, start: int, digest: int, drafts: Drafts, parents: bytes = b"") -> list[Out]:
        body, rounds, counts = self.scheme.encode(drafts), self.rounds, self._request.counts
        self.seq += 1
        counts.rounds += self.scheme.traits.rounds
        counts.drafted += len(drafts)
        counts.uplink_payload_bytes += len(body)
        rounds.sent_bytes = len(body) + len(parents) + DRAFT_BYTES
        recovered, rounds.recovered = rounds.recovered, None
        return [
            Offered(self._number, start, len(drafts), len(body)),
            Draft(self._number, self.seq, start, self._text.length, digest, len(drafts), body, recovered, parents),
        ]
