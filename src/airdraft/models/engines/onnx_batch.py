"""Many sequences in one call of an ONNX graph: which go together, and where their keys and values lie meanwhile.

What it gains, with the shipped target: 16 sequences take 0.35 of the time one by one at 100 positions each, 0.5 at 400,
and 0.6 where lengths spread from 100 to 600 (0.7 if all went into one call); two take 0.7 to 0.95. The rest is keys and
values: each forward of a graph with past copies all of them, batched or not, unless it writes in place. A batch of
other sequences than the last one's takes 1.15 to 1.4 times as long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from airdraft.models.lineage import Lineage

Tensor = NDArray[Any]

# What a call costs besides its first token and its positions, in tokens; and how often the bytes of a position are
# moved, where those of the weights are read once. Fitted to calls of the shipped target with 1 to 32 sequences of 100
# and 400 positions and 1 and 6 tokens: 0.43 ms a call, 0.047 ms a token, 0.75 µs a position of 8 KB.
_CALL_TOKENS = 9
_POSITION_PASSES = 4.5
_LEAST = 64
"""Positions in whose multiples room is made."""
_ALIGNED = 64
"""Bytes to whose multiples tensors begin."""
_MOST_BYTES = 1 << 30
"""Of keys and values in one call."""


class OnnxCache:
    """Keys and values of one sequence: the first `length` positions of [1, kv_heads, any, head_dim] in each tensor.

    `binding` is a session whose graph writes in place, and what it has of the tensors as long as they do not move.
    `lineage` says which position follows which.
    `stack` is where their last call in company had a copy of them: row `row` there agrees in its first `copied`
    positions as long as this cache owns it.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.binding: tuple[Any, Any] | None = None
        self.length = 0
        self.lineage = Lineage()
        self.stack: Stack | None = None
        self.row = self.copied = 0
        self.private = False
        """See `Erasable.private`."""

    @property
    def room(self) -> int:
        """See `Roomy.room`."""
        return int(self.tensors[0].shape[2])

    def rest(self) -> None:
        """See `Roomy.rest`: the stack lives as long as a cache is in it."""
        self.stack, self.copied = None, 0

    def copy(self, length: int) -> OnnxCache:
        """The first `length` positions, in memory of their own."""
        made = OnnxCache(_moved(self.tensors, length, length))
        made.length, made.lineage = length, self.lineage.kept(length)
        return made

    def pick(self, keep: int, picks: Sequence[int]) -> None:
        """Roll back to `keep` positions and `picks` of those after them, which move up."""
        lineage, end = self.lineage.kept(keep, picks), keep + len(picks)
        for tensor in self.tensors:
            tensor[:, :, keep:end] = tensor[:, :, [keep + pick for pick in picks]]
        self.length, self.lineage, self.copied = end, lineage, min(self.copied, keep)

    def replace(self, tensors: list[Tensor]) -> None:
        """Take `tensors` instead, and leave the stack: who runs alone from now on must not keep it in memory."""
        gone, self.tensors, self.length = self.tensors, tensors, tensors[0].shape[2]
        self._give_up(gone)
        self.rest()

    def cut(self, keep: int) -> list[Tensor]:
        """Roll back to `keep` positions, without room for more. Returns: the tensors."""
        if keep < self.room:
            self.replace([tensor[:, :, :keep].copy() for tensor in self.tensors])
            self.lineage = self.lineage.kept(keep)
        return self.tensors

    def make_room(self, keep: int, total: int) -> None:
        """Roll back to `keep` positions, with room for `total`, and leave the stack, as in `replace`."""
        self._grow(keep, total)
        self.length = keep
        self.rest()

    def append(self, keep: int, new: list[Tensor]) -> None:
        """Roll back to `keep` positions and add those of `new`, each [kv_heads, n, head_dim]."""
        total = keep + new[0].shape[1]
        self._grow(keep, total)
        for tensor, columns in zip(self.tensors, new, strict=True):
            tensor[0, :, keep:total] = columns
        self.length = total

    def drop(self, count: int) -> None:
        """Forget the first `count` positions, of a chain; the others move up."""
        left, gone = self.length - count, self.tensors
        self.tensors = _moved([tensor[:, :, count:] for tensor in gone], left, _roomy(left))
        self.length, self.lineage, self.binding = left, self.lineage.after(count), None
        self._give_up(gone)
        self.rest()

    def erase(self, keep: int) -> None:
        """See `Erasable.erase`."""
        for tensor in self.tensors:
            tensor[:, :, keep:] = 0
        self.length, self.lineage, self.private = keep, self.lineage.kept(keep), False
        self.rest()

    def take(self, start: int, end: int) -> list[Tensor]:
        """See `Portable.take`."""
        return [tensor[0, :, start:end].copy() for tensor in self.tensors]

    def put(self, keep: int, tensors: Sequence[Tensor]) -> None:
        """See `Portable.put`."""
        lineage = self.lineage.kept(keep)
        self.copied = min(self.copied, keep)
        self.append(keep, list(tensors))
        self.lineage = lineage.grown(self.length - keep)

    def _grow(self, keep: int, total: int) -> None:
        """Move to larger tensors, with zeros after the first `keep` positions, if these have no room for `total`."""
        if self.tensors[0].shape[2] < total:
            gone, self.tensors = self.tensors, _moved(self.tensors, keep, _roomy(total))
            self._give_up(gone)
            self.binding = None

    def _give_up(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite memory that nobody needs any more, if it is private."""
        for tensor in tensors if self.private else ():
            tensor[:] = 0


class Stack:
    """Keys and values of one call's sequences side by side, kept for the next one: most of them come again.

    Copies only: every cache has its own. A row belongs to the cache that was last put there, and just the positions
    that it does not have yet are copied. The caches in it keep it alive, so its memory goes with the last of them.
    """

    def __init__(self) -> None:
        self._memory: list[Tensor] = []
        self._positions = 0
        self._owners: WeakValueDictionary[int, OnnxCache] = WeakValueDictionary()

    def fill(self, caches: Sequence[OnnxCache], keeps: Sequence[int], new: int = 0) -> tuple[list[Tensor], list[int]]:
        """Returns: the first `keeps[i]` positions of each cache i in tensors [rows, kv_heads, positions, head_dim],
        finite numbers after them with room for `new` more, and the row of each cache."""
        self._reserve(caches[0].tensors, len(caches), max(keeps) + new)
        heads_and_dims = [(tensor.shape[1], tensor.shape[3]) for tensor in caches[0].tensors]
        stacked = [
            memory[: len(caches) * heads * self._positions * dim].reshape(len(caches), heads, self._positions, dim)
            for memory, (heads, dim) in zip(self._memory, heads_and_dims, strict=True)
        ]
        mine = [
            cache.stack is self and cache.row < len(caches) and self._owners.get(cache.row) is cache for cache in caches
        ]
        taken = {cache.row for cache, has in zip(caches, mine, strict=True) if has}
        free = iter([row for row in range(len(caches)) if row not in taken])
        for cache, has, keep in zip(caches, mine, keeps, strict=True):
            cache.stack = self
            if not has:
                cache.row, cache.copied = next(free), 0
                self._owners[cache.row] = cache
                for tensor in stacked:  # what is masked is multiplied by 0, and must not be NaN
                    tensor[cache.row, :, keep:] = 0
            if cache.copied < keep:
                for tensor, own in zip(stacked, cache.tensors, strict=True):
                    tensor[cache.row, :, cache.copied : keep] = own[0, :, cache.copied : keep]
            cache.copied = keep
        return stacked, [cache.row for cache in caches]

    def _reserve(self, like: list[Tensor], rows: int, positions: int) -> None:
        """Rows move where their length changes, and memory that was never touched is slow: so there is some slack.

        Sequences that are not in this batch but alive may be in the next, so it is the dead that make room.
        """
        alive = max(rows, len(self._owners))
        if not positions <= self._positions <= positions + 2 * _LEAST + positions // 8:
            self._positions = _roomy(positions)
            self._owners.clear()
        sizes = [rows * self._positions * tensor.shape[1] * tensor.shape[3] for tensor in like]
        # All tensors of a model grow alike, so one tells for all.
        if not self._memory or not sizes[0] <= self._memory[0].size <= 4 * sizes[0] * alive // rows:
            self._memory = [np.empty(size, tensor.dtype) for size, tensor in zip(sizes, like, strict=True)]
            self._owners.clear()


@dataclass(frozen=True)
class Rule:
    """Which sequences go into one call: those of like tokens and positions, as long as all their padding costs less
    than another call would. Costs are in tokens; `position` is that of a position."""

    position: float
    most: int
    """Positions in one call."""

    @classmethod
    def of(cls, weight_bytes: int, position_bytes: int) -> Rule:
        """The rule of a model with so many bytes of weights, and of keys and values at each position."""
        position = _CALL_TOKENS * _POSITION_PASSES * position_bytes / max(weight_bytes, 1)
        return cls(position, _MOST_BYTES // position_bytes)

    def groups(self, sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Indices into `sizes`, each (tokens, positions), grouped by call."""
        order = sorted(range(len(sizes)), key=lambda i: sizes[i][0] + self.position * sizes[i][1], reverse=True)
        found: list[list[int]] = []
        for i in order:
            last = [sizes[j] for j in found[-1]] if found else []
            together = [*last, sizes[i]]
            longest = max(positions for _, positions in together)
            if last and self._padding(together) < _CALL_TOKENS and len(together) * longest <= self.most:
                found[-1].append(i)
            else:
                found.append([i])
        return found

    def _padding(self, sizes: Sequence[tuple[int, int]]) -> float:
        width, length = max(tokens for tokens, _ in sizes), max(positions for _, positions in sizes)
        return sum(width - tokens + self.position * (length - positions) for tokens, positions in sizes)


def _roomy(positions: int) -> int:
    """Room for so many positions, and for an eighth more."""
    return -(-(positions + positions // 8) // _LEAST) * _LEAST


def _moved(tensors: Sequence[Tensor], keep: int, positions: int) -> list[Tensor]:
    """Copies of the first `keep` positions with room for `positions`, zeros where nothing is.

    They lie in one piece of memory: freed, it goes back to the system, where much of many small ones would not.
    """
    shapes = [(*tensor.shape[:2], positions, tensor.shape[3]) for tensor in tensors]
    sizes = [math.prod(shape) * tensor.itemsize for shape, tensor in zip(shapes, tensors, strict=True)]
    ends = list(itertools.accumulate(size + -size % _ALIGNED for size in sizes))
    whole, found = np.zeros(ends[-1], np.uint8), []
    for tensor, shape, size, end in zip(tensors, shapes, sizes, ends, strict=True):
        start = end - size - -size % _ALIGNED
        moved = whole[start : start + size].view(tensor.dtype).reshape(shape)
        moved[:, :, :keep] = tensor[:, :, :keep]
        found.append(moved)
    return found
