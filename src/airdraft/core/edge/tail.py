"""A stream's drafts at the edge that still follow the committed text.

The device drafts without waiting, so a `Draft` may follow tokens committed since, earlier drafts, or a branch that a
commit has ended. Its digest of all tokens before `start` decides. If it matches neither the committed text there nor
that text with the known drafts, the branch is dead.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.text import Prefix


class Tail:
    """The drafts that follow `text`."""

    def __init__(self, text: Prefix) -> None:
        self.drafts: list[int] = []
        """Drafts at the positions text.length, text.length + 1, …"""
        self._text = text

    def offer(self, start: int, digest: int, drafts: Sequence[int]) -> bool:
        """Take drafts after the first `start` tokens of a text with this digest.

        Returns False, and changes nothing, if they follow another text or begin beyond the known drafts.
        """
        text, ahead = self._text, start - self._text.length
        if ahead > len(self.drafts) or start < text.begin:
            return False
        if ahead >= 0:
            if text.digest_after(self.drafts[:ahead]).value != digest:
                return False
            self.drafts[ahead:] = drafts
            return True
        known = list(drafts[:-ahead])  # at positions committed since
        if not text.follows(start, digest) or known != text.tokens[start : start + len(known)]:
            return False
        self.drafts[:] = drafts[-ahead:]
        return True

    def advance(self, tokens: Sequence[int]) -> Sequence[int]:
        """Follow the text after a commit of `tokens`. Drafts that agree leave; if one differs, all are dead.

        Returns: the dead ones, from the one that differs on.
        """
        pairs = enumerate(zip(self.drafts, tokens, strict=False))
        differs = next((at for at, (draft, token) in pairs if draft != token), None)
        dead = [] if differs is None else self.drafts[differs:]
        self.drafts[:] = self.drafts[len(tokens) :] if differs is None else []
        return dead
