"""What an edge drafts by itself for a text in the lab: what its tenant wrote before, and what its client predicts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, get_args

from airdraft.core.edge import Propose
from airdraft.proposers import maker

Prediction = Literal["true", "half true", "false"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
STRETCH = 6
"""Most tokens in a row that are true, or false, of a prediction that is half true."""


def predicted(kind: Prediction, text: Sequence[int], vocab_size: int, rng: random.Random) -> list[int]:
    """Predict a text: as it is; by as many tokens of chance; or with every other stretch of it replaced by one of
    another length, or by none."""
    if kind == "true":
        return list(text)
    found, at, right = list[int](), 0, kind == "half true"
    while at < len(text):
        stretch = rng.randint(1, STRETCH)
        size = stretch if kind == "false" else rng.randint(0, STRETCH)
        found += text[at : at + stretch] if right else rng.choices(range(vocab_size), k=size)
        at, right = at + stretch, not right and kind == "half true"
    return found


def tenant(names: tuple[str, ...], before: Sequence[Sequence[int]]) -> Propose:
    """Return what makes the proposers of a tenant's texts, of which these were written before."""
    propose = maker(names)
    for text in before:
        for proposer in propose((), False):
            for length in (0, len(text)):  # it learns what is new since it looked last
                proposer.propose(text[:length], (), 0)
    return propose
