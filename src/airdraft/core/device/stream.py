"""A stream on the device: the packets in flight, and the time to send more."""

from __future__ import annotations

from airdraft.core.device.branch import Branch
from airdraft.core.device.tree import Tree
from airdraft.core.messages import Tokens
from airdraft.core.policy import Facts, Mode
from airdraft.errors import Code, RemoteProtocolError

QUEUE = 2
"""Packets of a stream that may wait for the uplink."""


class DeviceStream:
    """The packets in flight. They share their numbers with the drafts of rounds."""

    def __init__(self) -> None:
        self.heard = 0
        """Number of the last packet that the edge confirmed."""
        self.silent = False
        """Whether the device has told the edge to go on alone."""

    def is_due(
        self, branch: Branch | Tree, mode: Mode, facts: Facts, sent: int, more: bool, queued_s: float = 0.0
    ) -> bool:
        """Whether to send now. `sent`: number of the last packet. `more`: whether more drafts may join the next one.
        `queued_s`: how long it would wait for the uplink, which packets of a tree may fill."""
        unsent = branch.unsent
        enough = mode.first if branch.fresh else mode.then
        if not unsent or (more and unsent < enough):
            return False
        # The first packet of a branch always leaves, and one that no answer is due before: the edge may wait for it.
        waits = sent > self.heard and (queued_s > facts.draft_s or self._is_congested(mode, facts, sent))
        return branch.fresh or not waits

    def _is_congested(self, mode: Mode, facts: Facts, sent: int) -> bool:
        """Whether drafts pile up at the uplink: more packets lack an answer than on a free one.

        Drafts then wait, and leave together once the edge has confirmed earlier packets.
        """
        answered_s = facts.rtt_s + 2 * facts.verify_s
        return sent - self.heard > QUEUE + answered_s / (mode.then * facts.draft_s)

    def committed(self, branch: Branch | Tree, message: Tokens, sent: int) -> list[int]:
        """Return the tokens that `message` commits. Raises: `RemoteProtocolError` if it does not match the drafts."""
        accepted = branch.path(message)
        if message.accepted > message.drafted:
            raise RemoteProtocolError(Code.STATE, "the edge accepted drafts that were never made")
        if not self.heard <= message.seq <= sent:
            raise RemoteProtocolError(Code.STATE, "the edge has heard of drafts that were never sent")
        self.heard = message.seq
        tokens = [*accepted, *message.tokens]
        if not tokens:
            raise RemoteProtocolError(Code.STATE, "the edge committed nothing")
        return tokens
