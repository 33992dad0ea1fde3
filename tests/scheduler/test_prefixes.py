"""Prefixes: what is found is what texts have in common, and only among one owner's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airdraft.models.lineage import Lineage
from airdraft.scheduler.prefixes import BLOCK, Found, Prefixes
from airdraft.scheduler.turns import Owner, Sequenced

TREASURE: Any = object()
OWNERS = [Owner(), Owner()]


def held(owner: Owner, tokens: Sequence[int], cached: int | None = None) -> Sequenced:
    return Sequenced(owner, list(tokens), TREASURE, len(tokens) if cached is None else cached)


def never(_: Sequenced) -> bool:
    return False


def common(one: list[int], other: list[int]) -> int:
    at = 0
    while at < min(len(one), len(other)) and one[at] == other[at]:
        at += 1
    return at


# Texts that begin alike, block by block, and then differ anywhere.
texts = st.builds(
    lambda blocks, rest: [token for block in blocks for token in [block] * BLOCK] + rest,
    st.lists(st.integers(0, 1), max_size=4), st.lists(st.integers(0, 1), max_size=2 * BLOCK),
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 1), texts), max_size=6), texts, st.data())
def test_the_longest_common_prefix_is_found(
    known: list[tuple[int, list[int]]], tokens: list[int], data: st.DataObject
) -> None:
    tree = Prefixes()
    there = [held(OWNERS[owner], each) for owner, each in known]
    for text in there:
        tree.add(text, text.tokens)
    gone = data.draw(st.sets(st.sampled_from(there))) if there else set()
    for text in gone:
        tree.remove(text)
    mine = [text.tokens for text in there if text.owner is OWNERS[0] and text not in gone]
    longest = max((common(each, tokens) for each in mine), default=0)
    found = tree.start(Sequenced(OWNERS[0]), tokens, never)
    if longest < BLOCK:
        assert found is None
    else:
        assert found is not None
        assert found.common == longest
        assert found.text.tokens[:longest] == tokens[:longest]
    for text in there:
        tree.remove(text)
    assert not tree._roots


def test_what_is_not_in_the_cache_yet_is_waited_for() -> None:
    tree, tokens = Prefixes(), [1] * (5 * BLOCK)
    fed = held(OWNERS[0], tokens, cached=BLOCK)
    tree.add(fed, tokens)
    text = Sequenced(OWNERS[0])
    assert tree.start(text, tokens, lambda other: other is fed) == Found(text, 0)
    assert tree.start(text, tokens, never) == Found(fed, BLOCK)  # whoever holds more is not coming
    fed.cached = 5 * BLOCK - 1
    assert tree.start(text, tokens, lambda other: other is fed) == Found(fed, 5 * BLOCK - 1)


def test_a_text_does_not_begin_with_itself() -> None:
    tree, tokens = Prefixes(), [1] * (2 * BLOCK)
    text = held(OWNERS[0], tokens)
    tree.add(text, tokens)
    assert tree.start(text, tokens, never) is None


def test_what_a_text_was_to_begin_with_and_does_not_is_not_found() -> None:
    """Drafts that were rejected since, and those beside which others stand in a tree."""
    tree, tokens = Prefixes(), [1] * (3 * BLOCK)
    text = held(OWNERS[0], tokens)
    tree.add(text, tokens)
    text.lineage = Lineage(2 * BLOCK, (2 * BLOCK - 1,) * BLOCK)
    assert tree.start(Sequenced(OWNERS[0]), tokens, never) == Found(text, 2 * BLOCK)
    text.tokens, text.lineage = [*tokens[: BLOCK + 3], *[2] * BLOCK], None
    assert tree.start(Sequenced(OWNERS[0]), tokens, never) == Found(text, BLOCK + 3)
