"""A stream at the edge, which takes drafts as they come, adds proposals, and may write on without either."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.edge.proposing import Load, Proposer
from airdraft.core.edge.tail import Node, Tail
from airdraft.core.messages import MOST_NODES, MOST_PROPOSED, MOST_VERIFIED, REACH, Draft, Tokens
from airdraft.core.schemes import Drafts, Ruling, Scheme
from airdraft.core.schemes.base import check_length
from airdraft.core.text import Prefix
from airdraft.errors import Code, RemoteProtocolError


class EdgeStream:
    """The drafts that have arrived, and the choice of those to verify."""

    def __init__(self, text: Prefix, max_draft: int, proposers: Sequence[Proposer], trees: bool = False) -> None:
        """`proposers`: whom to ask, in this order, until one has an idea. `trees`: whether drafts may be a tree."""
        self.tail = Tail(text)
        self._text, self._max_draft, self._proposers, self._trees = text, max_draft, proposers, trees
        self._alone = False  # the device has no drafts for now

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

    def next(self, room: int) -> Load:
        """Return the drafts that the next forward verifies, at most `room`: the device's, then a proposer's.

        Of a tree it takes the drafts that came first. A proposal follows its first branch.
        """
        nodes = self.tail.nodes[: max(0, room)]
        if any(node.parent is not before for node, before in zip(nodes, (None, *nodes), strict=False)):
            nodes = nodes[:MOST_VERIFIED]
        place: dict[Node | None, int] = {node: at for at, node in enumerate(nodes)}
        parents = [place.get(node.parent, -1) for node in nodes]
        branch = list[int]()
        for at, parent in enumerate(parents):
            if parent == (branch[-1] if branch else -1):
                branch.append(at)
        name, most = "", min(room - len(nodes), MOST_PROPOSED)
        found: Sequence[int] = ()
        for proposer in self._proposers if most > 0 else ():
            if found := proposer.propose(self._text.tokens, [nodes[at].token for at in branch], most)[:most]:
                name = proposer.name
                break
        tokens = [*(node.token for node in nodes), *found]
        parents += [branch[-1] if branch else -1, *range(len(nodes), len(tokens) - 1)][: len(found)]
        return Load(Drafts.of_tokens(tokens, parents), len(nodes), name, [node.number for node in nodes])

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
        node = load.numbers[ruling.path[accepted - 1]] if accepted else None
        return Tokens(number, start, taken + last, self._text.digest, accepted, load.device, seq, node)
