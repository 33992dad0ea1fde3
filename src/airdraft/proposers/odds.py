"""The chance that proposed tokens are right, learned from what became of earlier ones in the same text.

Every proposal is compared with the text when that has grown, whether it was in a forward or not. So a proposer that has
been silent for a while finds out that it would be right again.
"""

from __future__ import annotations

from collections.abc import Sequence

PACE = 0.1
"""Share of an old estimate that one outcome replaces: some ten outcomes make a new one."""
WORTH = 0.1
"""Chance from which a proposed token is worth its row of a forward.

A row among a few costs less than a forward. How much less depends on the engine, and is not measured.
"""
DEVICE = 0.75
"""Chance that a draft of the device is right, before any is seen."""


class Odds:
    """The chances of one proposer in one text."""

    def __init__(self, chances: Sequence[float]) -> None:
        """`chances`: before any outcome, for each grade of sureness. A token behind right ones is a grade surer."""
        self._chances, self._device = list(chances), DEVICE
        self._start = 0  # position of the last proposal, the device's drafts before it included
        self._tokens: Sequence[int] = ()
        self._drafts = self._grade = 0
        self.right = 0.0
        """How many of the tokens that `worth` counted last are right in the mean."""

    def note(self, text: Sequence[int], drafts: Sequence[int], tokens: Sequence[int], grade: int) -> None:
        """Keep a proposal of `tokens` after `text` and `drafts`, to learn from it later."""
        self._start, self._tokens = len(text), (*drafts, *tokens)
        self._drafts, self._grade = len(drafts), grade

    def learn(self, text: Sequence[int]) -> None:
        """Compare the last proposal with the text, as far as that has grown."""
        came = text[self._start : self._start + len(self._tokens)]
        for at, (guess, token) in enumerate(zip(self._tokens, came, strict=False)):
            right = guess == token
            if at < self._drafts:
                self._device += PACE * (right - self._device)
            else:
                grade = min(self._grade + at - self._drafts, len(self._chances) - 1)
                self._chances[grade] += PACE * (right - self._chances[grade])
            if not right:
                break
        if came:
            self._tokens = ()

    def worth(self, grade: int, drafts: int, most: int) -> int:
        """Count the tokens that are worth a row, at most `most`, behind so many drafts of the device.

        A token counts only if all before it are right, and so its chance is a product.
        """
        chance, count = self._device**drafts, 0
        self.right = 0.0
        while count < most:
            chance *= self._chances[min(grade + count, len(self._chances) - 1)]
            if chance < WORTH:
                break
            count += 1
            self.right += chance
        return count
