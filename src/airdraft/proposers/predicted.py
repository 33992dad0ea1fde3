"""`predicted`: copies what the client expects the text to be, most of it at least: a file that is to be edited, say.

The prediction is followed token by token. Where the text differs, a token may have been replaced, so the next ones are
tried behind it; and as soon as the text's last tokens stand elsewhere in the prediction, it goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.proposers.index import LONGEST, Index, tail
from airdraft.proposers.odds import Odds

MOST = 32
"""Most tokens of the prediction that are tried at once."""
CHANCES = (0.6, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
"""Chance that its next token is right after 0 to 6 right ones in a row, before any was tried."""


class Predicted:
    """A proposer that follows a prediction of the text."""

    name = "predicted"

    def __init__(self, prediction: Sequence[int]) -> None:
        self._prediction, self._index, self._odds = list(prediction), Index(), Odds(CHANCES)
        self._index.follow(self._prediction)
        self._place = 0, 0
        self._seen: int | None = None  # tokens of the text that were looked at

    @property
    def right(self) -> float:
        """See `Proposer.right`."""
        return self._odds.right

    def propose(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Sequence[int]:
        """See `Proposer.propose`."""
        self._odds.learn(text)
        came = () if self._seen is None else text[self._seen :]  # a text that goes on after a link has died is found
        self._seen = len(text)
        self._place = self._after(self._place, came, tail(text, ()))
        at, right = self._after(self._place, drafts, tail(text, drafts))
        tried = self._prediction[at : at + MOST]
        if not tried:
            return ()
        grade = min(right, LONGEST)
        self._odds.note(text, drafts, tried, grade)
        return tried[: self._odds.worth(grade, len(drafts), min(most, MOST))]

    def _after(self, place: tuple[int, int], tokens: Sequence[int], last: Sequence[int]) -> tuple[int, int]:
        """The place in the prediction after `tokens` at `place`, where the text ends with `last`.

        A place is the position of the next token, and how many in a row were right before it.
        """
        at, right = place
        for token in tokens:
            right = right + 1 if self._prediction[at : at + 1] == [token] else 0
            at += 1
        if right < LONGEST:
            end, length = self._index.find(self._prediction, last)
            if length > right:
                return end, length
        return at, right

    def dropped(self, start: int, drafts: Sequence[int]) -> None:
        """See `Proposer.dropped`. The prediction stands as it is."""
