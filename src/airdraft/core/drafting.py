"""Drafters, which propose tokens on the device, with or without a model. They may also propose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from airdraft.core.law import Place
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

    def want(
        self, text: Sequence[int], drafts: Sequence[int], most: int, at: Place | None = None
    ) -> Ask | Sequence[Guess]:
        """Propose what follows `text` and then `drafts`. Tokens that the guide at this place forbids are no guess.

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
        self._held: list[tuple[int, int]] = []  # the positions after those, a tree: each one's parent there, and token
        self._asked: int | None = None  # the position of the row asked for
        self._stale = False  # whether that row's prefix has changed

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int, at: Place | None = None) -> Ask:
        """See `Drafter.want`. Each token takes one forward."""
        # A model needs at least one token, so after a cut it gets the last one again.
        end = len(text) + len(drafts)
        keep = min(self._cached, end - 1)
        self._asked = self._cached = end
        self._stale, self._held = False, []
        return Ask(keep, (*text[keep:], *drafts[max(0, keep - len(text)) :]))

    def told(self, row: np.ndarray) -> Sequence[Guess]:
        """See `Drafter.told`."""
        return () if self._stale else (row,)

    def cut(self, at: int) -> None:
        """See `Drafter.cut`."""
        self._stale |= self._asked is not None and self._asked >= at
        self._held = self._held if at >= self._cached else []
        self._cached = min(self._cached, at)

    def grow(self, text: Sequence[int], paths: Sequence[Sequence[int]], most: int) -> Ask:
        """See `Grower.grow`. All live branches stay in the cache; what of the paths is not there is fed, ends last."""
        passed, keep = self._passed(text), self._cached
        if not paths[0] and keep + len(passed) == len(text):  # the last token is fed again, for its row
            keep, passed = (keep, passed[:-1]) if passed else (keep - 1, [])
        alive = [*passed, *(self._behind(passed) if keep + len(passed) == len(text) else ())]
        ask = self._asking(text, paths, keep, alive, len(passed))
        if ask.keep + len(ask.picks) + len(ask.tokens) > most:
            ask = self._asking(text, paths[:1], keep, passed, len(passed))
        # What follows the text in the cache now, with its parents counted from there.
        first, place = len(text) - keep, {at: new for new, at in enumerate(ask.picks)}
        lines = [(place.get(self._held[at][0], -1), self._held[at][1]) for at in ask.picks]
        above = ask.parents or range(-1, len(ask.tokens) - 1)
        lines += [(len(ask.picks) + at, token) for at, token in zip(above, ask.tokens, strict=True)]
        self._held = [(max(-1, at - first), token) for at, token in lines[first:]]
        self._asked, self._stale, self._cached = len(text), False, len(text)
        return ask

    def _passed(self, text: Sequence[int]) -> list[int]:
        """Find the tokens of the tree that have become text."""
        passed, above = list[int](), -1
        for token in text[self._cached :]:
            above = next((at for at, line in enumerate(self._held) if line == (above, token)), -2)
            if above < -1:
                break
            passed.append(above)
        return passed

    def _behind(self, passed: Sequence[int]) -> list[int]:
        """Find the tokens of the tree that follow the text."""
        above, found = {passed[-1] if passed else -1}, list[int]()
        for at, (parent, _) in enumerate(self._held):
            if parent in above:
                above.add(at)
                found.append(at)
        return found

    def _asking(
        self, text: Sequence[int], paths: Sequence[Sequence[int]], keep: int, picks: Sequence[int], passed: int
    ) -> Ask:
        """Ask behind paths. `keep` positions stay in the cache and `picks` of the tree, the first `passed` as text."""
        stay, place = keep + len(picks), {at: keep + new for new, at in enumerate(picks)}
        known = {(place.get(self._held[at][0], keep - 1), self._held[at][1]): place[at] for at in picks}
        fed: list[tuple[int, int]] = []  # the position that each follows, and the token

        def feed(above: int, token: int) -> int:
            fed.append((above, token))
            known[above, token] = stay + len(fed) - 1
            return known[above, token]

        end = keep + passed - 1
        for token in text[end + 1 :]:
            end = feed(end, token)
        ends = list[int]()
        for path in paths:
            at = end
            for token in path[:-1]:
                at = known[at, token] if (at, token) in known else feed(at, token)
            ends.append(at)
        for at, path in zip(ends, paths, strict=True):
            if path:
                feed(at, path[-1])
        parents = tuple(above - stay for above, _ in fed)
        is_chain = parents == tuple(range(-1, len(fed) - 1))
        return Ask(keep, tuple(token for _, token in fed), len(paths), None if is_chain else parents, tuple(picks))
