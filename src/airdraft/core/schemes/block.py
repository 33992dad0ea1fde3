"""Block verification: the drafts of a round are judged together, and the longest prefix that passes is accepted.

Let kept be 1 for the empty prefix, and min(1, kept * target / draft) after each further draft. All drafts together
pass with probability kept. A shorter prefix passes with S / (S + 1 - kept), where S is the mass of its residual,
max(0, kept * target - draft) over the tokens that may follow it; the next token is drawn from the longest passing
prefix's residual, or after all drafts from the target. Then each prefix is accepted, alone or in a longer one, with
probability kept, which is what makes the text the target's. No rule accepts more in the mean (Sun et al. 2024,
"Block verification accelerates speculative decoding").
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from airdraft.core.law import Law, Place
from airdraft.core.noise import FloatArray
from airdraft.core.schemes.base import Drafts


def prefixes(law: Law, drafts: Drafts, rows: np.ndarray, at: Place) -> Iterator[tuple[float, FloatArray]]:
    """Yield for each prefix of a chain of drafts, the empty one first: its chance to pass, and what follows it.

    That is the distribution of the next token, [vocab], not normalised. Prefixes that cannot pass are left out. `rows`
    and `at` are as in `Scheme.verify`.
    """
    kept = 1.0
    for draft, row in zip(drafts.said, rows, strict=False):
        target_probs = law.probs(row, at)
        residual = kept * target_probs
        residual[draft.ids] -= draft.probs()
        residual = np.maximum(residual, 0.0)
        mass = float(residual.sum())
        if mass == 0:  # draft and target agree, as far as numbers tell
            yield float(kept == 1), target_probs
        else:
            yield mass / (mass + (1 - kept)), residual
        kept = min(1.0, kept * float(target_probs[draft.token]) / draft.prob())
        if kept == 0:  # before the guide is told of a token that it forbids
            return
        at = at.then(draft.token)
    yield kept, law.probs(rows[len(drafts)], at)
