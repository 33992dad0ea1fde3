"""The cascade: copies what followed the text's last tokens before where that is the better guess, else asks a model.

A draft costs the time to make it, and if it is wrong a round trip and a forward of the target, until the device learns
of it. So a token that is right with chance p and takes t seconds costs t + (1 - p) · miss. A copy takes no time: it is
taken where it is at most t / miss less likely to be right than the model's token. Both chances are measured in each
text, by how long a run of tokens the copy follows. A copy that was not drafted is compared with the text all the same.

Without a model, copies are all there is, and where the text repeats nothing the device drafts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from airdraft.core.drafting import Ask, ModelDrafter
from airdraft.core.law import Place
from airdraft.core.policy import Facts
from airdraft.core.schemes import Guess
from airdraft.proposers.index import LONGEST, SHORTEST, Index, tail
from airdraft.proposers.lookup import CHANCES, MOST, copy
from airdraft.proposers.odds import PACE, WORTH

MODEL = (0.7, 0.8, 0.8, 0.85, 0.85, 0.9)
"""Chance that the model's token is right where there is no copy, and after 2 to 6 equal tokens, before any is seen."""
REVIEW = 32
"""Tokens of text after which the costs are looked up again."""
_WRONG = -1


class Cascade:
    """A drafter that copies or asks a model, by measured success and cost."""

    def __init__(self, context: int, facts: Callable[[], Facts]) -> None:
        """
        Args:
            context: most positions that the draft model holds; 0: there is none.
            facts: what is known of the link and the models at its ends.
        """
        self._context, self._facts = context, facts
        self._model, self._index = ModelDrafter(), Index()
        self._copies, self._models = list(CHANCES), list(MODEL)
        # What was guessed at each position not committed yet, and the chance that it has. A model's token is not known
        # before it is drawn.
        self._drafted: dict[int, tuple[int | None, list[float], int]] = {}
        self._unsaid: dict[int, tuple[int | None, list[float], int]] = {}  # copies where the model was asked
        self._asked: tuple[int, int] | None = None  # position and chance of the row asked for
        self._spared, self._review = 0.0, 0  # share of a miss that the model's token takes to make; when to look again

    def want(
        self, text: Sequence[int], drafts: Sequence[int], most: int, at: Place | None = None
    ) -> Ask | Sequence[Guess]:
        """See `Drafter.want`."""
        end = len(text) + len(drafts)
        self._learn(text, drafts)
        self._index.follow(text)
        source, length = self._index.find(text, tail(text, drafts))
        grade = min(length, LONGEST) - SHORTEST if length else -1
        copied: Sequence[int] = copy(text, drafts, source, min(most, MOST)) if length else []
        copied = copied if at is None else at.along(copied)[0]
        count = self._worth(len(text), end, grade, len(copied))
        for ahead, token in enumerate(copied[:count]):
            self._drafted[end + ahead] = token, self._copies, min(grade + ahead, len(CHANCES) - 1)
        if count or end >= self._context:
            return copied[:count]
        if copied:
            self._unsaid[end] = copied[0], self._copies, grade
        self._asked = end, grade + 1
        return self._model.want(text, drafts, most)

    def told(self, row: np.ndarray) -> Sequence[Guess]:
        """See `Drafter.told`."""
        guesses = self._model.told(row)
        if guesses and self._asked is not None:
            at, grade = self._asked
            self._drafted[at] = None, self._models, grade
        return guesses

    def cut(self, at: int) -> None:
        """See `Drafter.cut`."""
        self._model.cut(at)
        if at in self._drafted and self._drafted[at][0] is None:
            self._drafted[at] = _WRONG, *self._drafted[at][1:]
        for guesses in (self._drafted, self._unsaid):
            for beyond in [position for position in guesses if position > at]:
                del guesses[beyond]

    def _learn(self, text: Sequence[int], drafts: Sequence[int]) -> None:
        """Compare what was guessed with the text, as far as that has grown. What is left is about the live drafts."""
        end = len(text) + len(drafts)
        for guesses in (self._drafted, self._unsaid):
            for position in sorted(guesses):
                token, chances, kind = guesses[position]
                if position < len(text):
                    right = token in (None, text[position])  # a model's token that was not cut was right
                    chances[kind] += PACE * (right - chances[kind])
                    del guesses[position]
                elif position >= end:
                    del guesses[position]
                elif guesses is self._drafted:
                    guesses[position] = drafts[position - len(text)], chances, kind

    def _worth(self, start: int, end: int, grade: int, most: int) -> int:
        """Count the copied tokens to draft from position `end` on, at most `most`. The text ends at `start`."""
        if most and end < self._context and start >= self._review:
            facts = self._facts()
            self._spared, self._review = facts.draft_s / (facts.rtt_s + facts.verify_s), start + REVIEW
        chance = 1.0
        for position in range(start, end):
            _, chances, kind = self._drafted.get(position, (None, self._models, 0))
            chance *= chances[kind]
        count = 0
        while count < most:
            own = self._copies[min(grade + count, len(CHANCES) - 1)]
            rival = self._models[min(grade + count, len(CHANCES) - 1) + 1] if end + count < self._context else 0.0
            chance *= own
            if chance < WORTH or own < rival - self._spared:
                break
            count += 1
        return count
