"""`lookup`: copies what followed the text's last tokens when they stood in prompt or text before.

Code, edits, tables and answers that quote their question repeat themselves. A run of 2 to 6 tokens is looked up, the
longest that is found, where it stood last (as in CopySpec, 2025, and prompt lookup decoding). How far to copy follows
from how often copies after runs of that length were right in this text.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.proposers.index import LONGEST, SHORTEST, Index, tail
from airdraft.proposers.odds import Odds

MOST = 16
"""Most tokens of a copy."""
CHANCES = (0.59, 0.60, 0.74, 0.79, 0.88)
"""Chance that the next token of a copy is right after 2, 3, 4, 5 and 6 equal tokens: texts of the shipped pair at
temperature 0.7."""


class Lookup:
    """A proposer that copies from the text itself."""

    name = "lookup"

    def __init__(self) -> None:
        self._index, self._odds = Index(), Odds(CHANCES)

    @property
    def right(self) -> float:
        """See `Proposer.right`."""
        return self._odds.right

    def propose(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Sequence[int]:
        """See `Proposer.propose`. The device's drafts count as text to find what follows them."""
        self._odds.learn(text)
        self._index.follow(text)
        source, length = self._index.find(text, tail(text, drafts))
        if not length:
            return ()
        copied = copy(text, drafts, source, MOST)
        grade = min(length, LONGEST) - SHORTEST
        self._odds.note(text, drafts, copied, grade)
        return copied[: self._odds.worth(grade, len(drafts), min(most, MOST))]

    def dropped(self, start: int, drafts: Sequence[int]) -> None:
        """See `Proposer.dropped`. A copy has no use for them."""


def copy(text: Sequence[int], drafts: Sequence[int], source: int, most: int) -> list[int]:
    """Copy `most` tokens from position `source` on. A copy that reaches the end goes on with drafts and itself."""
    ahead = list(drafts)
    for at in range(source, source + most):
        ahead.append(text[at] if at < len(text) else ahead[at - len(text)])
    return ahead[len(drafts) :]
