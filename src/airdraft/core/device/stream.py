"""A stream on the device: when drafts leave, and what the edge is known to have heard of them."""

from __future__ import annotations

from airdraft.core.device.branch import Branch
from airdraft.core.messages import Tokens
from airdraft.core.policy import Facts, Mode
from airdraft.errors import Code, RemoteProtocolError

QUEUE = 2
"""Drafts of a stream that may wait for the uplink."""


class DeviceStream:
    """What is on its way. Packets are numbered as drafts of rounds are."""

    def __init__(self) -> None:
        self.heard = 0
        """The last packet that the edge is known to have."""
        self.silent = False
        """Whether the edge was told to go on without the device."""

    def is_due(self, branch: Branch, mode: Mode, facts: Facts, sent: int, more: bool) -> bool:
        """Whether the drafts not sent yet should leave now. `sent`: number of the last packet. `more`: whether another
        draft may join them.
        """
        unsent = branch.end - branch.sent
        enough = mode.first if branch.fresh else mode.then
        if not unsent or (more and unsent < enough):
            return False
        # The first packet of a branch always goes, so the edge always has something to answer.
        return branch.fresh or not self._is_congested(mode, facts, sent)

    def _is_congested(self, mode: Mode, facts: Facts, sent: int) -> bool:
        """Whether drafts pile up before the uplink: more of them wait for the edge's word than a free one would leave.

        Then they are better kept and sent together, once the edge has heard of the others.
        """
        answered_s = facts.rtt_s + 2 * facts.verify_s
        return sent - self.heard > QUEUE + answered_s / (mode.then * facts.draft_s)

    def committed(self, branch: Branch, message: Tokens, sent: int) -> list[int]:
        """The tokens that `message` commits. Raises: `RemoteProtocolError` if they do not fit what was sent."""
        accepted = branch.drafts[: message.accepted]
        if len(accepted) < message.accepted or message.accepted > message.drafted:
            raise RemoteProtocolError(Code.STATE, "the edge accepted drafts that were never made")
        if not self.heard <= message.seq <= sent:
            raise RemoteProtocolError(Code.STATE, "the edge has heard of drafts that were never sent")
        self.heard = message.seq
        tokens = [*accepted, *message.tokens]
        if not tokens:
            raise RemoteProtocolError(Code.STATE, "the edge committed nothing")
        return tokens
