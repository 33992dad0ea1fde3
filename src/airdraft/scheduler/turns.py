"""Turns: who goes next, and how much of a prompt. Decides only; runs nothing, waits for nothing.

Spare forwards take what others leave. Else the tenant that has taken least of the engine goes first, and each has one
turn before any has a second; so do the clients of one tenant among themselves. Time of the engine is counted as in fair
queueing by start times (Goyal et al. 1996): who was idle begins level with who is served now, and has saved up nothing.
A long prompt is fed piece by piece, so that it holds no other text up for longer than a piece takes (Agrawal et al.
2024, Sarathi-Serve §4).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from airdraft.core.events import Forward
from airdraft.errors import ModelError
from airdraft.models.base import Cache, Portable, Tensors
from airdraft.models.lineage import Lineage

PIECE = 128
"""Tokens of prompts in one call, at most."""
REST_S = 10.0
"""Seconds after which a text that rests gives its place up to any other that needs one."""
CROWD = 2
"""So many more places than another a tenant must hold to give one of them up to it, of whatever text rests."""


@dataclass(eq=False)
class Owner:
    """Groups sequences, for fair turns: those of a tenant, or of one client of a tenant."""

    tenant: Owner | None = None
    """Whose client it is; None: it is a tenant itself."""
    spent_s: float = 0.0
    """Seconds of the engine that its sequences took. A call is shared out by the tokens fed."""
    level_s: float = 0.0
    """What the member that was served last had spent before. Who comes back from idling begins there."""


@dataclass(frozen=True)
class Call:
    """One call of the engine, for who measures."""

    seconds: float
    texts: int
    tokens: int
    """Fed, of all texts."""


@dataclass(eq=False)
class Sequenced:
    """One sequence in the engine."""

    owner: Owner
    tokens: list[int] = field(default_factory=list)
    """As fed last."""
    cache: Cache | None = None
    """None before the first call, and after an eviction."""
    cached: int = 0
    """The first so many tokens are in the cache."""
    used: int = 0
    """When it was run last, in calls."""
    running: bool = False
    """Whether a call feeds it, or copies its cache."""
    since: float = math.inf
    """Arrival of the forward that it is halfway through, more pieces to come. No later one may take its cache, or two
    long texts would for ever take it from each other."""
    over: bool = False
    """Whether it is written; its cache may remain for others that begin alike."""
    asked: float = math.inf
    """Arrival of the forward that it waits for, or runs."""
    reused: int = 0
    """Tokens of its first forward that were not fed, as the cache of another text held them."""
    on_call: Callable[[Call], None] | None = None
    """Told after every call that it had a part in."""
    rested_s: float = math.inf
    """Time since when it rests; inf while a forward of it waits or runs."""
    on_yield: Callable[[], None] | None = None
    """Told when its place was given to another, see `Scheduler.open`."""
    lineage: Lineage | None = None
    """Which of its tokens follows which; None: they are a chain."""
    private: int | None = None
    """The position from which on it is private: what follows is shared with no text, kept for none, and overwritten."""

    def public(self, tokens: Sequence[int]) -> Sequence[int]:
        """Those that others may begin with, of the tokens that it begins with."""
        return tokens[: self.private]


class Origin(NamedTuple):
    """What a text without a cache begins with: a copy of the first `length` positions of another text's."""

    text: Sequenced
    length: int


class Splice(NamedTuple):
    """Keys and values of a text's positions `start` to `end`, which came from elsewhere and need not be computed."""

    start: int
    end: int
    pieces: Sequence[Tensors]
    """One after the other."""

    def put(self, cache: Cache | None) -> None:
        """Add them to the first `start` positions of a cache. Raises: `ModelError` if it takes none."""
        if not isinstance(cache, Portable):
            raise ModelError("this engine takes no keys and values from elsewhere; leave --prompts out")
        cache.put(self.start, [np.concatenate(each, 1) for each in zip(*self.pieces, strict=True)])


