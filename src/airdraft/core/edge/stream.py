"""A stream at the edge, which takes drafts as they come, adds proposals, and may write on without either."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.edge.proposing import Load, Proposer
from airdraft.core.edge.tail import Tail
from airdraft.core.messages import MOST_PROPOSED, REACH, Draft, Tokens
from airdraft.core.schemes import Drafts, Ruling, Scheme
from airdraft.core.schemes.base import check_length
from airdraft.core.text import Prefix
from airdraft.errors import Code, RemoteProtocolError


class EdgeStream:
    """The drafts that have arrived, and the choice of those to verify."""

    def __init__(self, text: Prefix, max_draft: int, proposers: Sequence[Proposer]) -> None:
        """`proposers`: whom to ask, in this order, until one has an idea."""
        self.tail = Tail(text)
        self._text, self._max_draft, self._proposers = text, max_draft, proposers
        self._alone = False  # the device has no drafts for now

    def offer(self, message: Draft, scheme: Scheme) -> None:
        """Keep drafts that follow the text, and drop those of a dead branch. An empty draft means: go on without me.

        Raises: `RemoteProtocolError` for drafts beyond the limit.
        """
        self.checked(message, scheme)
        drafts = scheme.decode(message.count, message.body).tokens
        self._alone = not drafts
        if drafts and not self.tail.offer(message.start, message.digest, drafts):
            self._dropped(message.start, drafts)

    def checked(self, message: Draft, scheme: Scheme) -> Draft:
        """Check how many drafts there are, and where, and return the message. Raises: as `offer`."""
        end = message.start + message.count
        if message.recovered is not None or end > min(self._text.end - 1, self._text.length + REACH * self._max_draft):
            raise RemoteProtocolError(Code.STATE, f"drafts up to position {end} are beyond what may be drafted")
        if message.count > REACH * self._max_draft:
            raise RemoteProtocolError(Code.STATE, f"{message.count} drafts came in one message")
        check_length(scheme, message.count, message.body)
        return message

    def advance(self, tokens: Sequence[int]) -> None:
        """Follow the text after a commit of `tokens`."""
        drafts = len(self.tail.drafts)
        if dead := self.tail.advance(tokens):
            self._dropped(self._text.length - len(tokens) + drafts - len(dead), dead)

    def _dropped(self, start: int, drafts: Sequence[int]) -> None:
        for proposer in self._proposers:
            proposer.dropped(start, drafts)

    def next(self, room: int) -> Load:
        """Return the drafts that the next forward verifies, at most `room`: the device's, then a proposer's."""
        drafts = self.tail.drafts[: max(0, room)]
        most = min(room - len(drafts), MOST_PROPOSED)
        for proposer in self._proposers if most > 0 else ():
            if found := proposer.propose(self._text.tokens, drafts, most)[:most]:
                return Load(Drafts.of_tokens((*drafts, *found)), len(drafts), proposer.name)
        return Load(Drafts.of_tokens(drafts), len(drafts))

    def waits(self, scheme: Scheme, load: Load, room: int) -> bool:
        """Whether to wait for the device. The edge writes the last token, which has no draft, on its own."""
        return not load.device and scheme.race == "off" and not self._alone and room > 0

    def is_spare(self, scheme: Scheme, load: Load) -> bool:
        """Whether to run a forward only while the engine has nothing else to do."""
        return not load.device and scheme.race == "idle" and not self._alone

    def tokens(self, number: int, seq: int, start: int, ruling: Ruling, load: Load) -> Tokens:
        """Make the message about a commit, after the text holds it."""
        accepted, ids = load.accepted(ruling), load.drafts.tokens
        taken = tuple(ids[node] for node in ruling.path[accepted:])
        last = () if ruling.token is None else (ruling.token,)
        return Tokens(number, start, taken + last, self._text.digest, accepted, load.device, seq)
