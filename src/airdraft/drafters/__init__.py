"""Drafters of a device: a draft model, copies from the text itself, and both, whichever is the better guess."""

from __future__ import annotations

from collections.abc import Callable

from airdraft.core.drafting import Drafter, ModelDrafter
from airdraft.core.policy import Facts
from airdraft.drafters.cascade import Cascade

ENDLESS = 1 << 40
"""Positions that a device drafts for, if it copies: a copy needs no model's memory."""


def drafting(context: int, lookup: bool, facts: Callable[[], Facts]) -> tuple[int, Callable[[], Drafter]]:
    """How far a device drafts, in positions, and what makes each text's drafter.

    Args:
        context: most positions that the draft model holds; 0: there is none.
        lookup: whether to copy, too.
        facts: what is known of the link and the models at its ends.
    """
    return (ENDLESS, lambda: Cascade(context, facts)) if lookup else (context, ModelDrafter)


__all__ = ["ENDLESS", "Cascade", "drafting"]
