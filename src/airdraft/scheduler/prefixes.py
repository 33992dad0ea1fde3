"""Prefixes: which text's keys and values another text can begin with, so that no token is read twice.

A radix tree over blocks of tokens, one for each tenant: what one tenant's texts hold is never found by another's, or
the time to the first token would tell what others have asked. Decides only; copies no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from airdraft.models.lineage import alike
from airdraft.scheduler.turns import Sequenced

BLOCK = 16
"""Tokens in a node of the tree. Fewer in common are not worth a copy."""
_MOST_COMPARED = 8
"""Texts of one node that are compared token by token beyond their common blocks; the latest ones."""


class Found(NamedTuple):
    """A text that begins as another does."""

    text: Sequenced
    common: int
    """Tokens that both begin with."""


@dataclass(eq=False)
class _Node:
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)
    texts: dict[Sequenced, None] = field(default_factory=dict)
    """All that pass through, in the order in which they came."""


class Prefixes:
    """The tokens of all texts that hold a cache, or are about to."""

    def __init__(self) -> None:
        self._roots: dict[Hashable, _Node] = {}
        self._known: dict[Sequenced, tuple[Hashable, list[int]]] = {}

    def add(self, text: Sequenced, tokens: Sequence[int]) -> None:
        """Note that a text begins with `tokens`, in place of what was known of it."""
        known = list(tokens)
        if text in self._known and self._known[text][1] == known:
            return
        self.remove(text)
        tenant = text.owner.tenant or text.owner
        self._known[text] = tenant, known
        node = self._roots.setdefault(tenant, _Node())
        node.texts[text] = None
        for block in _blocks(known):
            node = node.children.setdefault(block, _Node())
            node.texts[text] = None

    def remove(self, text: Sequenced) -> None:
        """Forget a text; one that is not known is ignored."""
        tenant, tokens = self._known.pop(text, (None, []))
        node = self._roots.get(tenant)
        if node is None:
            return
        path: list[tuple[_Node, tuple[int, ...]]] = []
        for block in _blocks(tokens):
            del node.texts[text]
            path.append((node, block))
            node = node.children[block]
        del node.texts[text]
        for parent, block in reversed(path):
            if parent.children[block].texts:
                break
            del parent.children[block]
        if not self._roots[tenant].texts:
            del self._roots[tenant]

    def start(self, text: Sequenced, tokens: Sequence[int], comes: Callable[[Sequenced], bool]) -> Found | None:
        """Where a text without a cache is to begin.

        comes: whether what another text begins with is being fed.
        Returns: who holds the most of it, if worth a copy. `common` 0: who waits will find more.
        """
        there, coming = Found(text, 0), 0
        for other, common in self.find(text, tokens):
            held = _held(other, tokens[:common])
            if held > there.common:
                there = Found(other, held)
            if comes(other):
                coming = max(coming, common)
        if coming >= there.common + BLOCK:
            return Found(text, 0)
        return there if there.common >= BLOCK else None

    def find(self, text: Sequenced, tokens: Sequence[int]) -> list[Found]:
        """Texts of the same tenant that share the most blocks with `tokens`, the one with most in common first."""
        node = self._roots.get(text.owner.tenant or text.owner)
        depth = 0
        for block in _blocks(tokens):
            if node is None or block not in node.children:
                break
            child = node.children[block]
            if not any(each is not text for each in child.texts):
                break
            node, depth = child, depth + BLOCK
        if node is None or not depth:
            return []
        others = [each for each in reversed(node.texts) if each is not text][:_MOST_COMPARED]
        found = [
            Found(each, depth + alike(self._known[each][1][depth : depth + BLOCK], tokens[depth : depth + BLOCK]))
            for each in others
        ]
        return sorted(found, key=lambda each: each.common, reverse=True)


def _held(text: Sequenced, tokens: Sequence[int]) -> int:
    """Count the first of `tokens` that a text's cache begins with. It was to begin with all, drafts among them."""
    if text.cache is None:
        return 0
    own = text.tokens[: min(text.cached, len(tokens), *([] if text.lineage is None else [text.lineage.trunk]))]
    return len(own) if own == tokens[: len(own)] else alike(own, tokens)


def _blocks(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    """The whole blocks of tokens."""
    return [tuple(tokens[at : at + BLOCK]) for at in range(0, len(tokens) - BLOCK + 1, BLOCK)]
