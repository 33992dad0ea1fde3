"""Publishes a prompt: computes its blocks once, and puts into a store what is missing there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airdraft.errors import AirdraftError, BadParameterError
from airdraft.models.base import Part, TargetEngine
from airdraft.prompts.blocks import BLOCK, Layout, chain, folder_of, portable
from airdraft.prompts.codecs import EXACT
from airdraft.prompts.codecs.base import Codec
from airdraft.prompts.store import PromptStore

PIECE = 128
"""Tokens of a forward, as an edge feeds them."""


@dataclass(frozen=True)
class Published:
    """What became of a prompt."""

    store: str
    tokens: int
    """In its blocks; what is left over is too short for one."""
    blocks: int
    written: int
    """Blocks that were not there yet, or damaged."""
    bytes: int
    """Of all its blocks, at most."""
    evicted: int
    """Prompts that were deleted to make room."""
    codec: str


def publish(
    engine: TargetEngine,
    tokens: Sequence[int],
    url: str,
    most_bytes: int | None = None,
    progress: Callable[[int, int], None] = lambda done, whole: None,
    codec: Codec = EXACT,
) -> Published:
    """Put the blocks of a prompt into the store at `url`.

    most_bytes: of all blocks of this target; the prompts that were used longest ago make room. None: no bound.
    progress: told how many tokens of how many are done.
    codec: how blocks are written.
    Raises: `BadParameterError`, `ModelError` or `LinkError`.
    """
    layout = Layout.of(engine, codec)
    names = chain(tokens)
    if not names:
        raise BadParameterError(f"the prompt is {len(tokens)} tokens; one of fewer than {BLOCK} is computed faster")
    if BLOCK * len(names) > engine.info.max_context:
        raise BadParameterError(
            f"the prompt is {len(tokens)} tokens, the context of {engine.info.name} is {engine.info.max_context}; "
            "publish a shorter one"
        )
    size = layout.block_bytes * len(names)
    if most_bytes is not None and size > most_bytes:
        raise BadParameterError(f"the prompt takes {size / 1e6:.1f} MB, more than may be kept; allow more")
    store = PromptStore(url, folder_of(engine, layout), layout)
    missing = [at for at, name in enumerate(names) if not store.has(name)]
    if missing:
        end = BLOCK * (missing[-1] + 1)
        cache = portable(engine)
        for start in range(0, end, PIECE):
            [rows] = engine.verify([Part(cache, start, list(tokens[start : min(start + PIECE, end)]), 0)])
            if isinstance(rows, AirdraftError):
                raise rows
            progress(min(start + PIECE, end), end)
        for at in missing:
            store.put_block(names[at], cache.take(BLOCK * at, BLOCK * (at + 1)))
    store.put_prompt(names)  # when all its blocks are there
    evicted = [] if most_bytes is None else store.evict(most_bytes)
    return Published(store.shown, BLOCK * len(names), len(names), len(missing), size, len(evicted), codec.name)
