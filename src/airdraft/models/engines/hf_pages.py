"""Keys and values of all sequences of an hf engine, in pages that are written where they lie.

Each layer has two tensors [rows, kv_heads * head_dim]. A row is a position's, and a page is some rows in succession. A
sequence has a list of pages, so to roll back is to forget, and to copy is to share pages: one that several sequences
have is copied before any of them writes there.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.models.base import Part
from airdraft.models.lineage import Lineage

PAGE = 16
"""Rows in a page."""
_MORE = 4
"""Where pages are lacking, one more is made for so many that there are."""
_SCRATCH = 0
"""The page that nobody owns: what pads a call is read and written there."""


class Pages:
    """The pages of one engine, on `device`."""

    def __init__(self, device: Any) -> None:
        self.layers: dict[int, list[Any]] = {}
        """Keys and values by the index of their layer; made when the model first has some."""
        self.heads: dict[int, int] = {}
        """Heads of keys and values, by the same."""
        self.gone: deque[list[int]] = deque()
        """Pages of caches that were dropped, maybe by another thread; taken back when pages are needed."""
        self.moves = 0
        """How often they have moved, or some of them: what was captured before reads where nothing is any more."""
        self._torch, self._device = import_module("torch"), device
        self._holders = [1]
        """For each page, how many sequences have it."""
        self._free: set[int] = set()
        self._private = False

    def take(self, count: int, after: int | None = None) -> list[int]:
        """Take so many pages, in succession with page `after` if they are free."""
        while self.gone:
            self.give(self.gone.popleft())
        if len(self._free) < count:
            self._grow(max(count - len(self._free), len(self._holders) // _MORE))
        found: list[int] = []
        for _ in range(count):
            page = -1 if after is None else after + 1
            after = page if page in self._free else min(self._free)
            self._free.discard(after)
            self._holders[after] = 1
            found.append(after)
        return found

    def share(self, pages: Sequence[int]) -> None:
        """Note that one sequence more has them."""
        for page in pages:
            self._holders[page] += 1

    def is_shared(self, page: int) -> bool:
        """Whether several sequences have it."""
        return self._holders[page] > 1

    def give(self, pages: Sequence[int]) -> None:
        """Give back pages that a sequence had."""
        for page in pages:
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.add(page)

    def reserve(self, positions: int) -> None:
        """Have pages for so many, that they need not move soon."""
        if (lacking := -(-positions // PAGE) + 1 - len(self._holders)) > 0:
            self._grow(lacking)

    def hide(self) -> None:
        """From now on overwrite memory that is given up: there is something private in it."""
        self._private = True

    def read(self, rows: Any) -> list[Any]:
        """What all layers hold in these rows, keys then values, each a copy [rows, kv_heads * head_dim]."""
        at = self._index(rows)
        return [tensor.index_select(0, at) for layer in self.layers.values() for tensor in layer]

    def write(self, rows: Any, found: Sequence[Any]) -> None:
        """Put what `read` gave into these rows."""
        at, new = self._index(rows), iter(found)
        for layer in self.layers.values():
            for tensor in layer:
                tensor.index_copy_(0, at, next(new))

    def blank(self, rows: Any) -> None:
        """Overwrite these rows with zeros."""
        at = self._index(rows)
        for layer in self.layers.values():
            for tensor in layer:
                tensor.index_fill_(0, at, 0)

    def call(self, parts: Sequence[Part], kept: int, fed: int) -> Columns:
        """Make room in each part's cache for its tokens. Returns: where a call finds all of them.

        kept: the most that a part keeps. fed: the most tokens of a part.
        """
        seen = self.rows(parts, kept, fed, len(parts))
        whole: Any = self._index(seen.reshape(-1))
        if len(parts) == 1 and seen[0, -1] - seen[0, 0] == seen.shape[1] - 1 and (np.diff(seen[0]) == 1).all():
            whole = slice(int(seen[0, 0]), int(seen[0, -1]) + 1)  # a view: nothing is copied
        private = any(part.cache.private for part in parts)
        return Columns(self, kept, self._index(seen[:, kept:].reshape(-1)), whole, private)

    def rows(self, parts: Sequence[Part], kept: int, fed: int, lines: int) -> NDArray[np.int64]:
        """Make room, as `call` does. Returns: where all columns lie, int64 [lines, columns]; further lines pad."""
        seen = np.full((lines, kept + fed), _SCRATCH)
        for line, part in zip(seen, parts, strict=False):
            count, total = len(part.tokens), part.keep + len(part.tokens)
            part.cache.make_room(part.keep, total)
            line[kept - part.keep : kept + count] = part.cache.rows(0, total)
        return seen

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._holders)

    def _index(self, rows: Any) -> Any:
        return self._torch.as_tensor(rows, device=self._device)

    def made(self, index: int, like: Sequence[Any]) -> list[Any]:
        """The keys and values of a layer, made if need be, as wide as `like`, each [batch, kv_heads, n, head_dim]."""
        if index not in self.layers:
            rows = PAGE * len(self._holders)
            self.layers[index] = [each.new_zeros(rows, each.shape[1] * each.shape[3]) for each in like]
            self.heads[index] = like[0].shape[1]
        return self.layers[index]

    def _grow(self, count: int) -> None:
        """Make `count` pages more; a layer moves after the other, so that little is there twice.

        If memory ends on the way, some layers have moved, and there are as many pages as before.
        """
        first = len(self._holders)
        rows = PAGE * (first + count)
        self.moves += 1
        for layer in self.layers.values():
            for i, old in enumerate(layer):
                if len(old) < rows:
                    layer[i] = old.new_zeros(rows, old.shape[1])
                    layer[i][: len(old)] = old
                    if self._private:
                        old.zero_()
        self._free.update(range(first, first + count))
        self._holders.extend([0] * count)


@dataclass
class Columns:
    """The rows of one call's sequences, aligned in the column where all that they keep ends."""

    pages: Pages
    kept: int
    """Columns before the first token that is fed."""
    new: Any
    """The rows of what is fed, [batch * fed]."""
    whole: Any
    """The rows of all columns, [batch * columns], or of a sequence alone as a slice."""
    private: bool
    """Whether what the call copies is to be overwritten by `wipe`."""

    def __post_init__(self) -> None:
        self._copies: list[Any] = []

    def update(self, index: int, states: Sequence[Any]) -> tuple[Any, ...]:
        """Write a layer's new keys and values, each [batch, kv_heads, fed, head_dim].

        Returns: those of all columns, [batch, kv_heads, columns, head_dim].
        """
        found = []
        for tensor, new in zip(self.pages.made(index, states), states, strict=True):
            batch, heads, fed, width = new.shape
            tensor.index_copy_(0, self.new, new.transpose(1, 2).reshape(batch * fed, heads * width))
            if isinstance(self.whole, slice):
                columns = tensor[self.whole]
            else:
                columns = tensor.index_select(0, self.whole)
                if self.private:
                    self._copies.append(columns)
            found.append(columns.view(batch, -1, heads, width).transpose(1, 2))
        return tuple(found)

    def wipe(self) -> None:
        """Overwrite what was copied of private texts."""
        for each in self._copies:
            each.zero_()


