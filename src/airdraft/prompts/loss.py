"""What a codec that loses something does to a target: a trial, as of what an engine's rows depend on."""

from __future__ import annotations

import numpy as np

from airdraft.models.base import Part, TargetEngine, raised
from airdraft.models.steady import share
from airdraft.prompts.blocks import BLOCK, Layout, portable
from airdraft.prompts.codecs.base import Codec

_ROWS = 32
"""Behind a block, that are compared."""
_LEAST = 1e-9


def loss(engine: TargetEngine, codec: Codec) -> float:
    """The share of tokens that a lossy codec changes after a block of a trial, see `Exactness`. Never 0: what the trial
    does not show, other numbers may. Raises: `ModelError`."""
    layout, cache = Layout.of(engine, codec), portable(engine)
    tokens = np.random.default_rng(13).integers(engine.info.vocab_size, size=BLOCK + _ROWS).tolist()
    raised(engine.verify([Part(cache, 0, tokens[:BLOCK], 0)]).pop())
    block = cache.take(0, BLOCK)
    rows = []
    for each in (block, layout.read([layout.written(block, layer) for layer in range(layout.layers)])):
        cache.put(0, each)
        rows.append(raised(engine.verify([Part(cache, BLOCK, tokens[BLOCK:], _ROWS)]).pop()))
    return max(share(rows[1], rows[0]), _LEAST)
