"""The tree in a cache: which position follows which, and what each of them sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import ModelError


def alike(some: Sequence[int], others: Sequence[int]) -> int:
    """Count the first numbers that two runs share."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(some), len(others)))


@dataclass(frozen=True)
class Lineage:
    """The positions of a cache in their order, each of which follows an earlier one.

    The first `trunk` are a chain, and all others grow out of its end.
    """

    trunk: int = 0
    parents: tuple[int, ...] = ()
    """For each position from `trunk` on, the one that it follows; -1: nothing. Empty: all is a chain."""

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.trunk + len(self.parents)

    def parent(self, at: int) -> int:
        """The position that position `at` follows; -1: nothing."""
        return at - 1 if at < self.trunk else self.parents[at - self.trunk]

    def kept(self, keep: int, picks: Sequence[int] = ()) -> Lineage:
        """What is left of it, see `Part`. Raises: `ModelError` if something stays whose parent does not."""
        check_picks(self.length, keep, picks)
        if keep == self.length:
            return self
        if keep <= self.trunk and not picks:
            return Lineage(keep)
        low = min(keep, self.trunk)
        stays = [*range(low, keep), *(keep + pick for pick in picks)]
        moved = {old: new for new, old in enumerate(stays, low)}
        parents = []
        for at in stays:
            parent = self.parent(at)
            if parent >= low and parent not in moved:
                raise ModelError(f"position {at} cannot stay without {parent}, which it follows; pick that too")
            parents.append(moved.get(parent, parent))
        return _of(low, parents)

    def grown(self, n: int, parents: Sequence[int] | None = None) -> Lineage:
        """It with `n` tokens more, whose parents are given as in `Part`. Raises: `ModelError` if they are none."""
        check_parents(self.length, n, parents)
        if parents is None and not self.parents:
            return Lineage(self.trunk + n)
        follow = [self.length + parent for parent in (range(-1, n - 1) if parents is None else parents)]
        if self.parents and min(follow, default=self.trunk) >= self.trunk - 1:  # nothing shortens the trunk
            return Lineage(self.trunk, (*self.parents, *follow))
        return _of(self.trunk, [*self.parents, *follow])

    def after(self, count: int) -> Lineage:
        """It without its first `count` positions, of the trunk; the others move up."""
        return Lineage(self.trunk - count, tuple(parent - count for parent in self.parents))

    def fed(self, start: int, end: int) -> tuple[int, ...] | None:
        """The parents of the positions from `start` to `end`, as a `Part` that feeds these would have them."""
        if end <= self.trunk:
            return None
        parents = [self.parent(at) - start for at in range(start, end)]
        return None if parents == list(range(-1, end - start - 1)) else tuple(parents)

    def depths(self, start: int = 0) -> list[int]:
        """How many positions lead to each from `start` on: where a model is to think it stands."""
        return [*range(start, self.trunk), *self._depths[max(0, start - self.trunk) :]]

    @cached_property
    def _depths(self) -> list[int]:
        found: list[int] = []
        for parent in self.parents:
            found.append(1 + (parent if parent < self.trunk else found[parent - self.trunk]))
        return found

    def path(self, at: int) -> list[int]:
        """The positions from `trunk` on that lead to position `at`, itself included."""
        found: list[int] = []
        while at >= self.trunk:
            found.append(at)
            at = self.parent(at)
        return found[::-1]

    def hidden(self, start: int) -> NDArray[np.bool_]:
        """For each position from `start` on, which of those from `trunk` on it must not see.

        Returns: bool [length - start, length - trunk]. A position sees itself, and all of the trunk before it.
        """
        n, rows = len(self.parents), self.length - start
        seen = list[int]()  # a bit for each position
        for at, parent in enumerate(self.parents):
            seen.append(1 << at | (seen[parent - self.trunk] if parent >= self.trunk else 0))
        width = -(-n // 8)
        packed = b"".join(each.to_bytes(width, "little") for each in [*[0] * (rows - n), *seen[max(0, n - rows) :]])
        bits = np.frombuffer(packed, np.uint8).reshape(rows, width)
        return np.asarray(np.unpackbits(bits, axis=1, count=n, bitorder="little") == 0)


def check_picks(length: int, keep: int, picks: Sequence[int]) -> None:
    """Refuse picks, see `Part`, that are not there in a cache of `length` positions. Raises: `ModelError`."""
    left = length - keep
    if picks and (any(not 0 <= pick < left for pick in picks) or list(picks) != sorted(set(picks))):
        raise ModelError(f"picks {picks} do not rise from 0 to {left - 1}; name positions after the first kept")


def check_parents(stay: int, n: int, parents: Sequence[int] | None) -> None:
    """Refuse parents, see `Part`, that `n` tokens after `stay` positions cannot have. Raises: `ModelError`."""
    lowest = -stay - 1  # which follows nothing
    if parents is not None and (len(parents) != n or any(not lowest <= each < i for i, each in enumerate(parents))):
        raise ModelError(
            f"parents {parents} are no tree; give each token an earlier one, or below 0 one of the {stay} that stay"
        )


def _of(start: int, parents: list[int]) -> Lineage:
    """The lineage of a chain of `start` positions and others with `parents`: the trunk as long as it may be."""
    length = start + len(parents)
    trunk = min((parent + 1 for at, parent in enumerate(parents, start) if parent != at - 1), default=length)
    below = range(trunk - 1, start - 1)  # of a trunk that is shorter now
    return Lineage(trunk, (*below, *parents[max(0, trunk - start) :]))
