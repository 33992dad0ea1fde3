"""The engine's memory: who holds a cache, and who gives it up when there is no room. Decides only; makes no cache.

The text that has rested longest loses its cache; what it needs of that is fed again. Texts that are over go first: they
keep theirs only for others that begin alike, and no more of them than a limit of their own allows: each counts with
its spare room. The one that was used last stays, however long it is, or a long chat would be read again at every turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from airdraft.models.base import Roomy
from airdraft.scheduler.turns import Sequenced, Share


class Memory:
    """The texts that hold a cache, within the limits of all together."""

    def __init__(
        self,
        max_caches: int | None = None,
        max_positions: int | None = None,
        max_kept: float = math.inf,
        *,
        rooms: bool = False,
    ) -> None:
        """The limits, None where there is none: caches at once, and key-value positions in all of them.

        `max_kept`: positions of texts that are over; 0: none of them keeps its cache.
        `rooms`: whether each cache takes as many positions as the longest.
        """
        self._rooms = rooms
        self._max_caches = max_caches or math.inf
        self._max_positions = max_positions or math.inf
        self._max_kept = max_kept
        self._holders: set[Sequenced] = set()

    @property
    def positions(self) -> int:
        """Key-value positions held."""
        return sum(text.cached for text in self._holders)

    def hold(self, text: Sequenced) -> None:
        """Count in a text that was given a cache."""
        self._holders.add(text)

    def free(self, text: Sequenced) -> None:
        """Take a text's cache."""
        self._holders.discard(text)
        text.cache, text.cached = None, 0

    def excess(self) -> list[Sequenced]:
        """Texts that are over and must lose their caches, as all of them together hold too much."""
        over = sorted((each for each in self._holders if each.over), key=lambda each: each.used)
        kept, taken = sum(map(_room, over)), list[Sequenced]()
        for each in over[:-1] if self._max_kept else over:
            if kept <= self._max_kept:
                break
            if not each.running:
                taken.append(each)
                kept -= _room(each)
        return taken

    def room(self, share: Share, batch: Sequence[Share]) -> list[Sequenced] | None:
        """Find room for `share` in a call beside those of `batch`.

        Returns: the texts that must lose their caches first, or None: what there is, is needed by who runs just now
        or came before. A text that has all memory to itself may try, however long it is.
        """
        text = share.text
        if self._max_positions == math.inf and (text.cache is not None or self._max_caches == math.inf):
            return []  # no limit: with a thousand texts at rest it would take long to look
        held = [each for each in self._holders if each is not text]
        busy = {each for one in (share, *batch) for each in one.texts}
        free = [each for each in held if not (each.running or each in busy) and each.since > share.arrival]
        free.sort(key=lambda each: (not each.over, each.used))
        ends = {each.text: each.end for each in batch}
        lengths = {each: ends.get(each, each.cached) for each in held}
        missing = 0 if text.cache is not None else len(held) + 1 - self._max_caches
        for taken in range(len(free) + 1):
            if taken:
                del lengths[free[taken - 1]]
            if taken >= missing and (not lengths or self._fits([*lengths.values(), share.end])):
                return free[:taken]
        return None

    def _fits(self, lengths: Sequence[int]) -> bool:
        """Whether texts of these lengths may have a cache each."""
        return (len(lengths) * max(lengths) if self._rooms else sum(lengths)) <= self._max_positions


def _room(text: Sequenced) -> int:
    """Positions for which a text's cache takes memory."""
    return text.cache.room if isinstance(text.cache, Roomy) else text.cached
