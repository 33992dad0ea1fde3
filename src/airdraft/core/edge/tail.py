"""A stream's drafts at the edge that still follow the committed text: a chain, or a tree from a device that sends one.

The device drafts without waiting, so a `Draft` may follow tokens committed since, earlier drafts, or a branch that a
commit has ended. Its digest of all tokens before `start` decides, and in a tree the number of each draft's parent. If
the digest matches neither the committed text there nor that text with the known drafts, the branch is dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airdraft.core.messages import MOST_BACK, MOST_NODES, Digest
from airdraft.core.text import Prefix
from airdraft.errors import Code, RemoteProtocolError

DEAD = -1
"""The place of a draft that follows the text no longer."""


@dataclass(eq=False)
class Node:
    """A draft that follows the text."""

    token: int
    at: int
    """Its position."""
    parent: Node | None
    """None: it follows the committed text."""
    digest: Digest
    """Of all tokens up to it."""
    number: int | None = None
    """Its number among the drafts of the text's trees, from 0. None: it came in a chain."""


class Tail:
    """The drafts that follow `text`."""

    def __init__(self, text: Prefix) -> None:
        self.nodes: list[Node] = []
        """In the order in which they came, so every one is behind its parent."""
        self._text = text
        self._numbered = 0  # drafts of trees that have arrived, dead ones included
        self._places: dict[int, Node | int] = {}  # of those: a live draft, or the position where it is committed

    def offer(self, start: int, digest: int, drafts: Sequence[int], end: int, parents: bytes = b"") -> bool:
        """Take drafts after the first `start` tokens of a text with this digest, as `Draft` describes them.

        A chain replaces what followed the same tokens, and a tree joins it. Returns: whether any of them follows the
        text. Raises: `RemoteProtocolError` for drafts of a tree that reach `end`, are too many, or follow nothing.
        """
        place = self._find(start, digest)
        return self._join(place, drafts, parents, end) if parents else self._replace(place, drafts)

    def advance(self, tokens: Sequence[int]) -> tuple[int, list[int]]:
        """Follow the text after a commit of `tokens`. Drafts that agree leave; those of other branches are dead.

        Returns: where the first branch begins to differ, and its drafts from there on; none if some branch goes on.
        """
        at, passed = self._text.length - len(tokens), list[Node]()
        for token in tokens if self.nodes else ():
            child = self._child(passed[-1] if passed else None, token)
            if child is None:
                break
            passed.append(child)
        last = passed[-1] if passed else None
        rest = self._below(last)
        dead = list[int]()
        if len(passed) < len(tokens):
            while (node := next((node for node in rest if node.parent is last), None)) is not None:
                dead.append(node.token)
                last = node
            rest = []
        for node in rest:
            node.parent = None if node.parent is last else node.parent
        self._keep(rest, passed)
        return at + len(passed), dead

    def clear(self) -> None:
        """Drop all drafts."""
        self._keep([])

    def _keep(self, nodes: list[Node], passed: Sequence[Node] = ()) -> None:
        """Keep these drafts only. Those that have passed are committed."""
        known: dict[Node, Node | int] = {node: node for node in nodes} | {node: node.at for node in passed}
        places = ((number, known.get(at, DEAD) if isinstance(at, Node) else at) for number, at in self._places.items())
        self._places = {number: place for number, place in places if place != DEAD}
        self.nodes = nodes

    def _child(self, parent: Node | None, token: int) -> Node | None:
        return next((node for node in self.nodes if node.parent is parent and node.token == token), None)

    def _below(self, top: Node | None) -> list[Node]:
        """Find all drafts behind one, or behind the text."""
        above, found = {top}, list[Node]()
        for node in self.nodes:
            if node.parent in above:
                above.add(node)
                found.append(node)
        return found

    def _find(self, start: int, digest: int) -> Node | int:
        """Find what ends at `start` with this digest: a draft, the position of a token of the text, or `DEAD`."""
        if start <= self._text.length:
            return start - 1 if self._text.follows(start, digest) else DEAD
        ends = (node for node in reversed(self.nodes) if node.at == start - 1 and node.digest.value == digest)
        return next(ends, DEAD)

    def _replace(self, place: Node | int, drafts: Sequence[int]) -> bool:
        text, rest = self._text, list(drafts)
        if isinstance(place, int):
            known = text.tokens[place + 1 : place + 1 + len(rest)]  # at positions committed since
            if place == DEAD or known != rest[: len(known)]:
                return False
            del rest[: len(known)]
        node = place if isinstance(place, Node) else None
        if behind := set(self._below(node)):
            self._keep([each for each in self.nodes if each not in behind])
        for token in rest:
            node = self._append(node, token)
        return True

    def _join(self, place: Node | int, drafts: Sequence[int], parents: bytes, end: int) -> bool:
        alive = False
        for token, back in zip(drafts, parents, strict=True):
            number = self._numbered
            if back > number:
                raise RemoteProtocolError(
                    Code.STATE, f"a draft follows one {back} before it, but it is number {number}"
                )
            here = self._grown(place if back == 0 else self._places.get(number - back, DEAD), token, number, end)
            if here != DEAD:
                self._places[number], alive = here, True
            self._places.pop(number - MOST_BACK, None)
            self._numbered += 1
        return alive

    def _grown(self, above: Node | int, token: int, number: int, end: int) -> Node | int:
        """Place a draft of a tree behind another place, and return its own."""
        text = self._text
        if isinstance(above, int) and (above == DEAD or above + 1 < text.length):
            return above + 1 if above != DEAD and text.tokens[above + 1] == token else DEAD
        parent = above if isinstance(above, Node) else None
        if (known := self._child(parent, token)) is not None:
            return known
        if len(self.nodes) >= MOST_NODES:
            raise RemoteProtocolError(Code.STATE, f"more than {MOST_NODES} drafts of a tree are alive")
        if (parent.at + 1 if parent else text.length) >= end:
            raise RemoteProtocolError(Code.STATE, f"a draft at position {end} is beyond what may be drafted")
        return self._append(parent, token, number)

    def _append(self, parent: Node | None, token: int, number: int | None = None) -> Node:
        at = self._text.length if parent is None else parent.at + 1
        digest = self._text.digest_after() if parent is None else parent.digest.copy()
        digest.extend((token,))
        self.nodes.append(Node(token, at, parent, digest, number))
        return self.nodes[-1]
