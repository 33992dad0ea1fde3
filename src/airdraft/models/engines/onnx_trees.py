"""Trees in an ONNX graph: inputs that need not be given, and what they hold where a call feeds one.

`tree_mask`, float [batch, 1, n, columns], is added to the scores of attention, beside the graph's own mask: 0 where a
token may look, a large negative number elsewhere. Left out, it is one 0, so a chain has the bits that it would have
without. A graph that writes in place has `tree_shift` as well, int64 [batch, n]: a token's column less its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from airdraft.models.engines.onnx_batch import Tensor
from airdraft.models.trees import Fed

MASK, SHIFT = "tree_mask", "tree_shift"
"""The inputs."""
_HIDDEN = np.float32(-1e9)
NEUTRAL: dict[str, Tensor] = {MASK: np.zeros((1, 1, 1, 1), np.float32), SHIFT: np.zeros((1, 1), np.int64)}
"""What they are where they are left out: a chain."""


@dataclass(frozen=True)
class TreeInputs:
    """The inputs that a graph has for trees."""

    in_place: bool

    @classmethod
    def of(cls, session: Any, *, in_place: bool) -> TreeInputs | None:
        """Those of the graph; None: it runs chains alone."""
        found = {each.name: each for each in session.get_overridable_initializers()}
        wanted = {MASK: "tensor(float)", **({SHIFT: "tensor(int64)"} if in_place else {})}
        return (
            cls(in_place) if all(name in found and found[name].type == kind for name, kind in wanted.items()) else None
        )

    def feeds(self, fed: Sequence[Fed], n: int, columns: int, held: int | None = None) -> dict[str, Tensor]:
        """The inputs of a call of `n` tokens that looks at so many columns.

        held: the column of the first token, the same for all; None: each one's position.
        A graph in place is always told, as what it was told last would go on.
        """
        if not any(each.lineage.parents for each in fed):
            return NEUTRAL if self.in_place else {}
        mask, shift = np.zeros((len(fed), 1, n, columns), np.float32), np.zeros((len(fed), n), np.int64)
        for row, (lineage, start) in enumerate(fed):
            new = lineage.length - start
            at = np.arange(lineage.trunk, lineage.length)
            if held is not None:
                at[at >= start] += held - start
            mask[row, 0, :new][:, at] = np.where(lineage.hidden(start), _HIDDEN, np.float32(0))
            shift[row, :new] = np.arange(start, lineage.length) - lineage.depths(start)
        return {MASK: mask, SHIFT: shift} if self.in_place else {MASK: mask}
