"""Trees whose rows differ from a chain's by rounding: no choice rests on that."""

from __future__ import annotations

import numpy as np

from airdraft.core import schemes
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Drafts


def test_a_choice_that_rounding_might_decide_is_left_to_the_next_forward() -> None:
    """On another branch than the first, and only there."""
    params, vocab = SamplingParams(0.0), 4
    law = Law(params, 0, vocab, doubt=0.1)
    scheme = schemes.make(SchemeSpec("stream"), law, schemes.EDGE)
    drafts = Drafts.of_tokens([1, 2, 3, 0], (-1, -1, 0, 1))  # 1 3, and 2 0
    for first, second, path, token in (
        (1, 0.05, (0, 2), 1),  # the first branch: as close as may be
        (2, 0.05, (1,), None),  # another one: too close behind it
        (2, 0.15, (1, 3), 1),
        (3, 0.0, (), 3),  # what stays is no branch
    ):
        rows = np.zeros((5, vocab), np.float32)
        rows[0, first] = 1.0
        rows[1, [3, 0]] = 1.0, 1.0 - second  # after 1
        rows[2, [0, 3]] = 1.0, 1.0 - second  # after 2
        rows[3, [1, 0]] = rows[4, [1, 0]] = 1.0, 0.0
        ruling = scheme.verify(drafts, rows, Place(5))
        assert (ruling.path, ruling.token) == (path, token)
    certain = schemes.make(SchemeSpec("stream"), Law(params, 0, vocab), schemes.EDGE)
    rows[0], rows[0, 2] = 0.0, 1.0
    assert certain.verify(drafts, rows, Place(5)).path == (1, 3)
