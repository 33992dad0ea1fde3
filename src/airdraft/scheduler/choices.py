"""What an engine learns of a text's law at each row: to choose a token itself, or to tell those that are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from airdraft.core.events import Forward
from airdraft.core.law import Guide, Needs
from airdraft.core.logprobs import UNLIKELY, Logprob
from airdraft.errors import AirdraftError
from airdraft.models.base import Choice, Chosen, TokenLogprob, Wanted

_Mask = NDArray[np.bool_] | None


def choice_of(forward: Forward) -> Choice | None:
    """Return what the rows of a forward choose by. None: all are needed, or no engine bends them as the guide does."""
    if (needs := forward.needs) is None:
        return None
    law, at = needs.law, needs.at
    parents = _parents(forward)
    positions = [at.position]
    for parent in parents[1:]:
        positions.append(positions[parent] + 1)
    allowed: tuple[_Mask, ...] = ()
    if at.guide is not None:
        if type(at.guide).bent is not Guide.bent:
            return None
        try:
            allowed = tuple(_masks(at.guide, forward.tokens, parents, needs))
        except AirdraftError:  # the text's own session meets it as well, and says so
            return None
    params, bars = law.params, tuple[tuple[int, float], ...]()
    if needs.bars is not None:  # the last row has no draft, and is needed
        bars = (*((token, needs.bars(i)) for i, token in enumerate(forward.tokens[1:])), (0, math.inf))
    return Choice(
        params.temperature,
        params.top_k,
        params.top_p,
        params.min_p,
        law.seed,
        law.vocab_size,
        tuple(positions),
        allowed,
        bars,
        None if needs.logprobs is None else (needs.logprobs, UNLIKELY),
    )


def wanted_of(forward: Forward) -> tuple[Wanted | None, ...]:
    """Return what the rows of a forward are to tell besides what they tell anyway. Empty: nothing."""
    needs = forward.needs
    if needs is None or (guide := needs.at.guide) is None or (count := guide.needed) is None:
        return ()
    try:
        masks = _masks(guide, forward.tokens, _parents(forward), replace(needs, bars=None))
    except AirdraftError:  # as above
        return ()
    return tuple(None if mask is None else Wanted(mask, count) for mask in masks)


def answers(chosen: Chosen) -> NDArray[np.object_]:
    """What an engine chose, as a machine takes it. [rows]."""
    every = (Logprob(*each) if isinstance(each, TokenLogprob) else each for each in chosen)
    return np.fromiter(every, object, len(chosen))


def _parents(forward: Forward) -> Sequence[int]:
    return range(-1, len(forward.tokens) - 1) if forward.parents is None else forward.parents


def _masks(guide: Guide, tokens: Sequence[int], parents: Sequence[int], needs: Needs) -> list[_Mask]:
    """What a guide allows after each token, of which the first stands before it. None: all, or it does not matter.

    A state is asked all there is to ask when it is reached, as a way back costs its reader more than one onwards.
    """
    seen: list[tuple[Guide | None, _Mask]] = [(guide, _mask(guide, needs))]
    for token, parent in zip(tokens[1:], parents[1:], strict=True):
        before, mask = seen[parent]
        # Nothing is accepted behind a token that may not come.
        state = before.after(token) if before is not None and _goes_on(before, mask, token) else None
        seen.append((state, None if state is None else _mask(state, needs)))
    return [mask for _, mask in seen]


def _mask(guide: Guide, needs: Needs) -> _Mask:
    """What is forced comes whatever a row says, unless more is asked of the row than its token."""
    if guide.forced is None or needs.bars is not None:
        return guide.allowed()
    return None if needs.logprobs is None else np.arange(needs.law.vocab_size) == guide.forced


def _goes_on(guide: Guide, mask: _Mask, token: int) -> bool:
    """Whether `token` may come at a state whose `_mask` this is."""
    if guide.forced is not None:
        return guide.forced == token
    return mask is None or bool(mask[token])
