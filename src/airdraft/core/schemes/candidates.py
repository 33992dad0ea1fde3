"""Several candidates for one position, drawn without replacement and judged one after the other.

The first is accepted with min(1, target_probs / draft_probs), as a single draft is. Behind a rejection the token must
come from the residual, max(0, target_probs - draft_probs), normalised, and a second candidate was drawn from
draft_probs without the first one's token, normalised. So it is a draft for the residual, and the same rule applies to
the two: each step is rejection sampling, and the result is distributed as target_probs, however many there are
(multi-candidate drafts of TSLT, arXiv 2512.16273; without replacement as in Jeon et al. 2024, "Recursive speculative
decoding", after SpecInfer, Miao et al. 2024).
"""

from __future__ import annotations

import numpy as np

from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray
from airdraft.core.sampling import draw
from airdraft.core.schemes.base import Drafted
from airdraft.errors import BadParameterError

MOST = 8
"""Most candidates for a position."""


def without_replacement(probs: FloatArray, count: int, rng: np.random.Generator) -> list[int]:
    """Draw `count` different indices of a distribution [m], or as many as have any probability."""
    found, left = [draw(probs, rng)], probs
    while len(found) < count:
        left = left.copy()
        left[found[-1]] = 0.0
        if not left.any():
            break
        found.append(draw(left, rng))
    return found


def replaced(target_probs: FloatArray, draft: Drafted, rng: np.random.Generator) -> tuple[int, int | None]:
    """Draw the token that replaces a draft whose first candidate was rejected.

    Returns: the token, and its number among `draft.others`; None if it is no candidate.
    """
    ids, draft_probs, tried = draft.row()[0], draft.probs(), draft.token
    left = _residual(target_probs, ids, draft_probs)
    for number, token in enumerate(draft.others):
        draft_probs[np.searchsorted(ids, tried)] = 0.0
        draft_probs /= draft_probs.sum()
        left /= left.sum()
        if rng.random() * draft_probs[np.searchsorted(ids, token)] < left[token]:
            return token, number
        left, tried = _residual(left, ids, draft_probs), token
    return draw(left, rng), None


def _residual(target_probs: FloatArray, ids: np.ndarray, draft_probs: FloatArray) -> FloatArray:
    """Return max(0, target - draft), not normalised. If rounding leaves it empty, the two were equal."""
    residual = target_probs.copy()
    residual[ids] -= draft_probs
    residual = np.maximum(residual, 0.0)
    return residual if residual.any() else target_probs.copy()


def check_candidates(spec: SchemeSpec) -> None:
    """Raise `BadParameterError` if `spec.candidates` is no number of candidates."""
    if not 1 <= spec.candidates <= MOST:
        raise BadParameterError(f"candidates is {spec.candidates}; give 1 to {MOST} for a position", field="candidates")
    if spec.candidates > 1 and spec.verify == "block":
        raise BadParameterError(
            f"candidates is {spec.candidates}, and a block has one for each position; give 1, or verify token",
            field="candidates",
        )
