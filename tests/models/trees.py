"""An engine that runs trees, given as a function from a prefix to a row of logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import EngineInfo, FloatArray, Part, check

Prefix = tuple[int, ...]


class TreeCache(list[Prefix]):
    """Each position holds all the tokens that lead to its own, which is the last of them."""

    @property
    def length(self) -> int:
        return len(self)


class TreeTable:
    """A `TargetEngine` for trees. Its rows are float32 [rows, vocab_size], `row` of the tokens that lead to each."""

    def __init__(
        self,
        row: Callable[[Prefix], FloatArray],
        vocab_size: int,
        max_context: int = 4096,
        eos_ids: tuple[int, ...] = (),
        max_batch: int = 8,
    ) -> None:
        self.info = EngineInfo("trees", vocab_size, max_context, eos_ids, max_batch=max_batch, trees=True)
        self._row = row

    def new_cache(self) -> TreeCache:
        return TreeCache()

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        found: list[FloatArray | AirdraftError] = []
        for part in batch:
            try:
                found.append(self._run(part))
            except AirdraftError as error:
                found.append(error)
        return found

    def _run(self, part: Part) -> FloatArray:
        check(self.info, part)
        kept = [part.cache[at] for at in (*range(part.keep), *(part.keep + pick for pick in part.picks))]
        if any(prefix[:-1] not in ((), *kept) for prefix in kept):
            raise ModelError("something stays without what it follows")
        n, held = len(part.tokens), [(), *kept]
        grown: list[Prefix] = []
        for token, parent in zip(part.tokens, part.parents or range(-1, n - 1), strict=True):
            grown.append((*(held[parent] if parent < 0 else grown[parent]), token))
        part.cache[:] = kept + grown
        rows = [self._row(prefix) for prefix in grown[n - part.rows :]]
        return np.array(rows, np.float32).reshape(part.rows, self.info.vocab_size)
