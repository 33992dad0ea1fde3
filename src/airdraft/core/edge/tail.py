"""Drafts of a stream at the edge: which of those that have arrived still follow the committed text.

The device drafts on without waiting, so a `Draft` may rest on tokens that are committed by now, on earlier drafts, or
on a branch that a commit has ended. Its digest of everything before `start` decides: it is the digest of the committed
text there, or of the committed text and the drafts at hand, or the branch is dead.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.text import Prefix


class Tail:
    """The drafts that follow `text`."""

    def __init__(self, text: Prefix) -> None:
        self.drafts: list[int] = []
        """They stand at the positions text.length, text.length + 1, …"""
        self._text = text

    def offer(self, start: int, digest: int, drafts: Sequence[int]) -> bool:
        """Take drafts that follow the first `start` tokens of something with this digest.

        Returns False, and changes nothing, if they follow another text than this one or begin beyond its drafts.
        """
        text, ahead = self._text, start - self._text.length
        if ahead > len(self.drafts) or start < text.begin:
            return False
        if ahead >= 0:
            if text.digest_after(self.drafts[:ahead]).value != digest:
                return False
            self.drafts[ahead:] = drafts
            return True
        known = list(drafts[:-ahead])  # positions that are committed by now
        if not text.follows(start, digest) or known != text.tokens[start : start + len(known)]:
            return False
        self.drafts[:] = drafts[-ahead:]
        return True

    def advance(self, tokens: Sequence[int]) -> None:
        """Follow the text, to which `tokens` were appended. Drafts that agree leave; if any does not, all are dead."""
        agree = self.drafts[: len(tokens)] == list(tokens)
        self.drafts[:] = self.drafts[len(tokens) :] if agree else []
