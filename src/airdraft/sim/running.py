"""Runs one forward of a machine on a model: a chain by `forward`, a tree by the `verify` of engines that run trees."""

from __future__ import annotations

from typing import Any

from airdraft.core.events import Forward
from airdraft.errors import AirdraftError
from airdraft.models.base import FloatArray, LanguageModel, Part


def run(model: LanguageModel, cache: Any, forward: Forward) -> FloatArray:
    """Return the rows of `forward`. Raises: what the model raises; `TypeError` for a tree where it runs chains only."""
    if forward.parents is None and not forward.picks:
        return model.forward(cache, forward.keep, forward.tokens, forward.rows)
    verify = getattr(model, "verify", None)
    if verify is None:
        raise TypeError(f"{model.name} runs chains only")
    [rows] = verify([Part(cache, forward.keep, forward.tokens, forward.rows, forward.parents, forward.picks)])
    if isinstance(rows, AirdraftError):
        raise rows
    found: FloatArray = rows
    return found
