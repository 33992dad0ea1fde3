"""Drafters, which propose tokens on the device, with or without a model. They may also propose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from airdraft.core.schemes import Guess


@dataclass(frozen=True)
class Ask:
    """A forward of the draft model that the drafter needs before it can answer."""

    keep: int
    """Number of cached positions to keep."""
    tokens: tuple[int, ...]
    """Ids to feed after those. The drafter wants the last one's row."""
    rows: int = 1
    """How many of the last ones' rows it wants."""
    parents: tuple[int, ...] | None = None
    """As in `Forward`."""
    picks: tuple[int, ...] = ()
    """As in `Forward`."""


class Drafter(Protocol):
    """Guesses the tokens that follow one text."""

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Ask | Sequence[Guess]:
        """Propose what follows `text` and then `drafts`.

        Returns: at most `most` guesses for the next positions, none if there is nothing to propose now; or a forward
        to run first. `told` then takes its row, and `want` is not called before that.
        """
        ...

    def told(self, row: np.ndarray) -> Sequence[Guess]:
        """Propose from the row [vocab] that `want` asked for. Returns nothing if its prefix has changed.

        As many guesses are taken as `want` was asked for.
        """
        ...

    def cut(self, at: int) -> None:
        """Forget everything from position `at` on, where the text differs."""
        ...


@runtime_checkable
class Grower(Drafter, Protocol):
    """A drafter that can go on at several places of a tree in one forward, on engines that run trees."""

    def grow(self, text: Sequence[int], paths: Sequence[Sequence[int]], most: int) -> Ask:
        """Ask for the rows after `text` and each of these runs of drafts, of which none continues another.

        If that takes more than `most` positions of the cache, only for the first. The rows are the guesses, and whoever
        asks knows which of them are still of use.
        """
        ...


class ModelDrafter:
    """A drafter that runs a draft model for each token, and tracks which cached positions are still valid."""

    def __init__(self) -> None:
        self._cached = 0  # positions in the model's cache that agree with text and drafts
        self._tree: dict[tuple[int, int], int] = {}  # the positions after those: by parent's and token, from 0
        self._asked: int | None = None  # the position of the row asked for
        self._stale = False  # whether that row's prefix has changed

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Ask:
        """See `Drafter.want`. Each token takes one forward."""
        # A model needs at least one token, so after a cut it gets the last one again.
        end = len(text) + len(drafts)
        keep = min(self._cached, end - 1)
        self._asked = self._cached = end
        self._stale, self._tree = False, {}
        return Ask(keep, (*text[keep:], *drafts[max(0, keep - len(text)) :]))

    def told(self, row: np.ndarray) -> Sequence[Guess]:
        """See `Drafter.told`."""
        return () if self._stale else (row,)

    def cut(self, at: int) -> None:
        """See `Drafter.cut`."""
        self._stale |= self._asked is not None and self._asked >= at
        self._tree = self._tree if at >= self._cached else {}
        self._cached = min(self._cached, at)

    def grow(self, text: Sequence[int], paths: Sequence[Sequence[int]], most: int) -> Ask:
        """See `Grower.grow`. What all paths share stays cached; the rest is fed, the paths' ends last."""
        shared = next((at for at, tokens in enumerate(zip(*paths, strict=False)) if len(set(tokens)) > 1), None)
        shared = min(map(len, paths)) if shared is None else shared
        limit = len(text) + min(shared, *(len(path) - 1 for path in paths))
        keep, picks = min(self._cached, limit), list[int]()
        ahead = (*text[keep:], *paths[0])
        while keep == self._cached and keep + len(picks) < limit:
            found = self._tree.get((picks[-1] if picks else -1, ahead[len(picks)]))
            if found is None:
                break
            picks.append(found)
        base = keep + len(picks)
        rests = [(*text[base:], *path[max(0, base - len(text)) :]) for path in paths]
        fed: dict[tuple[int, int], int] = {}
        ends = list[int]()
        for rest in rests:
            end = -1
            for token in rest[:-1]:
                end = fed.setdefault((end, token), len(fed))
            ends.append(end)
        for end, rest in zip(ends, rests, strict=True):
            fed[end, rest[-1]] = len(fed)
        if base + len(fed) > most and len(paths) > 1:
            return self.grow(text, paths[:1], most)
        held = {(at - 1, ahead[at]): at for at in range(len(picks))}
        held |= {(above + len(picks), token): at + len(picks) for (above, token), at in fed.items()}
        self._asked, self._stale = len(text), False
        passed, self._cached = len(text) - keep, len(text)  # what was fed of the text comes first
        later = {key: at for key, at in held.items() if at >= passed}
        self._tree = {(max(-1, above - passed), token): at - passed for (above, token), at in later.items()}
        parents = tuple(above for above, _ in fed)
        is_chain = parents == tuple(range(-1, len(parents) - 1))
        tokens = tuple(token for _, token in fed)
        return Ask(keep, tokens, len(paths), None if is_chain else parents, tuple(picks))
