"""`draft`: a draft model at the edge itself, run between the target's forwards as long as that saves time.

It draws with the text's noise, as a device does, and so is right as often. Another draft lengthens the next commit by
the chance that it and all before it are right, and delays it by a forward of the draft model. So it is made if the edge
then commits more tokens a second than without it, by the chances that this text has shown and the times that this edge
takes. Where the device's drafts, or a copy, promise as much for nothing, the draft model rests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airdraft.core.drafting import Ask, ModelDrafter
from airdraft.core.edge import Draw, Help, Helper, Pace
from airdraft.core.text import agreeing
from airdraft.proposers.odds import DEVICE, PACE

NAME = "draft"
MOST = 16
"""Most tokens drafted at once."""
OWN = 0.75
"""Chance that one of its tokens is right, before any is seen."""
HOPE = 0.003
"""Share of its way back to that which the estimate goes with each commit that judged none: so it is tried again."""


class EdgeDraft:
    """A helper that drafts with a model."""

    name = NAME

    def __init__(self, draw: Draw, pace: Pace, context: int) -> None:
        """`context`: most positions that the model holds."""
        self._draw, self._pace, self._context = draw, pace, context
        self._drafter = ModelDrafter()
        self._line: list[int] = []  # what follows the text: the device's drafts, and its own behind them
        self._own: list[bool] = []  # which of these are its own
        self._seen = 0  # tokens of the text when it was looked at last
        self._chances = [DEVICE, OWN]  # that a draft of the device is right, and one of its own

    def want(self, text: Sequence[int], drafts: Sequence[int], proposed: float, most: int) -> Ask | None:
        """See `Helper.want`."""
        self._follow(text, drafts)
        verify_s, draft_s = self._pace.verify_s, self._pace.draft_s
        end = min(most, MOST + len(drafts), self._context - len(text))
        if not verify_s or len(self._line) >= end:
            return None
        drafted, chance = self._right(self._own)
        at_hand = max(drafted, self._right([False] * len(drafts))[0] + proposed)
        for more in range(1, end - len(self._line) + 1):
            chance *= self._chances[True]
            drafted += chance
            if (1 + drafted) * verify_s > (1 + at_hand) * (verify_s + more * draft_s):
                return self._drafter.want(text, self._line, 1)
        return None

    def told(self, row: np.ndarray) -> None:
        """See `Helper.told`."""
        for guess in self._drafter.told(row):
            self._line.append(self._draw(np.asarray(guess), self._line))
            self._own.append(True)

    def instead(self, text: Sequence[int], drafts: Sequence[int], proposed: float, most: int) -> Sequence[int]:
        """See `Helper.instead`."""
        self._follow(text, drafts)
        if not any(self._own[:most]):
            return ()
        at_hand = self._right([False] * len(drafts))[0] + proposed
        return self._line[:most] if self._right(self._own[:most])[0] >= at_hand else ()

    def _right(self, own: Sequence[bool]) -> tuple[float, float]:
        """How many drafts of a line are right in the mean, and the chance that all are."""
        right, chance = 0.0, 1.0
        for each in own:
            chance *= self._chances[each]
            right += chance
        return right, chance

    def _follow(self, text: Sequence[int], drafts: Sequence[int]) -> None:
        """Drop what the text has passed, learn from it, and take the device's drafts in."""
        came = text[self._seen :] if self._seen else ()
        same = agreeing(self._line, came)
        judged = self._own[: min(same + 1, len(came))]
        for at, own in enumerate(judged):
            self._chances[own] += PACE * ((at < same) - self._chances[own])
        if came and not any(judged):
            self._chances[True] += HOPE * (OWN - self._chances[True])
        if same < min(len(self._line), len(came)):
            self._cut(0, self._seen + same)
        del self._line[: len(came)], self._own[: len(came)]
        self._seen = len(text)
        same = agreeing(self._line, drafts)
        if same < min(len(self._line), len(drafts)):  # whose are right more often stay
            if self._own[same] and self._chances[True] > self._chances[False]:
                return
            self._cut(same, len(text) + same)
        self._line += drafts[len(self._line) :]
        self._own += [False] * (len(self._line) - len(self._own))

    def _cut(self, at: int, position: int) -> None:
        """Drop the line from its token `at` on, which stands at this position of the text or follows another one."""
        del self._line[at:], self._own[at:]
        self._drafter.cut(position)


def drafting(context: int) -> Help:
    """Return what makes helpers with a draft model of so many positions."""

    def make(draw: Draw, pace: Pace) -> Helper:
        return EdgeDraft(draw, pace, context)

    return make
