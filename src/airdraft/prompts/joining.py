"""Texts in any order, each with keys and values that were computed without the others. Not exact.

The keys and values of a token depend on all tokens before it, and these were not there. Two remedies compute some
tokens again where they stand: the first few of each text, which are sinks where they should be none (EPIC's LegoLink,
arXiv 2410.15332), or the share whose keys and values differ most (CacheBlend, 2405.16444). An engine runs whole graphs,
so here each run of such tokens is a forward of its own, after all that stands before it; what comes out is the same as
if all were one forward in which the others' keys and values stand still.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from airdraft.errors import BadParameterError
from airdraft.models.base import Part, Portable, TargetEngine, Tensors, raised
from airdraft.prompts.blocks import portable
from airdraft.prompts.codecs.base import floats
from airdraft.prompts.rotary import Rotary


@dataclass(frozen=True)
class Document:
    """A text, with keys and values computed as if it stood alone at position 0."""

    tokens: Sequence[int]
    tensors: Tensors

    @classmethod
    def of(cls, engine: TargetEngine, tokens: Sequence[int]) -> Document:
        """Compute one. Raises: `ModelError`."""
        cache = portable(engine)
        raised(engine.verify([Part(cache, 0, list(tokens), 0)]).pop())
        return cls(tokens, cache.take(0, len(tokens)))


def joined(engine: TargetEngine, rotary: Rotary, documents: Sequence[Document], again: Collection[int]) -> Portable:
    """A cache of the engine that holds documents one after the other.

    again: positions whose tokens are computed where they stand. Raises: `BadParameterError` for one that no document
    has, `ModelError`.
    """
    length = sum(len(each.tokens) for each in documents)
    wrong = [at for at in again if not 0 <= at < length]
    if wrong:
        raise BadParameterError(f"position {wrong[0]} is to be computed, and there are {length}; leave it out")
    cache, start, chosen = portable(engine), 0, frozenset(again)
    for each in documents:
        moved = rotary.moved(each.tensors, start) if start else each.tensors
        for first, end, computed in _runs(start, start + len(each.tokens), chosen):
            if computed:
                tokens = list(each.tokens[first - start : end - start])
                raised(engine.verify([Part(cache, first, tokens, 0)]).pop())
            else:
                cache.put(first, [tensor[:, first - start : end - start] for tensor in moved])
        start += len(each.tokens)
    return cache


def firsts(lengths: Sequence[int], count: int) -> list[int]:
    """The positions of the first `count` tokens of each document. The very first stands where it was computed."""
    starts = list(itertools.accumulate(lengths, initial=0))[1:-1]
    return [start + at for start, length in zip(starts, lengths[1:], strict=True) for at in range(min(count, length))]


def differing(held: Tensors, true: Tensors, share: float) -> list[int]:
    """The positions whose keys and values differ most from the true ones, a `share` of all, in their order.

    Looked at is the second layer, as CacheBlend does: it is the first that depends on other tokens.
    """
    layer = slice(2, 4) if len(held) > 2 else slice(0, 2)
    apart = sum(
        np.square(floats(one) - floats(other)).sum((0, 2)) / np.square(floats(other)).sum()
        for one, other in zip(held[layer], true[layer], strict=True)
    )
    order = np.argsort(-np.asarray(apart), kind="stable")
    return sorted(order[: round(share * len(order))].tolist())


def _runs(start: int, end: int, chosen: frozenset[int]) -> Iterator[tuple[int, int, bool]]:
    """Runs of positions that are all chosen, or none of them: first, end, which."""
    for which, run in itertools.groupby(range(start, end), chosen.__contains__):
        positions = list(run)
        yield positions[0], positions[-1] + 1, which
