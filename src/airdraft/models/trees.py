"""What a part of a tree does to a cache that has a `lineage`: what it feeds, and what its picks leave."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from airdraft.models.base import Part
from airdraft.models.lineage import Lineage


class Fed(NamedTuple):
    """What one part feeds."""

    lineage: Lineage
    """Of its cache afterwards."""
    start: int
    """The position of the first token."""

    @classmethod
    def of(cls, part: Part) -> Fed:
        """What `part` feeds, whose picks were moved up already."""
        return cls(part.cache.lineage.kept(part.keep).grown(len(part.tokens), part.parents), part.keep)

    @property
    def positions(self) -> list[int]:
        """Where the model is to think that each token stands."""
        return self.lineage.depths(self.start)


def picked(part: Part) -> Part:
    """It without picks, which its cache has moved up. Raises: `ModelError`, see `Lineage.kept`.

    If the part fails later, its cache holds what was to stay.
    """
    if not part.picks:
        return part
    part.cache.pick(part.keep, part.picks)
    return replace(part, keep=part.keep + len(part.picks), picks=())
