"""What an engine is told that chooses tokens itself: the law of a text at each row of a forward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from airdraft.core.events import Forward
from airdraft.core.law import Guide
from airdraft.errors import AirdraftError
from airdraft.models.base import Choice

_Mask = NDArray[np.bool_] | None


def choice_of(forward: Forward) -> Choice | None:
    """Return what the rows of a forward choose by. None: rows are needed, or no engine bends them as the guide does."""
    if forward.choice is None:
        return None
    law, at = forward.choice
    parents = range(-1, len(forward.tokens) - 1) if forward.parents is None else forward.parents
    positions = [at.position]
    for parent in parents[1:]:
        positions.append(positions[parent] + 1)
    allowed: tuple[_Mask, ...] = ()
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


def _masks(guide: Guide, tokens: Sequence[int], parents: Sequence[int]) -> list[_Mask]:
    """What a guide allows after each token, of which the first stands before it. None: all, or it does not matter.

    A state is asked all there is to ask when it is reached, as a way back costs its reader more than one onwards.
    """
    seen: list[tuple[Guide | None, _Mask]] = [(guide, _mask(guide))]
    for token, parent in zip(tokens[1:], parents[1:], strict=True):
        before, mask = seen[parent]
        # Nothing is accepted behind a token that may not come.
        state = before.after(token) if before is not None and _goes_on(before, mask, token) else None
        seen.append((state, None if state is None else _mask(state)))
    return [mask for _, mask in seen]


def _mask(guide: Guide) -> _Mask:
    return guide.allowed() if guide.forced is None else None


def _goes_on(guide: Guide, mask: _Mask, token: int) -> bool:
    """Whether `token` may come at a state whose `_mask` this is."""
    if guide.forced is not None:
        return guide.forced == token
    return mask is None or bool(mask[token])
