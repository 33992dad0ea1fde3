"""A stream at the edge, which takes drafts as they come, adds proposals, and may write on without either."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from airdraft.core.connection import known_rows
from airdraft.core.edge.proposing import Help, Helper, Load, Pace, Proposer
from airdraft.core.edge.tail import Node, Tail
from airdraft.core.events import Forward
from airdraft.core.messages import MOST_NODES, MOST_PROPOSED, MOST_VERIFIED, REACH, Draft, Tokens
from airdraft.core.schemes import Drafts, Ruling, Scheme
from airdraft.core.schemes.base import check_length
from airdraft.core.text import Prefix
from airdraft.errors import Code, GuideError, RemoteProtocolError

GUIDE = "guide"
"""The proposer's name where the text's guide allows one token only."""


class EdgeStream:
    """The drafts that have arrived, and the choice of those to verify."""

    def __init__(self, text: Prefix, max_draft: int, proposers: Sequence[Proposer], trees: bool = False) -> None:
        """`proposers`: whom to ask. `trees`: whether drafts may be a tree."""
        self.tail = Tail(text)
        self._text, self._max_draft, self._proposers, self._trees = text, max_draft, proposers, trees
        self._alone = False  # the device has no drafts for now
        self._drafts: Sequence[int] = ()  # of the device, on the first branch, when `next` was called last
        self._behind = text.place  # the place after those
        self._helper: Helper | None = None
        self._proposed = 0.0  # tokens proposed last that are right in the mean
        self.drafting = False
        """Whether a forward of the edge's own draft model is under way."""

    def helped(self, make: Help, scheme: Scheme, pace: Pace) -> None:
        """Let the edge draft as well. `scheme`, a device's, draws the tokens."""
        self._helper = make(partial(_draw, self._text, scheme), pace)

    @property
    def room(self) -> int:
        """Number of drafts that a forward may take, leaving a place for the token after them."""
        return min(self._max_draft, int(self._text.end) - self._text.length - 1)

    @property
    def leaves(self) -> int:
        """Most drafts of a forward with further candidates among them, which takes an engine that runs trees."""
        return self._max_draft if self._trees else 0

    def offer(self, message: Draft, scheme: Scheme) -> None:
        """Keep drafts that follow the text, and drop those of a dead branch. An empty draft means: go on without me.

        Raises: `RemoteProtocolError` for drafts beyond the limit.
        """
        self.checked(message, scheme)
        drafts = scheme.decode(message.count, message.body).tokens
        self._alone = not drafts
        if drafts and not self.tail.offer(message.start, message.digest, drafts, self._end, message.parents):
            self._dropped(message.start, [] if message.parents else drafts)

    @property
    def _end(self) -> int:
        """Position that drafts may not reach."""
        return int(min(self._text.end - 1, self._text.length + REACH * self._max_draft))

    def checked(self, message: Draft, scheme: Scheme) -> Draft:
        """Check how many drafts there are, and where, and return the message. Raises: as `offer`."""
        if message.parents and (not self._trees or len(message.parents) != message.count):
            what = f"{message.count} drafts have {len(message.parents)} parents" if self._trees else "a tree came"
            raise RemoteProtocolError(Code.STATE, f"{what}; send each its own, or a chain where no trees are taken")
        end = message.start + (min(1, message.count) if message.parents else message.count)
        if message.recovered is not None or end > self._end:
            raise RemoteProtocolError(Code.STATE, f"drafts up to position {end} are beyond what may be drafted")
        if message.count > (MOST_NODES if message.parents else REACH * self._max_draft):
            raise RemoteProtocolError(Code.STATE, f"{message.count} drafts came in one message")
        check_length(scheme, message.count, message.body)
        return message

    def advance(self, tokens: Sequence[int]) -> None:
        """Follow the text after a commit of `tokens`."""
        self._dropped(*self.tail.advance(tokens))

    def _dropped(self, start: int, drafts: Sequence[int]) -> None:
        for proposer in self._proposers if drafts else ():
            proposer.dropped(start, drafts)

    def next(self) -> Load:
        """Return the drafts that the next forward verifies: the device's, and behind their first branch a proposer's or
        those of the edge's own draft model. Of a tree it takes the drafts that came first."""
        room = max(0, self.room)
        nodes = self.tail.nodes[:room]
        parents, branch = list(range(-1, len(nodes) - 1)), list(range(len(nodes)))
        if any(node.parent is not before for node, before in zip(nodes, (None, *nodes), strict=False)):
            nodes = nodes[:MOST_VERIFIED]
            place: dict[Node | None, int] = {node: at for at, node in enumerate(nodes)}
            parents, branch = [place.get(node.parent, -1) for node in nodes], []
            for at, parent in enumerate(parents):
                if parent == (branch[-1] if branch else -1):
                    branch.append(at)
        # Nothing is accepted behind a draft that the guide forbids.
        self._drafts, self._behind = self._text.place.along([nodes[at].token for at in branch])
        if len(self._drafts) < len(branch):
            nodes, branch = nodes[: branch[len(self._drafts)]], branch[: len(self._drafts)]
            parents = parents[: len(nodes)]
        found, name = self._found(min(room - len(nodes), MOST_PROPOSED))
        above = branch[-1] if branch else -1
        most = min(room, MOST_PROPOSED)
        if self._helper is not None and most and name != GUIDE:
            own = self._helper.instead(self._text.tokens, self._drafts, self._proposed, most)
            if own:
                above, known = _along(nodes, parents, own)
                if not self._trees and above < len(nodes) - 1:  # it leaves the device's chain
                    nodes, parents = nodes[: above + 1], parents[: above + 1]
                found, name = own[known:][: room - len(nodes)], self._helper.name
        tokens = [*(node.token for node in nodes), *found]
        parents += [above, *range(len(nodes), len(tokens) - 1)][: len(found)]
        return Load(Drafts.of_tokens(tokens, parents), len(nodes), name, [node.number for node in nodes])

    def _found(self, most: int) -> tuple[Sequence[int], str]:
        """Find what the proposer with the most to gain proposes, and its name."""
        if forced := self._behind.run(most):
            self._proposed = float(len(forced))
            return forced, GUIDE
        best: Sequence[int] = ()
        self._proposed, name = 0.0, ""
        for proposer in self._proposers if most > 0 else ():
            found, _ = self._behind.along(proposer.propose(self._text.tokens, self._drafts, most)[:most])
            if found and (not best or proposer.right > self._proposed):
                best, self._proposed, name = found, proposer.right, proposer.name
        return best, name

    def ask(self, number: int, spare: bool) -> Forward | None:
        """Return the forward of the edge's own draft model to run before that of what `next` has just returned.

        None: there is no such model, or its forward would take longer than it saves.
        """
        if self._helper is None or self.room < 1:
            return None
        most = min(self.room, MOST_PROPOSED)
        ask = self._helper.want(self._text.tokens, self._drafts[:most], self._proposed, most)
        self.drafting = ask is not None
        return None if ask is None else Forward(number, ask.keep, ask.tokens, 1, spare, draft=True)

    def told(self, logits: np.ndarray, vocab_size: int) -> None:
        """Take the row that `ask` asked for, [1, vocab or more]."""
        self.drafting = False
        if self._helper is not None:
            try:
                self._helper.told(known_rows(logits, 1, vocab_size)[0])
            except GuideError:  # which the text may never meet
                self.unhelped()

    def unhelped(self) -> None:
        """Go on without the edge's own draft model, which has failed."""
        self._helper, self.drafting = None, False

    def waits(self, scheme: Scheme) -> bool:
        """Whether to wait for the device. The edge writes the last token, which has no draft, on its own."""
        return not self.tail.nodes and scheme.race == "off" and not self._alone and self.room > 0

    def is_spare(self, scheme: Scheme) -> bool:
        """Whether to run a forward only while the engine has nothing else to do."""
        return not self.tail.nodes and scheme.race == "idle" and not self._alone

    def tokens(self, number: int, seq: int, start: int, ruling: Ruling, load: Load) -> Tokens:
        """Make the message about a commit, after the text holds it."""
        accepted, ids = load.accepted(ruling), load.drafts.tokens
        taken = tuple(ids[node] for node in ruling.path[accepted:])
        last = () if ruling.token is None else (ruling.token,)
        node = load.numbers[ruling.path[accepted - 1]] if accepted else None
        return Tokens(number, start, taken + last, self._text.digest, accepted, load.device, seq, node)


def _along(nodes: Sequence[Node], parents: Sequence[int], tokens: Sequence[int]) -> tuple[int, int]:
    """Follow tokens through a tree. Returns: the last draft on the way, -1 for the text, and how many were found."""
    at = -1
    for known, token in enumerate(tokens):
        pairs = enumerate(zip(nodes, parents, strict=True))
        below = next((child for child, (node, above) in pairs if above == at and node.token == token), None)
        if below is None:
            return at, known
        at = below
    return at, len(tokens)


def _draw(text: Prefix, scheme: Scheme, row: np.ndarray, drafts: Sequence[int]) -> int:
    """See `Draw`."""
    return scheme.draw(row, text.place.along(drafts)[1]).token
