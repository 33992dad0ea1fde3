"""Texts that begin alike keep the keys and values of their beginning once, and its part of attention is computed for
all of them together.

A copy of a cache shares what both begin with, in whole segments. The engine runs texts with one beginning in one call:
it gets what they have of their own, and the beginning beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import (
    Around,
    Chooser,
    EngineInfo,
    FloatArray,
    LocalEngine,
    Part,
    Tensors,
    check,
    check_copy,
)

SEGMENT = 64
"""Positions that are shared as a whole."""
LEAST = 4 * SEGMENT
"""Positions that are shared, at least: texts with other beginnings run in calls of their own, which costs more than to
copy a few."""
_SAME = 0.01
"""Of the spread of a row, that rounding may change in one that is spliced; far more than it does."""
_WORTH = 4
"""A beginning is made anew if it can be longer by more than one in so many parts; else the rest is copied."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """Keys and values that texts begin with; nothing of them ever changes.

    `tensors`: for each layer keys, then values, each [segments, kv_heads, 64, head_dim]; so a shorter beginning is a
    view of them.
    """

    tensors: Tensors
    made: dict[Any, Any] = field(default_factory=dict)
    """What an engine has made of them, to use again."""
    holders: WeakSet[SharingCache] = field(default_factory=WeakSet)
    """The caches of texts that begin so."""
    _shorter: dict[int, Beginning] = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Tensors) -> Beginning:
        """The whole segments of `tensors`, each [kv_heads, positions, head_dim], in memory of its own."""
        found = []
        for each in tensors:
            heads, positions, width = each.shape
            cut = each.reshape(heads, positions // SEGMENT, SEGMENT, width)
            found.append(np.ascontiguousarray(cut.transpose(1, 0, 2, 3)))
        return cls(found)

    @property
    def length(self) -> int:
        """Positions."""
        return SEGMENT * len(self.tensors[0])

    def first(self, length: int) -> Beginning | None:
        """The segments of its first `length` positions; None: there is no whole one."""
        count = length // SEGMENT
        if not count or count >= len(self.tensors[0]):
            return self if count else None
        if count not in self._shorter:
            self._shorter[count] = Beginning([each[:count] for each in self.tensors])
        return self._shorter[count]

    def take(self, start: int, end: int) -> Tensors:
        """Positions `start` to `end`, each tensor [kv_heads, positions, head_dim]."""
        low, high = start // SEGMENT, -(-end // SEGMENT)
        found = []
        for each in self.tensors:
            cut = each[low:high].transpose(1, 0, 2, 3)
            flat = cut.reshape(len(cut), -1, cut.shape[-1])
            found.append(flat[:, start - SEGMENT * low : end - SEGMENT * low])
        return found


class Splicer(Protocol):
    """An engine whose attention takes keys and values from two places."""

    info: EngineInfo

    def new_cache(self) -> Any:
        """See `TargetEngine.new_cache`. What it gives is `Portable`."""
        ...

    def verify(self, batch: Sequence[Part], beginning: Beginning | None = None) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`. The positions of all parts count from the end of `beginning`."""
        ...


