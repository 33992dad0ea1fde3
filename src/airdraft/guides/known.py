"""Guides of targets whose rows tell only their likeliest tokens: exact where those are enough, else refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from airdraft.core.law import Guide
from airdraft.core.messages import GuideSpec
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, GuideError
from airdraft.guides.bias import BIASED


@dataclass(frozen=True)
class Enough(Guide):
    """A grammar's state that looks at the rows it is given.

    A token that a row does not tell is less likely than all that it tells. So, once what is forbidden is out, the best
    k tokens are known if k of those that are told are allowed, or all that are allowed are told.
    """

    inner: Guide
    needed: int
    """Tokens of a row that a choice is made among: top-k, or 1 where the most likely one is taken."""

    @property
    def forced(self) -> int | None:
        """See `Guide.forced`."""
        return self.inner.forced

    def allowed(self) -> NDArray[np.bool_] | None:
        """See `Guide.allowed`."""
        return self.inner.allowed()

    def bent(self, row: np.ndarray) -> np.ndarray:
        """See `Guide.bent`. Raises: `GuideError` for a row that does not tell enough."""
        told = int(np.isfinite(row).sum())
        allowed = self.inner.allowed()
        if allowed is None or told >= min(self.needed, int(allowed.sum())):
            return row
        what = f"the guide allows {int(allowed.sum())} tokens at one place, and of the {self.needed} likeliest of them"
        remedy = "ask with temperature 0 or a lower top_k, start vLLM with a higher --max-logprobs, or ask an edge "
        remedy += "whose engine gives whole rows"
        raise GuideError(f"{what} the engine tells {told}; {remedy}")

    def within(self, prompt: Sequence[int]) -> Guide:
        """See `Guide.within`."""
        return replace(self, inner=self.inner.within(prompt))

    def after(self, token: int) -> Guide:
        """See `Guide.after`."""
        return replace(self, inner=self.inner.after(token))


def check_known(spec: GuideSpec) -> None:
    """Raise `BadParameterError` for a guide that such rows cannot hold, whatever they are."""
    if spec.kind == BIASED:
        what = "the guide has penalties or biases, which raise tokens that this target's engine may not tell"
        raise BadParameterError(f"{what}; leave them out, or ask an edge whose engine gives whole rows", "guide")


def known(guide: Guide, params: SamplingParams) -> Guide:
    """Return a guide for a target whose rows tell only their likeliest tokens."""
    return Enough(guide, params.top_k if params.temperature else 1)