class Step(NamedTuple):
    """What a prompt does next whose keys and values are on their way."""

    splice: Splice | None = None
    """Take over these."""
    piece: int | None = None
    """Then compute so many tokens at most; None: as many as any prompt."""
    waits: bool = False
    """Or wait, until it is woken."""


class Turn(NamedTuple):
    """A forward that waits to be run."""

    text: Sequenced
    forward: Forward
    arrival: int
    """Its place among all forwards that ever came."""
    origin: Origin | None = None
    step: Step = Step()

    @property
    def tokens(self) -> list[int]:
        """The whole text, to the end of the forward."""
        had, keep = self.text.tokens, self.forward.keep
        return [*had[:keep], *(had[keep + pick] for pick in self.forward.picks), *self.forward.tokens]

    @property
    def lineage(self) -> Lineage:
        """Which of these tokens follows which. Raises: `ModelError` for what is no tree."""
        had, forward = self.text.lineage or Lineage(len(self.text.tokens)), self.forward
        return had.kept(forward.keep, forward.picks).grown(len(forward.tokens), forward.parents)

    @property
    def scored(self) -> int:
        """Tokens at the end that must be fed, for their rows or because a forward needs one."""
        return max(self.forward.rows, 1)


class Share(NamedTuple):
    """What a forward gets of one call: the tokens from `start` to `end`."""

    text: Sequenced
    arrival: int
    tokens: list[int]
    """The whole text, to the end of the forward."""
    start: int
    end: int
    rows: int
    """0 unless this share is the last."""
    origin: Origin | None = None
    """Where the first `start` positions come from, if not from the text's own cache."""
    lineage: Lineage | None = None
    """Which of the tokens follows which; None: they are a chain."""
    picks: tuple[int, ...] = ()
    """As in `Part`: the last of the first `start` tokens, where they lie in the cache."""
    splice: Splice | None = None
    """The last of the first `start` positions, which are not in that cache."""
    forward: Forward | None = None
    """Whose rows it gives."""

    @property
    def texts(self) -> list[Sequenced]:
        """Those whose caches it needs as they are: its own, and the one that it begins with."""
        return [self.text] if self.origin is None else [self.text, self.origin.text]

    @property
    def is_last(self) -> bool:
        return self.end == len(self.tokens)

    @property
    def fed(self) -> int:
        return self.end - self.start

    @property
    def is_prompt(self) -> bool:
        """Whether it feeds more than its rows need."""
        return self.fed > max(self.rows, 1)


def tenant_of(text: Sequenced) -> Owner:
    """The tenant that a sequence belongs to."""
    return text.owner.tenant or text.owner


def who_yields(texts: Collection[Sequenced], newcomer: Sequenced) -> Sequenced | None:
    """Return the text that gives its place up to `newcomer`. It rests: none of its forwards waits or runs.

    It has rested for `REST_S`, or it is one of the tenant that holds the most places, more than the newcomer's. So who
    is silent keeps nobody out for long, and no tenant keeps out the others.
    """
    places = Counter(map(tenant_of, texts))
    most = max(places.values())
    crowded = most >= places[tenant_of(newcomer)] + CROWD
    for text in sorted((each for each in texts if each.rested_s < math.inf), key=lambda each: each.rested_s):
        long = text.rested_s <= newcomer.rested_s - REST_S
        if long or (crowded and places[tenant_of(text)] == most):
            return text
    return None


