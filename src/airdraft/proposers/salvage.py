"""`salvage`: tries the rest of a dead branch again, in its place.

A commit that differs from a draft ends the branch, and the drafts behind it are dead. But both models draw with the
noise of the position, and a word more or less often changes little, so the next tokens are often right all the same.
Drafts of that branch which were still on the link join it when they arrive.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.proposers.odds import Odds

DEPTH = 4
"""Most tokens that are tried at once."""
CHANCES = (0.5,)
"""Chance that one of them is right, before any was tried."""


class Salvage:
    """A proposer that uses dead drafts again."""

    name = "salvage"

    def __init__(self) -> None:
        self._odds = Odds(CHANCES)
        self._start = 0
        self._dead: list[int] = []  # at the positions from `_start` on

    @property
    def right(self) -> float:
        """See `Proposer.right`."""
        return self._odds.right

    def propose(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Sequence[int]:
        """See `Proposer.propose`. Where the device has live drafts, its dead ones are silent."""
        self._odds.learn(text)
        passed = len(text) - self._start
        if passed > 0:  # the text has gone on
            del self._dead[:passed]
            self._start += passed
        if drafts or passed < 0 or not self._dead:
            return ()
        tried = self._dead[:DEPTH]
        self._odds.note(text, (), tried, 0)
        return tried[: self._odds.worth(0, 0, min(most, DEPTH))]

    def dropped(self, start: int, drafts: Sequence[int]) -> None:
        """See `Proposer.dropped`."""
        if start == self._start + len(self._dead):
            self._dead += drafts
        else:
            self._start, self._dead = start, list(drafts)
