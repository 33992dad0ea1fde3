"""Matrices of a checkpoint, as nodes of a graph: act-order makes them take their channels in another order."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.models.imports.checkpoint import Checkpoint
from airdraft.models.imports.matrices import Matrices


class CheckpointMatrices(Matrices):
    """Writes the matrices of a checkpoint, whose channels may be taken in another order."""

    def _coded(self, x: str, name: str, stems: Sequence[str]) -> str:
        orders = [self._file.orders.get(stem) for stem in stems] if isinstance(self._file, Checkpoint) else []
        ordered = [each for each in orders if each is not None]
        if not ordered:
            return super()._coded(x, name, stems)
        if len(ordered) < len(orders) or any((each != ordered[0]).any() for each in ordered):
            return self._nodes.op("Concat", *(self._coded(x, stem, [stem]) for stem in stems), axis=-1)
        return super()._coded(self._nodes.op("Gather", x, self._nodes.constant(ordered[0]), axis=-1), name, stems)