@functools.cache
def layer_class() -> Any:
    """The class of what transformers takes for one layer's cache in a call. It is made late, as its base is an import
    of seconds."""
    base: Any = import_module("transformers.cache_utils").DynamicLayer

    class PagedLayer(base):  # type: ignore[misc]
        def __init__(self, call: Columns, index: int) -> None:
            super().__init__()
            self._call, self._index, self.is_initialized = call, index, True

        def update(self, keys: Any, values: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
            return self._call.update(self._index, (keys, values))

        def get_seq_length(self) -> int:
            return self._call.kept

    return PagedLayer


class HfCache:
    """Keys and values of one sequence: the first `length` rows of its pages."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._held: list[int] = []
        self.length = 0
        self.lineage = Lineage()
        self._private = False

    def __del__(self) -> None:
        self._pages.gone.append(self._held)

    @property
    def room(self) -> int:
        """See `Roomy.room`."""
        return PAGE * len(self._held)

    @property
    def private(self) -> bool:
        """See `Erasable.private`."""
        return self._private

    @private.setter
    def private(self, private: bool) -> None:
        self._private = private
        if private:
            self._pages.hide()

    def rows(self, start: int, end: int) -> Any:
        """The rows of positions `start` to `end`. int64 [end - start]."""
        pages = np.array(self._held[start // PAGE : -(-end // PAGE)], np.int64)
        return (PAGE * pages[:, None] + np.arange(PAGE)).reshape(-1)[start % PAGE :][: end - start]

    def make_room(self, keep: int, total: int) -> None:
        """Roll back to `keep` positions, with pages of its own for those from there to `total`."""
        pages, first = self._pages, keep // PAGE
        self.length, self.lineage = keep, self.lineage.kept(keep)
        for at in range(first, len(self._held)):
            if pages.is_shared(self._held[at]):
                written = self.rows(PAGE * first, keep) if at == first else ()
                found = pages.read(written)
                pages.give([self._held[at]])
                self._held[at] = pages.take(1)[0]
                if len(written):
                    pages.write(self.rows(PAGE * first, keep), found)
        lacking = -(-total // PAGE) - len(self._held)
        if lacking > 0:
            self._held += pages.take(lacking, self._held[-1] if self._held else None)

    def rest(self) -> None:
        """See `Roomy.rest`: what was rolled back is given back."""
        used = -(-self.length // PAGE)
        if self._private:
            self._blank(self.length)
        self._pages.give(self._held[used:])
        del self._held[used:]

    def copy(self, length: int) -> HfCache:
        """The first `length` positions, in the same pages."""
        made = HfCache(self._pages)
        made._held = self._held[: -(-length // PAGE)]
        self._pages.share(made._held)
        made.length, made.lineage = length, self.lineage.kept(length)
        return made

    def pick(self, keep: int, picks: Sequence[int]) -> None:
        """Roll back to `keep` positions and `picks` of those after them, which move up."""
        lineage = self.lineage.kept(keep, picks)
        self._move(keep, [keep + pick for pick in picks], lineage)

    def drop(self, count: int) -> None:
        """Forget the first `count` positions, of a chain; the others move up."""
        left, lineage = range(count, self.length), self.lineage.after(count)
        self._move(0, left, lineage)

    def erase(self, keep: int) -> None:
        """See `Erasable.erase`."""
        self._blank(keep)
        self.length, self.lineage, self._private = keep, self.lineage.kept(keep), False

    def take(self, start: int, end: int) -> list[Any]:
        """See `Portable.take`. NumPy has no bfloat16: such numbers are given as integers of the same bits."""
        heads = [count for count in self._pages.heads.values() for _ in ("keys", "values")]
        found = self._pages.read(self.rows(start, end))
        return [
            _plain(each.unflatten(1, (count, -1)).transpose(0, 1)) for each, count in zip(found, heads, strict=True)
        ]

    def put(self, keep: int, tensors: Sequence[Any]) -> None:
        """See `Portable.put`."""
        torch, lineage = import_module("torch"), self.lineage.kept(keep).grown(tensors[0].shape[1])
        with torch.inference_mode():
            self.make_room(keep, lineage.length)
            like = [tensor for layer in self._pages.layers.values() for tensor in layer]
            found = [
                torch.tensor(each).view(old.dtype).to(old.device).transpose(0, 1).flatten(1)
                for each, old in zip(tensors, like, strict=True)
            ]
            self._pages.write(self.rows(keep, lineage.length), found)
        self.length, self.lineage = lineage.length, lineage

    def _move(self, keep: int, positions: Sequence[int], lineage: Lineage) -> None:
        """Keep the first `keep` positions, and after them those at `positions`."""
        with import_module("torch").inference_mode():
            rows = self.rows(0, self.length)[list(positions)]
            found = self._pages.read(rows)
            self.make_room(keep, lineage.length)
            self._pages.write(self.rows(keep, lineage.length), found)
            if self._private:
                self._blank(lineage.length)
        self.length, self.lineage = lineage.length, lineage

    def _blank(self, keep: int) -> None:
        """Overwrite all after the first `keep` positions that no other sequence has."""
        with import_module("torch").inference_mode():
            shared = np.array([self._pages.is_shared(page) for page in self._held], bool)
            self._pages.blank(self.rows(keep, self.room)[~np.repeat(shared, PAGE)[keep:]])


def _plain(tensor: Any) -> Any:
    """A copy for NumPy."""
    return (
        (tensor.view(import_module("torch").int16) if "bfloat16" in str(tensor.dtype) else tensor).cpu().numpy().copy()
    )