@dataclass(eq=False)
class SharingCache(Around):
    """A text's own keys and values, and the beginning before them, which others may have as well."""

    inner: Any
    beginning: Beginning | None = None

    @property
    def start(self) -> int:
        """Positions in the beginning."""
        return 0 if self.beginning is None else self.beginning.length

    @property
    def length(self) -> int:
        return self.start + int(self.inner.length)

    @property
    def room(self) -> int:
        """See `Roomy.room`. Those who have one beginning share what it takes."""
        return super().room + (self.start // len(self.beginning.holders) if self.beginning is not None else 0)

    def begin(self, beginning: Beginning | None) -> None:
        """Take another beginning instead; what is the text's own stays."""
        if self.beginning is not None:
            self.beginning.holders.discard(self)
        if beginning is not None:
            beginning.holders.add(self)
        self.beginning = beginning

    def take(self, start: int, end: int) -> Tensors:
        """See `Portable.take`."""
        own: Tensors = self.inner.take(max(start - self.start, 0), max(end - self.start, 0))
        if self.beginning is None or start >= self.start:
            return own
        shared = self.beginning.take(start, min(end, self.start))
        return [np.concatenate(both, 1) for both in zip(shared, own, strict=True)]

    def put(self, keep: int, tensors: Tensors) -> None:
        """See `Portable.put`."""
        self.own(keep)
        self.inner.put(keep - self.start, tensors)

    def erase(self, keep: int) -> None:
        """See `Erasable.erase`. A beginning that others may have as well holds nothing private."""
        self.own(keep)
        super().erase(keep - self.start)

    def own(self, keep: int) -> None:
        """Roll back to the first `keep` positions, if some of the beginning goes as well; what remains of the last
        segment is the text's own then."""
        if self.beginning is not None and keep < self.start:
            shorter = self.beginning.first(keep)
            self.inner.put(0, self.beginning.take(0 if shorter is None else shorter.length, keep))
            self.begin(shorter)

    def share(self, length: int) -> None:
        """Make the first `length` positions, which are whole segments of a chain, a beginning."""
        beginning = Beginning.of(self.take(0, length))
        self.inner.drop(length - self.start)
        self.begin(beginning)


class Sharing(LocalEngine):
    """An engine whose caches share what they begin with."""

    def __init__(self, engine: Splicer) -> None:
        """Raises: `ModelError` if rows behind a beginning are not those of the whole text, which a trial tells."""
        self.info, self._engine = engine.info, engine
        if isinstance(engine, Chooser):
            self.choose = partial(self._run, engine.choose)
        if self.max_context >= LEAST and not self._splices():
            raise ModelError(f"{self.name} attends in ways that cannot be spliced; leave --splice out")

    def _splices(self) -> bool:
        text = [i * 7 % self.vocab_size for i in range(SEGMENT + 2)]
        rows, cache = self.forward(self.new_cache(), 0, text, 2), self.new_cache()
        self.forward(cache, 0, text[:SEGMENT], 0)
        cache.share(SEGMENT)
        others = self.forward(cache, SEGMENT, text[SEGMENT:], 2)
        return bool(np.abs(rows - others).max() <= _SAME * np.ptp(rows))

    def new_cache(self) -> SharingCache:
        """An empty cache."""
        return SharingCache(self._engine.new_cache())

    def copy(self, cache: SharingCache, length: int) -> SharingCache:
        """See `Copier.copy`. Both caches have one beginning then, if they have enough in common."""
        check_copy(self.info, cache, length)
        end = min(length, cache.start + cache.inner.lineage.trunk) // SEGMENT * SEGMENT
        made = self.new_cache()
        if end >= LEAST:
            if end - cache.start > cache.start // _WORTH:
                cache.share(end)
            made.begin(None if cache.beginning is None else cache.beginning.first(end))
        made.inner.put(0, cache.take(made.start, length))
        return made

    def forward(self, cache: SharingCache, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`."""
        return self.branch(Part(cache, keep, tokens, rows))

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`. Texts of one beginning share calls."""
        return self._run(self._engine.verify, batch)

    def _run(self, call: Callable[..., list[Any]], batch: Sequence[Part]) -> list[Any]:
        found: dict[int, Any] = {}
        groups: dict[Beginning | None, list[int]] = {}
        parts = list(batch)
        for i, part in enumerate(batch):
            try:
                check(self.info, part)
            except ModelError as error:
                found[i] = error.with_traceback(None)  # which would hold on to the cache
            else:
                parts[i] = _own(part)
                groups.setdefault(part.cache.beginning, []).append(i)
        for beginning, group in groups.items():
            found.update(zip(group, call([parts[i] for i in group], beginning), strict=True))
        return [found[i] for i in range(len(batch))]


def _own(part: Part) -> Part:
    """A part as its engine sees it: of what a text has of its own."""
    cache, keep, picks = part.cache, part.keep, part.picks
    while picks and picks[0] == 0 and keep < cache.start:  # it stays where it is
        keep, picks = keep + 1, tuple(pick - 1 for pick in picks[1:])
    follows = keep + len(picks) + min(part.parents or (-1,))
    cache.own(min(keep, follows + 1))
    return Part(cache.inner, keep - cache.start, part.tokens, part.rows, part.parents, picks, part.choice)
