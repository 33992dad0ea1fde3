"""The text on the device: what is committed, the drafts beyond it, and how many of these are on their way.

A commit that differs from a draft ends the branch: what was drafted from there on is dead, in the draft model's cache,
in its forward under way, and on the link.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.messages import Digest


class Branch:
    """One text, and the drafts that follow it."""

    def __init__(self, tokens: list[int]) -> None:
        """`tokens`: the prompt, and what is committed already."""
        self.tokens = tokens
        """Prompt, committed, then the drafts."""
        self.committed = len(tokens)
        """How many of them are no drafts."""
        self.digest = Digest(tokens)
        """Of what is committed."""
        self.sent = self.committed
        """A stream's drafts before this position are on their way."""
        self.fresh = True
        """Whether nothing of this branch was sent yet."""
        self._sent_digest = self.digest.copy()
        self._cached = 0  # positions in the draft model's cache that agree with `tokens`
        self._asked: int | None = None  # the position whose row the draft model computes
        self._stale = False  # a commit has changed what that row rests on

    @property
    def asking(self) -> bool:
        """Whether the draft model computes a row."""
        return self._asked is not None

    def ask(self) -> tuple[int, tuple[int, ...]]:
        """For the row of the next token: how many cached positions to keep, and what to feed after them."""
        # A model is fed something, for a row: the last token again, where what was drafted after it is dead.
        keep = min(self._cached, len(self.tokens) - 1)
        self._asked = self._cached = len(self.tokens)
        self._stale = False
        return keep, tuple(self.tokens[keep:])

    def answered(self) -> int | None:
        """The row is there. Returns: the position of the token that it foretells; None if that is of no use now."""
        asked, self._asked = self._asked, None
        return asked if asked == len(self.tokens) and not self._stale else None

    def send(self) -> tuple[int, int, list[int]]:
        """The drafts not sent yet are on their way. Returns: where they start, the digest of all before, and them."""
        start, digest, drafts = self.sent, self._sent_digest.value, self.tokens[self.sent :]
        self._sent_digest.extend(drafts)
        self.sent, self.fresh = len(self.tokens), False
        return start, digest, drafts

    def agreeing(self, tokens: Sequence[int]) -> int:
        """How many of the tokens to be committed the drafts foretell."""
        both = list(zip(self.tokens[self.committed :], tokens, strict=False))
        return next((at for at, (drafted, token) in enumerate(both) if drafted != token), len(both))

    def commit(self, tokens: Sequence[int]) -> None:
        """Make `tokens` part of the text; `digest` must have been extended by them. Drafts that they follow from, and
        those behind them, live on.
        """
        agreeing = self.agreeing(tokens)
        if agreeing < len(tokens):
            self.diverge(self.committed + agreeing)
            self.tokens[self.committed :] = tokens
        self.committed += len(tokens)
        if self.sent < self.committed:  # the device is behind: it goes on from the commit
            self.sent, self._sent_digest, self.fresh = self.committed, self.digest.copy(), True

    def diverge(self, at: int) -> None:
        """What was drafted from position `at` on is dead."""
        del self.tokens[at:]
        self._stale |= self._asked is not None and self._asked > at
        self._cached = min(self._cached, at)
        self.sent = min(self.sent, self.committed)
