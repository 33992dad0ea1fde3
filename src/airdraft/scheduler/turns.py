"""Turns: who goes next, and how much of a prompt. Decides only; runs nothing, waits for nothing.

Spare forwards take what others leave. Else the connection that was served least lately goes first, and each has one
turn before any has a second. A long prompt is fed piece by piece, so that it holds no other text up for longer than a
piece takes (Agrawal et al. 2024, Sarathi-Serve §4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from airdraft.core.events import Forward
from airdraft.models.base import Cache

PIECE = 128
"""Tokens of prompts in one call, at most."""


@dataclass
class Owner:
    """Groups the sequences of one connection, for fair turns."""

    served: int = 0
    """When it was served last, in calls."""


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
    since: float = math.inf
    """Arrival of the forward that it is halfway through, more pieces to come. No later one may take its cache, or two
    long texts would for ever take it from each other."""
    over: bool = False
    on_call: Callable[[Call], None] | None = None
    """Told after every call that it had a part in."""


class Turn(NamedTuple):
    """A forward that waits to be run."""

    text: Sequenced
    forward: Forward
    arrival: int
    """Its place among all forwards that ever came."""


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


def in_turn(waiting: Sequence[Turn]) -> list[Turn]:
    """Spare forwards last; the first of every owner before the second of any; who was served least lately first."""
    lately = sorted(waiting, key=lambda turn: (turn.forward.spare, turn.text.owner.served, turn.arrival))
    seen: dict[int, int] = {}
    ranks = []
    for at, turn in enumerate(lately):
        owner = id(turn.text.owner)
        seen[owner] = seen.get(owner, 0) + 1
        ranks.append((turn.forward.spare, seen[owner], at))
    return [lately[at] for _, _, at in sorted(ranks)]


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

    def share(self, turn: Turn) -> Share | None:
        """What of a forward fits in. None: nothing, as prompts have had their part."""
        text, forward = turn.text, turn.forward
        tokens = [*text.tokens[: forward.keep], *forward.tokens]
        start, end = min(forward.keep, text.cached), len(tokens)  # less is cached where it lost its cache
        while start < text.cached and start < end and tokens[start] == text.tokens[start]:
            start += 1  # a piece of it is there already
        scored = max(forward.rows, 1)
        start = min(start, end - scored)
        if not self._pieces or end - start <= max(scored, self._left):
            return Share(text, turn.arrival, tokens, start, end, forward.rows)
        if self._left <= 0:
            return None
        return Share(text, turn.arrival, tokens, start, min(start + self._left, end - scored), 0)

    def add(self, share: Share) -> None:
        self.shares.append(share)
        if share.is_prompt:
            self._left -= share.fed
