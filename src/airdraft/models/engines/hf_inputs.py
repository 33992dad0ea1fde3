"""What a call of transformers gets for several sequences side by side: ids, positions, and who sees whom.

What the parts keep is aligned on the right, padded before and masked; their tokens are aligned on the left. So each
sequence lies in one piece, as sliding windows want it, and what follows it is hidden by causality.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from airdraft.models.base import Part
from airdraft.models.trees import Fed


class Inputs(NamedTuple):
    """Those of one call, on the CPU."""

    ids: Any
    """int64 [parts, fed]. After a part's last token comes the same again, at its position, as those beyond need not
    exist."""
    positions: Any
    """int64 [parts, fed]."""
    mask: Any
    """int64 [parts, columns], 0 for padding before a sequence. What is padded after it is not masked: a row that sees
    nothing gives NaN. Or where tokens are seen one by one, [parts, 1, fed, columns], to add to scores."""

    @classmethod
    def of(cls, parts: Sequence[Part], lines: Sequence[Fed], kept: int, fed: int, before: int, dtype: Any) -> Inputs:
        """Those of `parts`, which keep at most `kept` positions, after `before` that all of them begin with, and feed
        at most `fed` tokens. dtype: of the model, if it is to get a mask for each token though there is no tree."""
        torch = import_module("torch")
        last = [len(part.tokens) - 1 for part in parts]
        places = [line.positions for line in lines]
        mask = torch.ones(len(parts), kept + fed, dtype=torch.int64)
        for i, part in enumerate(parts):
            mask[i, : kept - part.keep] = 0
        if dtype is not None:
            mask = _one_by_one(mask, lines, fed, dtype)
        return cls(
            torch.tensor(
                [[part.tokens[min(i, end)] for i in range(fed)] for part, end in zip(parts, last, strict=True)]
            ),
            torch.tensor(
                [[before + each[min(i, end)] for i in range(fed)] for each, end in zip(places, last, strict=True)]
            ),
            mask,
        )


def _one_by_one(mask: Any, lines: Sequence[Fed], fed: int, dtype: Any) -> Any:
    """A mask [parts, 1, fed, columns] that is added to scores, from one of [parts, columns] that hides padding."""
    torch = import_module("torch")
    kept = mask.shape[1] - fed
    seen = mask[:, None, None, :].bool() & torch.ones(fed, kept + fed, dtype=torch.bool).tril(kept)
    for i, (lineage, start) in enumerate(lines):
        columns = torch.arange(lineage.trunk, lineage.length) + kept - start
        hidden = torch.from_numpy(lineage.hidden(start))
        rows = seen[i, 0, : len(hidden)]
        rows[:, columns] = rows[:, columns] & ~hidden
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