class Ledger:
    """What tenants, and the clients of each, have taken of one engine."""

    def __init__(self) -> None:
        self._everybody = Owner()

    def _groups(self, text: Sequenced) -> list[tuple[Owner, Owner]]:
        """Who pays for a sequence, each with the group in which it takes turns."""
        tenant = tenant_of(text)
        return [(tenant, self._everybody), *([(text.owner, tenant)] if text.owner is not tenant else [])]

    def arrived(self, text: Sequenced) -> None:
        """Note a forward that comes to wait. Its owners have saved up nothing while they were idle."""
        for owner, group in self._groups(text):
            owner.spent_s = max(owner.spent_s, group.level_s)

    def served(self, shares: Sequence[Share]) -> None:
        """Note that a call begins."""
        for share in shares:
            for owner, group in self._groups(share.text):
                group.level_s = max(group.level_s, owner.spent_s)

    def spent(self, shares: Sequence[Share], seconds: float) -> None:
        """Share out what a call took."""
        fed = sum(share.fed for share in shares)
        for share in shares:
            for owner, _ in self._groups(share.text):
                owner.spent_s += seconds * share.fed / fed


def in_turn(waiting: Sequence[Turn]) -> list[Turn]:
    """Spare forwards last; the first of every tenant before the second of any; who has spent least first. Likewise the
    clients of each tenant, and then who came first.
    """
    arrived = sorted(waiting, key=lambda turn: turn.arrival)
    return _by_turns(_by_turns(arrived, lambda text: text.owner), tenant_of)


def _by_turns(turns: Sequence[Turn], owner_of: Callable[[Sequenced], Owner]) -> list[Turn]:
    """Let owners alternate. Turns of one owner keep their order."""
    poorest = sorted(turns, key=lambda turn: (turn.forward.spare, owner_of(turn.text).spent_s))
    seen: Counter[Owner] = Counter()
    ranks = []
    for at, turn in enumerate(poorest):
        owner = owner_of(turn.text)
        seen[owner] += 1
        ranks.append((turn.forward.spare, seen[owner], at))
    return [poorest[at] for _, _, at in sorted(ranks)]


class Batch:
    """The shares of one call, while it is put together."""

    def __init__(self, most: int, pieces: bool) -> None:
        """`most`: shares in it. `pieces`: whether prompts are cut, which is for the sake of others in the engine."""
        self._most = most
        self._pieces = pieces
        self._left = PIECE
        self.shares: list[Share] = []

    @property
    def full(self) -> bool:
        return len(self.shares) == self._most

    @property
    def takes_prompts(self) -> bool:
        """Whether another piece of a prompt fits in."""
        return not self._pieces or self._left > 0

    def share(self, turn: Turn) -> Share | None:
        """What of a forward fits in. None: nothing, as prompts have had their part."""
        text, forward, lineage, scored = turn.text, turn.forward, turn.lineage, turn.scored
        tokens, picks = turn.tokens, forward.picks
        end = len(tokens)
        if picks and text.cached > forward.keep + picks[-1]:  # they refer to what was fed last, so all is fed now
            return Share(
                text,
                turn.arrival,
                tokens,
                end - len(forward.tokens),
                end,
                forward.rows,
                None,
                lineage,
                picks,
                None,
                forward,
            )
        start = min(forward.keep, text.cached)  # less is cached where it lost its cache
        before = text.lineage or Lineage(len(text.tokens))
        while start < min(text.cached, end) and tokens[start] == text.tokens[start]:
            if lineage.parent(start) != before.parent(start):
                break
            start += 1  # a piece of it is there already
        if turn.origin is not None:
            start = turn.origin.length
        splice, piece = turn.step.splice, self._left
        if splice is not None:
            start = splice.end
        if turn.step.piece is not None:
            piece = min(piece, turn.step.piece)
        start = min(start, end - scored)
        if not self._pieces or end - start <= max(scored, piece):
            return Share(
                text, turn.arrival, tokens, start, end, forward.rows, turn.origin, lineage, (), splice, forward
            )
        if piece <= 0:
            return None
        end = min(start + piece, end - scored)
        return Share(text, turn.arrival, tokens, start, end, 0, turn.origin, lineage, splice=splice)

    def add(self, share: Share) -> None:
        self.shares.append(share)
        if share.is_prompt:
            self._left -= share.fed
