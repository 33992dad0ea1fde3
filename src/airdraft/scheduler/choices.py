"""What an engine is told that chooses tokens itself: the law of a text at each row of a forward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from airdraft.core.events import Forward
from airdraft.core.law import Guide
from airdraft.errors import AirdraftError
from airdraft.models.base import Choice


def choice_of(forward: Forward) -> Choice | None:
    """Return what the rows of a forward choose by. None: rows are needed, or no engine bends them as the guide does."""
    if forward.choice is None:
        return None
    law, at = forward.choice
    parents = range(-1, len(forward.tokens) - 1) if forward.parents is None else forward.parents
    positions = [at.position]
    for parent in parents[1:]:
        positions.append(positions[parent] + 1)
    allowed: tuple[NDArray[np.bool_] | None, ...] = ()
    if at.guide is not None:
        if type(at.guide).bent is not Guide.bent:
            return None
        try:
            allowed = tuple(_masks(at.guide, forward.tokens, parents))
        except AirdraftError:  # the text's own session meets it as well, and says so
            return None
    params = law.params
    return Choice(
        params.temperature,
        params.top_k,
        params.top_p,
        params.min_p,
        law.seed,
        law.vocab_size,
        tuple(positions),
        allowed,
    )


def _masks(guide: Guide, tokens: Sequence[int], parents: Sequence[int]) -> list[NDArray[np.bool_] | None]:
    """What a guide allows after each token, of which the first stands before it. None: all, or it does not matter."""
    states: list[Guide | None] = [guide]
    for token, parent in zip(tokens[1:], parents[1:], strict=True):
        before = states[parent]
        states.append(None if before is None or not _goes_on(before, token) else before.after(token))
    return [None if state is None or state.forced is not None else state.allowed() for state in states]


def _goes_on(guide: Guide, token: int) -> bool:
    """Whether `token` may come. Nothing is accepted behind one that may not."""
    if guide.forced is not None:
        return guide.forced == token
    allowed = guide.allowed()
    return allowed is None or bool(allowed[token])
