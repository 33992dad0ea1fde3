"""Token ids on disk and the order in which training reads them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training import tokenizer
from training.corpus import documents
from training.errors import UserError

IGNORED = -100  # label of a position without loss, as torch's cross_entropy has it
_CHUNK = 512  # documents encoded at once


def encode(work: Path, split: str, seed: int = 1) -> Path:
    """Writes `work/tokens/<split>.bin`: uint16 ids, every document opened by END (id 0), order shuffled once."""
    tok = tokenizer.load(work)
    texts = [document["text"] for document in documents(work, split)]
    random.Random(seed).shuffle(texts)
    path = work / "tokens" / f"{split}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        for start in range(0, len(texts), _CHUNK):
            for encoding in tok.encode_batch(texts[start : start + _CHUNK]):
                out.write(np.asarray(encoding.ids, dtype=np.uint16).tobytes())
    return path


def tokens(work: Path, split: str) -> np.ndarray:
    """All ids of a split as one memory-mapped uint16 array."""
    path = work / "tokens" / f"{split}.bin"
    if not path.is_file():
        raise UserError(f"no encoded corpus at {path}: run `python -m training.pair tokenizer` first")
    return np.memmap(path, dtype=np.uint16, mode="r")


class Reader:
    """Batches of [rows, context + 1] ids, every window of the corpus once per epoch in a shuffled order.

    Windows are `longest` ids long and are cut into shorter rows while training uses a shorter context, so the
    order does not depend on when the context grows. `cursor` counts windows and is all a checkpoint must keep.
    """

    def __init__(self, ids: np.ndarray, longest: int, seed: int = 2, cursor: int = 0) -> None:
        self.ids, self.longest, self.cursor, self.seed = ids, longest, cursor, seed
        self.windows = (len(ids) - 1) // longest
        if self.windows < 1:
            raise UserError(f"the corpus holds {len(ids)} tokens, fewer than one context of {longest}")

    def batch(self, count: int, context: int) -> tuple[Tensor, Tensor]:
        """Inputs and next tokens, both [count // context, context] int64; count is tokens."""
        rows = []
        for _ in range(count // self.longest):
            epoch, place = divmod(self.cursor, self.windows)
            start = int(self._order(epoch)[place]) * self.longest
            rows.append(np.asarray(self.ids[start : start + self.longest + 1], dtype=np.int64))
            self.cursor += 1
        block = torch.from_numpy(np.stack(rows))
        x, y = block[:, :-1], block[:, 1:]
        return x.reshape(-1, context).contiguous(), y.reshape(-1, context).contiguous()

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._permutation = epoch, np.random.default_rng(self.seed + epoch).permutation(self.windows)
        return self._permutation


def repeat_some(x: Tensor, y: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Turns a share of the rows into a shuffled stretch of tokens said over and over; x, y [rows, context].

    Nothing but copying predicts such a row, so the heads that look up what followed last time form within
    minutes instead of after tens of millions of tokens; code, with its repeated names, gains most from them.
    The first saying cannot be predicted and carries no loss (label -100).
    """
    x, y = x.clone(), y.clone()
    context = x.shape[1]
    for row in range(round(share * len(x))):
        period = int(rng.integers(max(2, context // 32), max(3, context // 5)))
        unit = x[row, torch.from_numpy(rng.permutation(context)[:period])]
        stretch = unit.repeat(context // period + 2)[: context + 1]
        x[row], y[row] = stretch[:-1], stretch[1:]
        y[row, : period - 1] = IGNORED
    return x, y


def windows(ids: np.ndarray, context: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Up to `limit` consecutive windows, spread evenly over a split, for evaluation: ([context], [context])."""
    total = (len(ids) - 1) // context
    for index in np.linspace(0, total - 1, min(limit, total)).astype(int):
        block = torch.from_numpy(np.asarray(ids[index * context : (index + 1) * context + 1], dtype=np.int64))
        yield block[:-1], block[1:]
