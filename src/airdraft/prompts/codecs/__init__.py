"""Codecs of prompt blocks: keys and values as bytes, exactly, or in fewer bits with a loss.

A codec that loses something is used only where its name is given. Its name is part of the names of blocks, and edges
that use it say so in each answer.
"""

from __future__ import annotations

from airdraft.errors import BadParameterError
from airdraft.prompts.codecs.base import Codec
from airdraft.prompts.codecs.exact import EXACT, Packed
from airdraft.prompts.codecs.gear import Gear
from airdraft.prompts.codecs.half import Half
from airdraft.prompts.codecs.kivi import Kivi
from airdraft.prompts.codecs.rotate import Rotated

__all__ = ["CODECS", "EXACT", "named"]

CODECS: dict[str, Codec] = {
    each.name: each for each in (EXACT, Packed(), Half(), Kivi(4), Kivi(2), Gear(4), Gear(2), Rotated(4), Rotated(2))
}
"""By name."""


def named(name: str) -> Codec:
    """The codec called `name`. Raises: `BadParameterError` if there is none."""
    try:
        return CODECS[name]
    except KeyError:
        raise BadParameterError(f"codec {name!r} is unknown; choose one of {', '.join(CODECS)}") from None
