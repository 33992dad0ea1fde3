"""Rounds at the edge, which take one draft at a time."""

from __future__ import annotations

from airdraft.core.messages import Draft, Verdict
from airdraft.core.schemes import Drafts, Ruling, Scheme
from airdraft.core.schemes.base import check_length
from airdraft.core.text import Prefix
from airdraft.errors import Code, RemoteProtocolError


class EdgeRounds:
    """Checks drafts and answers them. `waiting` is the draft that waits for the prompt, if any."""

    def __init__(self, leaves: int) -> None:
        """`leaves`: most drafts of a forward if further candidates are among them; 0: the engine runs chains only."""
        self._leaves = leaves
        self.waiting: Draft | None = None
        self.held_bytes = 0
        """Bytes of the draft that came and is not judged yet, as it was sent."""

    def keep(self, message: Draft, scheme: Scheme, room: int) -> None:
        """Keep a draft for later. Raises: as `open`, if it is longer than any draft may be."""
        self._check_length(message, scheme, room)
        self.waiting = message

    def open(self, message: Draft, text: Prefix, scheme: Scheme, room: int) -> Drafts:
        """Decode the drafts of `message`, at most `room`, to verify them.

        Raises: `RemoteProtocolError` if they do not follow the text, or are not drafts of this scheme.
        """
        if (message.start, message.digest) != (text.length, text.digest):
            what = "the draft follows another text: its start or digest does not match"
            raise RemoteProtocolError(Code.STATE, what)
        if text.over:
            raise RemoteProtocolError(Code.STATE, "a draft came after the recovered token that ended the text")
        self._check_length(message, scheme, room)
        return scheme.decode(message.count, message.body).spread(self._leaves)

    def _check_length(self, message: Draft, scheme: Scheme, room: int) -> None:
        if message.count > room or message.parents:
            what = f"a draft of {message.count} tokens where at most {room} may follow, in a chain"
            raise RemoteProtocolError(Code.STATE, what)
        check_length(scheme, message.count, message.body)
        self.held_bytes = len(message.body)

    def verdict(self, number: int, seq: int, ruling: Ruling, text: Prefix) -> Verdict:
        """Make the answer, after the text holds the ruling's tokens."""
        self.held_bytes = 0
        accepted = ruling.path[-1] + 1 if ruling.path else 0
        return Verdict(number, seq, accepted, ruling.token, text.length, text.digest, ruling.extra)
