"""Trees that leave no trace in a text: one branch lies as a chain would, and what stays of others is fed again.

A sum over keys and values is added up in the order of their columns. A token whose path has gaps between its columns
differs by rounding from the same token in a chain, and so would all that follows it. So a tree's first child, the first
child of that, and so on, are fed first: their rows have a chain's bits. If another branch stays, it is fed again with
the next forward, as a chain, which costs a row for each of its tokens. Rows of other branches differ by rounding, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import (
    Around,
    Call,
    Chooser,
    Copier,
    FloatArray,
    LocalEngine,
    Part,
    Portable,
    TargetEngine,
    Tensors,
    check,
    check_copy,
)
from airdraft.models.lineage import Lineage, alike


@dataclass(eq=False)
class GraftCache(Around):
    """A cache of another engine, which holds the first `firm` positions, then those of `main`, and then others."""

    lineage: Lineage = field(default_factory=Lineage)
    firm: int = 0
    main: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    """Those of the positions from `firm` on."""

    @property
    def length(self) -> int:
        return self.lineage.length

    def take(self, start: int, end: int) -> Tensors:
        """See `Portable.take`."""
        return self._portable(end).take(start, end)

    def put(self, keep: int, tensors: Tensors) -> None:
        """See `Portable.put`."""
        self._portable(keep).put(keep, tensors)
        self.firm, self.main, self.tokens = keep + tensors[0].shape[1], (), ()
        self.lineage = self.lineage.kept(keep).grown(self.firm - keep)

    def erase(self, keep: int) -> None:
        """See `Erasable.erase`. What is no chain of the other cache goes as well."""
        super().erase(min(keep, self.firm))
        self.firm = min(keep, self.firm, self.inner.length)
        self.lineage, self.main, self.tokens = self.lineage.kept(self.firm), (), ()

    def _portable(self, end: int) -> Portable:
        """The other engine's cache. Raises: `ModelError` if its first `end` positions are not a chain."""
        if end > self.firm or not isinstance(self.inner, Portable):
            raise ModelError(f"only {self.firm} positions of this cache are a chain, and {end} are needed; feed them")
        return self.inner


@dataclass(frozen=True)
class _Plan:
    """How a part is fed."""

    part: Part
    rows: list[int]
    """Those asked for, of those that come."""
    lineage: Lineage
    firm: int
    main: tuple[int, ...]
    tokens: tuple[int, ...]


class Grafted(LocalEngine):
    """An engine whose caches hold chains of a text's own bits between forwards, whatever trees it is fed."""

    def __init__(self, engine: TargetEngine) -> None:
        """`engine` runs trees."""
        self.info, self._engine = engine.info, engine
        if isinstance(engine, Copier):
            self.copy = partial(self._copy, engine)
        if isinstance(engine, Chooser):
            self.choose = partial(self._run, engine.choose)

    def _copy(self, engine: Copier, cache: GraftCache, length: int) -> GraftCache:
        """See `Copier.copy`."""
        check_copy(self.info, cache, length)
        firm = min(length, cache.firm)
        made = GraftCache(engine.copy(cache.inner, firm), cache.lineage.kept(firm), firm)
        if length > firm:  # the rest is fed again
            made.lineage, made.tokens = cache.lineage.kept(length), cache.tokens[: length - firm]
        return made

    def new_cache(self) -> GraftCache:
        """An empty cache. Raises: `ModelError` if `max_caches` are in use."""
        return GraftCache(self._engine.new_cache())

    def forward(self, cache: GraftCache, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`."""
        return self.branch(Part(cache, keep, tokens, rows))

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`."""
        return self._run(self._engine.verify, batch)

    def _run(self, call: Call, batch: Sequence[Part]) -> list[Any]:
        found: dict[int, Any] = {}
        plans: dict[int, _Plan] = {}
        for i, part in enumerate(batch):
            try:
                check(self.info, part)
                plans[i] = _planned(part)
            except ModelError as error:
                found[i] = error.with_traceback(None)  # which would hold on to the cache
        rows = call([plan.part for plan in plans.values()])
        for (i, plan), got in zip(plans.items(), rows, strict=True):
            cache = batch[i].cache
            if isinstance(got, AirdraftError):
                found[i] = got
                held = min(cache.firm, cache.inner.length)
                if cache.inner.length < cache.firm + len(cache.main):
                    cache.lineage, cache.firm, cache.main, cache.tokens = cache.lineage.kept(held), held, (), ()
                continue
            cache.lineage, cache.firm, cache.main, cache.tokens = plan.lineage, plan.firm, plan.main, plan.tokens
            found[i] = got
            if plan.rows != list(range(len(got))):
                found[i] = [got[row] for row in plan.rows] if isinstance(got, list) else got[plan.rows]
        return [found[i] for i in range(len(batch))]


def _planned(part: Part) -> _Plan:
    """How to feed a part. Raises: `ModelError` for what is no tree."""
    cache, keep = part.cache, part.keep
    firm = min(cache.firm, keep)
    stay = [*range(firm, keep), *(keep + pick for pick in part.picks)]
    lies = [*range(firm, cache.firm), *cache.main]
    base = firm + alike(stay, lies)
    again = [cache.tokens[at - cache.firm] for at in stay[base - firm :]]
    lineage = cache.lineage.kept(keep, part.picks).grown(len(part.tokens), part.parents)
    tokens, end = (*again, *part.tokens), lineage.length

    main = _first_branch(lineage, base)
    order = [*main, *sorted(set(range(base, end)).difference(main))] if len(main) < end - base else list(main)
    column = {at: i for i, at in enumerate(order, base)}
    parents = [column.get(lineage.parent(at), lineage.parent(at)) - base for at in order]
    chain = parents == list(range(-1, len(order) - 1))
    places = [column[at] - base for at in range(end - part.rows, end)]
    rows = len(order) - min(places, default=len(order))
    fed = [tokens[at - base] for at in order]
    lead = next((i for i, at in enumerate(main, base) if i != at), base + len(main))  # main positions in their places
    wanted = [place - (len(order) - rows) for place in places]
    choice = part.choice
    if choice is not None and wanted != list(range(rows)):
        # Nobody looks at the others. Bars are of a chain whose rows are all looked at.
        choice = None if choice.bars else choice.of([wanted.index(row) if row in wanted else 0 for row in range(rows)])
    return _Plan(
        Part(cache.inner, base, fed, rows, None if chain else tuple(parents), choice=choice),
        wanted,
        lineage, lead, tuple(main[lead - base :]), tokens[lead - base :],
    )  # fmt: skip


def _first_branch(lineage: Lineage, base: int) -> list[int]:
    """The first child of what stays, its first child, and so on."""
    found, last = list[int](), base - 1
    for at in range(base, lineage.length):
        if lineage.parent(at) == last:
            found.append(at)
            last = at
    return found
