"""Memory, as tables: who loses a cache for whom, and who has to wait."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from airdraft.scheduler.memory import Memory
from airdraft.scheduler.turns import Owner, Sequenced, Share

TREASURE: Any = object()
"""A cache: memory never looks inside."""


@dataclass
class Held:
    """A text with a cache."""

    cached: int
    used: int = 0
    running: bool = False
    since: float = math.inf

    def text(self, memory: Memory) -> Sequenced:
        found = Sequenced(Owner(), [0] * self.cached, TREASURE, self.cached, self.used, self.running, self.since)
        memory.hold(found)
        return found


def share(text: Sequenced, end: int, arrival: int = 5) -> Share:
    return Share(text, arrival, [0] * end, text.cached, end, 1)


@pytest.mark.parametrize(
    ("caches", "positions", "held", "needs", "evicted"),
    [
        (None, None, [Held(99)], 1000, []),  # no limit
        (None, 100, [Held(40), Held(50)], 10, []),  # it fits
        (None, 100, [Held(40, used=2), Held(50, used=1)], 20, [1]),  # who has rested longest
        (None, 100, [Held(40, used=2), Held(50, used=1)], 99, [1, 0]),
        (None, 100, [Held(40, used=2), Held(50, used=1)], 200, [1, 0]),  # all memory to itself: it may try
        (None, 100, [Held(40, used=1), Held(50, running=True)], 50, [0]),
        (None, 100, [Held(40, used=1), Held(50, running=True)], 51, None),  # who runs keeps what it has
        (None, 100, [Held(90, since=4)], 20, None),  # fed piece by piece, and came before
        (None, 100, [Held(90, since=6)], 20, [0]),  # came later
        (2, None, [Held(1)], 1, []),
        (2, None, [Held(1, used=2), Held(1, used=1)], 1, [1]),
        (2, None, [Held(1, running=True), Held(1, running=True)], 1, None),
        (1, None, [Held(1, since=4)], 1, None),
        (2, 100, [Held(60, used=1), Held(10, used=2)], 60, [0]),  # one for both limits
        (None, 100, [], 200, []),
    ],
)
def test_who_loses_a_cache_for_a_text_without_one(
    caches: int | None, positions: int | None, held: Sequence[Held], needs: int, evicted: Sequence[int] | None
) -> None:
    memory = Memory(caches, positions)
    texts = [each.text(memory) for each in held]
    found = memory.room(share(Sequenced(Owner()), needs), [])
    assert found == (None if evicted is None else [texts[at] for at in evicted])
    assert all(text.cache is TREASURE for text in texts)  # it only says so


def test_a_text_does_not_count_beside_itself() -> None:
    memory = Memory(1, 100)
    text = Held(90).text(memory)
    assert memory.room(share(text, 100), []) == []
    assert memory.room(share(text, 101), []) == []


def test_who_is_in_the_batch_already_keeps_its_cache_and_its_room() -> None:
    memory = Memory(None, 100)
    first, second = Held(30).text(memory), Held(30).text(memory)
    assert memory.room(share(second, 40), [share(first, 60)]) == []
    assert memory.room(share(second, 41), [share(first, 60)]) is None


def test_positions_are_those_of_who_holds_a_cache() -> None:
    memory = Memory()
    texts = [Held(cached).text(memory) for cached in (3, 4)]
    assert memory.positions == 7
    memory.free(texts[0])
    assert (texts[0].cache, texts[0].cached, memory.positions) == (None, 0, 4)
    memory.free(texts[0])
    assert memory.positions == 4


@dataclass
class Spacious:
    """A cache with more room than it holds."""

    length: int
    room: int

    def rest(self) -> None:
        """Gives nothing back."""


@pytest.mark.parametrize(
    ("kept", "held", "taken"),
    [
        (100, [Held(40, used=2), Held(50, used=1)], []),
        (100, [Held(40, used=2), Held(70, used=1)], [1]),  # who was used longest ago
        (100, [Held(60, used=3), Held(50, used=1), Held(60, used=2)], [1, 2]),
        (100, [Held(500, used=2), Held(1, used=1)], [1]),  # the last one stays, however long
        (100, [Held(90, used=1, running=True), Held(90, used=2), Held(5, used=3)], [1]),
        (0, [Held(40, used=1)], [0]),
    ],
)
def test_what_is_kept_of_texts_that_are_over(kept: int, held: Sequence[Held], taken: Sequence[int]) -> None:
    memory = Memory(max_kept=kept)
    texts = [each.text(memory) for each in held]
    assert memory.excess() == []  # none is over
    for text in texts:
        text.over = True
    assert memory.excess() == [texts[at] for at in taken]


def test_spare_room_counts_as_kept() -> None:
    memory = Memory(max_kept=100)
    texts = [Held(10, used=used).text(memory) for used in range(4)]
    for text in texts:
        text.over, text.cache = True, Spacious(10, 40)
    assert memory.excess() == texts[:2]
