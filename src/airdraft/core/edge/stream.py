"""A stream at the edge, which takes drafts as they come, and may write on without them."""

from __future__ import annotations

from airdraft.core.edge.tail import Tail
from airdraft.core.messages import REACH, Draft, Tokens
from airdraft.core.schemes import Drafts, Ruling, Scheme
from airdraft.core.schemes.base import check_length
from airdraft.core.text import Prefix
from airdraft.errors import Code, RemoteProtocolError


class EdgeStream:
    """The drafts that have arrived, and the choice of those to verify."""

    def __init__(self, text: Prefix, max_draft: int) -> None:
        self.tail = Tail(text)
        self._text, self._max_draft = text, max_draft
        self._alone = False  # the device has no drafts for now

    def offer(self, message: Draft, scheme: Scheme) -> None:
        """Keep drafts that follow the text, and drop those of a dead branch. An empty draft means: go on without me.

        Raises: `RemoteProtocolError` for drafts beyond the limit.
        """
        self.checked(message, scheme)
        drafts = scheme.decode(message.count, message.body).tokens
        self._alone = not drafts
        if drafts:
            self.tail.offer(message.start, message.digest, drafts)

    def checked(self, message: Draft, scheme: Scheme) -> Draft:
        """Check how many drafts there are, and where, and return the message. Raises: as `offer`."""
        end = message.start + message.count
        if message.recovered is not None or end > min(self._text.end - 1, self._text.length + REACH * self._max_draft):
            raise RemoteProtocolError(Code.STATE, f"drafts up to position {end} are beyond what may be drafted")
        if message.count > REACH * self._max_draft:
            raise RemoteProtocolError(Code.STATE, f"{message.count} drafts came in one message")
        check_length(scheme, message.count, message.body)
        return message

    def next(self, room: int) -> Drafts:
        """Return the drafts that the next forward verifies, at most `room`."""
        return Drafts.of_tokens(self.tail.drafts[: max(0, room)])

    def waits(self, scheme: Scheme, drafts: Drafts, room: int) -> bool:
        """Whether to wait for the device. The edge writes the last token, which has no draft, on its own."""
        return not drafts and scheme.race == "off" and not self._alone and room > 0

    def is_spare(self, scheme: Scheme, drafts: Drafts) -> bool:
        """Whether to run a forward only while the engine has nothing else to do."""
        return not drafts and scheme.race == "idle" and not self._alone

    def tokens(self, number: int, seq: int, start: int, ruling: Ruling, drafted: int) -> Tokens:
        """Make the message about a commit, after the text holds it."""
        last = () if ruling.token is None else (ruling.token,)
        return Tokens(number, start, last, self._text.digest, ruling.accepted, drafted, seq)
