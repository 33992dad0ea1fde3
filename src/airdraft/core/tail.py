"""Drafts of a stream at the edge: which of those that have arrived still follow the committed text.

The device drafts on without waiting, so a `Draft` may rest on tokens that are committed by now, on earlier drafts, or
on a branch that a commit has ended. Its digest of everything before `start` tells: it is the digest of the committed
text there, or of the committed text and the drafts at hand, or the branch is dead.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.messages import Digest


class Tail:
    """The drafts that follow `text`, a list that its owner appends to. Call `advance` whenever that has happened."""

    def __init__(self, text: Sequence[int]) -> None:
        self.drafts: list[int] = []
        """They stand at the positions len(text), len(text) + 1, …"""
        self._text = text
        self._begin = self._length = len(text)
        self._digest = Digest(text)
        self._digests = [self._digest.value]  # of the text up to each position from `_begin` on

    @property
    def digest(self) -> int:
        """Of the text."""
        return self._digests[-1]

    def offer(self, start: int, digest: int, drafts: Sequence[int]) -> bool:
        """Drafts have come that follow the first `start` tokens of something with this digest.

        Returns False, and changes nothing, if they follow another text than this one or begin beyond its drafts.
        """
        ahead = start - self._length
        if ahead > len(self.drafts) or start < self._begin:
            return False
        if ahead >= 0:
            before = self._digest.copy()
            before.extend(self.drafts[:ahead])
            if before.value != digest:
                return False
            self.drafts[ahead:] = drafts
            return True
        known = list(drafts[:-ahead])  # positions that are committed by now
        if self._digests[start - self._begin] != digest or known != list(self._text[start : start + len(known)]):
            return False
        self.drafts[:] = drafts[-ahead:]
        return True

    def advance(self) -> None:
        """The text has grown. Drafts that agree with it leave; if any does not, all are dead."""
        new = list(self._text[self._length :])
        for token in new:
            self._digest.extend([token])
            self._digests.append(self._digest.value)
        agree = self.drafts[: len(new)] == new
        self.drafts[:] = self.drafts[len(new) :] if agree else []
        self._length += len(new)
