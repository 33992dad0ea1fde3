"""Rows that tell too little of what a text's guide allows, and further requests that make up for it.

Engines behind HTTP tell the likeliest tokens of a row, before their own masks. Where a guide allows few of those, more
is asked about the same prompt, which the prefix cache then holds: the log-probabilities of named tokens, or of more of
the likeliest. Both are the model's own, before any mask, so a row stays one distribution. The engines' own grammars are
of no use for this, as they begin anew with each prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from airdraft.models.base import FloatArray, Wanted

Top = Iterable[tuple[int, float]]
"""Tokens of one row: ids and log-probabilities, in any order."""


@dataclass(frozen=True, eq=False)
class Short:
    """A row that tells too little."""

    prompt: list[int]
    """The tokens before it."""
    row: FloatArray
    """What is told by now, [vocab]. It is added to in place."""
    wanted: Wanted

    @cached_property
    def ids(self) -> list[int]:
        """The tokens that are allowed."""
        found: list[int] = self.wanted.allowed.nonzero()[0].tolist()
        return found

    @property
    def lacks(self) -> int:
        """How many of the tokens that are wanted it does not tell by now."""
        return self.wanted.lacks(self.row)

    def add(self, top: Top, *, every: bool) -> None:
        """Add what an engine has told of the allowed tokens. `every`: nothing, unless it is all of them."""
        found = {token: logprob for token, logprob in top if token < self.row.size}
        known = [token for token in self.ids if token in found]
        if not every or len(known) == len(self.ids):
            self.row[known] = [found[token] for token in known]


@dataclass(frozen=True)
class Inquiry:
    """Requests about some rows, in order, whose replies are read together."""

    short: Sequence[Short]
    bodies: Sequence[bytes]
    entries: int
    """Most tokens of one row in one reply."""
    every: bool = False
    """Whether all that is allowed in these rows is named in one of the requests."""


def shared(short: Iterable[Short], most: int) -> Iterator[tuple[list[Short], list[int]]]:
    """Group rows whose allowed tokens are at most so many together, one after the other. Yields rows and tokens."""
    group, union = list[Short](), set[int]()
    for each in short:
        if group and len(union.union(each.ids)) > most:
            yield group, sorted(union)
            group, union = [], set()
        group.append(each)
        union.update(each.ids)
    if group:
        yield group, sorted(union)
