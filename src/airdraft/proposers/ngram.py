"""`ngram`: what followed the last tokens in another text of the same tenant, once it was committed there.

A table that is learned as texts are written (as in ADED, 2025). It holds what came last after each run of tokens, in a
fixed number of places; a run that meets another in its place takes it over. Prompts are not learned, and tenants share
no table. On the shipped pair it is seldom right, so an edge has it only if told so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airdraft.proposers.odds import Odds

RUN = 3
"""Tokens that are looked up."""
MOST = 8
"""Most tokens that are proposed at once."""
BITS = 16
"""Places of a table, as a power of 2: 12 bytes each."""
CHANCES = (0.2, 0.4, 0.6)
"""Chance that the next token is right after 0, 1 and more right ones, before any was tried."""
_MIX, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


class Ngrams:
    """The table of one tenant."""

    def __init__(self) -> None:
        self._runs, self._next = np.zeros(1 << BITS, np.uint64), np.zeros(1 << BITS, np.int32)

    def learn(self, text: Sequence[int], start: int) -> None:
        """Learn what the tokens of `text` from position `start` on followed."""
        for at in range(max(start, RUN), len(text)):
            mark = _mark(text[at - RUN : at])
            self._runs[mark >> (64 - BITS)], self._next[mark >> (64 - BITS)] = mark, text[at]

    def after(self, run: Sequence[int]) -> int | None:
        """Return what followed these `RUN` tokens last. None: nothing that is known."""
        mark = _mark(run)
        return int(self._next[mark >> (64 - BITS)]) if int(self._runs[mark >> (64 - BITS)]) == mark else None


class Ngram:
    """A proposer that looks into the table."""

    name = "ngram"

    def __init__(self, table: Ngrams) -> None:
        self._table, self._odds = table, Odds(CHANCES)
        self._seen: int | None = None  # tokens of the text that are learned, or stand in its prompt

    @property
    def right(self) -> float:
        """See `Proposer.right`."""
        return self._odds.right

    def propose(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Sequence[int]:
        """See `Proposer.propose`."""
        self._odds.learn(text)
        if self._seen is not None:
            self._table.learn(text, self._seen)
        self._seen = len(text)
        ahead = [*text[-RUN:], *drafts]
        begun = len(ahead)
        while RUN <= len(ahead) < begun + MOST and (token := self._table.after(ahead[-RUN:])) is not None:
            ahead.append(token)
        tried = ahead[begun:]
        if not tried:
            return ()
        self._odds.note(text, drafts, tried, 0)
        return tried[: self._odds.worth(0, len(drafts), min(most, MOST))]

    def dropped(self, start: int, drafts: Sequence[int]) -> None:
        """See `Proposer.dropped`. They were never committed."""


def _mark(run: Sequence[int]) -> int:
    """A hash of the run, never 0."""
    state = 0
    for token in run:
        state = ((state ^ (token + 1)) * _MIX) & _MASK
        state ^= state >> 29
    return (state * _MIX) & _MASK | 1
