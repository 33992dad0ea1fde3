"""The drafts beyond the committed text, sent or not.

A commit that differs from a draft ends the branch. Drafts from there on are dead, in the drafter's cache, in its
forward under way, and on the link.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airdraft.core.drafting import Ask, Drafter
from airdraft.core.law import Place
from airdraft.core.messages import Tokens
from airdraft.core.schemes import Guess
from airdraft.core.text import Over, Prefix, agreeing
from airdraft.errors import Code, RemoteProtocolError


class Branch:
    """The drafts that follow one text."""

    def __init__(self, text: Prefix, drafter: Drafter) -> None:
        self.drafts: list[int] = []
        """Drafted tokens after the text, in order."""
        self.sent = text.length
        """Position of a stream's first draft not sent yet."""
        self.fresh = True
        """Whether this branch has sent nothing yet."""
        self.asking = False
        """Whether the drafter is waiting for a row."""
        self.place: Place = text.place
        """The place of the next draft."""
        self.stuck = False
        """Whether the guide gives up there. The text may never come to it, so only the drafts end."""
        self._text, self._drafter = text, drafter
        self._sent_digest = text.digest_after()

    @property
    def end(self) -> int:
        """The position of the next draft."""
        return self._text.length + len(self.drafts)

    @property
    def depth(self) -> int:
        """Number of positions beyond the text for which there is a draft."""
        return len(self.drafts)

    @property
    def unsent(self) -> int:
        """Number of drafts not sent yet."""
        return self.end - self.sent

    @property
    def flying(self) -> bool:
        """Whether the edge may have drafts that follow the text."""
        return self.sent > self._text.length

    def path(self, message: Tokens) -> list[int]:
        """Return the drafts that `message` accepts. Raises: `RemoteProtocolError` if they were never made."""
        if message.accepted > len(self.drafts) or message.node is not None:
            raise RemoteProtocolError(Code.STATE, "the edge accepted drafts that were never made")
        return self.drafts[: message.accepted]

    def want(self, most: int) -> Ask | Sequence[Guess]:
        """Ask the drafter. See `Drafter.want`."""
        if forced := self.place.run(most):
            return forced
        wanted = self._drafter.want(self._text.tokens, self.drafts, most, self.place)
        self.asking = isinstance(wanted, Ask)
        return wanted

    def told(self, row: np.ndarray) -> Sequence[Guess]:
        """Give the drafter its row. See `Drafter.told`."""
        self.asking = False
        return self._drafter.told(row)

    def append(self, token: int) -> None:
        """Draft `token`. Raises: `GuideError`, and then does not."""
        self.place = self.place.then(token)
        self.drafts.append(token)

    def send(self) -> tuple[int, int, list[int], bytes]:
        """Mark all drafts as sent. Returns the new ones' start, the digest of all tokens before, the drafts, and the
        parents of a chain: none."""
        start, digest, drafts = self.sent, self._sent_digest.value, self.drafts[self.sent - self._text.length :]
        self._sent_digest.extend(drafts)
        self.sent, self.fresh = self.end, self.fresh and not drafts
        return start, digest, drafts, b""

    def compared(self, tokens: Sequence[int]) -> tuple[int, int, int]:
        """Count the `tokens` of a commit that agree with the drafts, and those that have one. See `Tree.compared`."""
        return agreeing(self.drafts, tokens), min(len(self.drafts), len(tokens)), 0

    def commit(self, tokens: Sequence[int]) -> Over | None:
        """Append `tokens` to the text, and keep the drafts that still follow. Returns `Prefix.over`."""
        common = agreeing(self.drafts, tokens)
        if common < len(tokens):
            self._drafter.cut(self._text.length + common)
            self.drafts.clear()
        else:
            del self.drafts[:common]
        over = self._text.append(tokens)
        if common < len(tokens) or self.sent < self._text.length:  # also if the device is behind
            self._begin()
        return over

    def clear(self) -> None:
        """Drop all drafts."""
        if self.drafts:
            self._drafter.cut(self._text.length)
            self.drafts.clear()
            self._begin()

    def _begin(self) -> None:
        """Begin a new branch after the text, or let the current one go on there."""
        if not self.drafts:
            self.place, self.stuck = self._text.place, False
        self.sent, self._sent_digest, self.fresh = self._text.length, self._text.digest_after(), True
