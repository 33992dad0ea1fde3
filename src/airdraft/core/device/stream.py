"""A stream on the device: the packets in flight, and the time to send more."""

from __future__ import annotations

from collections import deque

from airdraft.core.device.branch import Branch
from airdraft.core.device.tree import Tree
from airdraft.core.messages import Tokens
from airdraft.core.policy import Facts, Judged, Mode
from airdraft.errors import Code, RemoteProtocolError


class DeviceStream:
    """The packets in flight. They share their numbers with the drafts of rounds."""

    def __init__(self) -> None:
        self.heard = 0
        """Number of the last packet that the edge confirmed."""
        self.silent = False
        """Whether the device has told the edge to go on alone."""
        self._due_s = deque[tuple[int, float]]()  # packets that it has not confirmed, and when it should have
        self._last_s: float | None = None  # when the last commit came, if the way to write is still the same

    def changed(self) -> None:
        """Note that the way to write has changed."""
        self._last_s = None

    def sends(self, seq: int, drafts: int, facts: Facts, now: float, queued_s: float) -> None:
        """Note that packet `seq` of so many drafts leaves `queued_s` from now. Without drafts it ends a stream."""
        self.silent = not drafts
        self._due_s.append((seq, now + queued_s + facts.rtt_s + 2 * facts.verify_s))

    def is_due(
        self, branch: Branch | Tree, mode: Mode, facts: Facts, now: float, more: bool, queued_s: float = 0.0
    ) -> bool:
        """Whether to send now. `more`: whether more drafts may join the next packet. `queued_s`: how long it would wait
        for the uplink by what is known of that."""
        unsent = branch.unsent
        enough = mode.first if branch.fresh else mode.then
        if not unsent or (more and unsent < enough):
            return False
        # Drafts wait for the uplink, and leave together: also while it takes longer than is known of it. A packet that
        # no answer is due before always leaves, and, unless the edge writes on without it, one that finds the edge with
        # no draft to judge: what it had may be committed already, and then nobody confirms it.
        waits = bool(self._due_s) and (queued_s > facts.draft_s or now > self._due_s[0][1])
        return not waits or (mode.race != "always" and not branch.flying)

    def committed(self, branch: Branch | Tree, message: Tokens, sent: int) -> list[int]:
        """Return the tokens that `message` commits. Raises: `RemoteProtocolError` if it does not match the drafts."""
        accepted = branch.path(message)
        if message.accepted > message.drafted:
            raise RemoteProtocolError(Code.STATE, "the edge accepted drafts that were never made")
        if not self.heard <= message.seq <= sent:
            raise RemoteProtocolError(Code.STATE, "the edge has heard of drafts that were never sent")
        self.heard = message.seq
        while self._due_s and self._due_s[0][0] <= self.heard:
            self._due_s.popleft()
        tokens = [*accepted, *message.tokens]
        if not tokens:
            raise RemoteProtocolError(Code.STATE, "the edge committed nothing")
        return tokens

    def judged(self, branch: Branch | Tree, message: Tokens, tokens: list[int], mode: Mode, now: float) -> Judged:
        """Say how the drafts did, before the branch commits `tokens`."""
        agreeing, drafts, beside = branch.compared(tokens)
        rejected = int(message.accepted < message.drafted and bool(message.tokens))
        gain, written = message.accepted + bool(message.tokens), len(tokens)
        seconds = None if self._last_s is None else now - self._last_s
        self._last_s = now if mode.races or not mode.traits.drafts else None
        return Judged(
            message.accepted, rejected, agreeing, gain, drafts, mode.races, False, (), beside, written, seconds
        )
