"""The chance that two models choose alike with the same noise, by its formula and by drawing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airdraft.compress.quality import agreement
from airdraft.models.rows import probs


def pair(seed: int, size: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=size)
    return probs(logits, 1.0), probs(logits + apart * rng.normal(size=size), 1.0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.floats(0, 5))
def test_its_bounds(seed: int, size: int, apart: float) -> None:
    p, q = pair(seed, size, apart)
    overlap = np.minimum(p, q).sum()
    assert overlap / (2 - overlap) - 1e-9 <= agreement(p, q) <= overlap + 1e-9
    assert abs(agreement(p, q) - agreement(q, p)) < 1e-9
    assert abs(agreement(p, p) - 1) < 1e-9


def test_drawing_agrees_as_often() -> None:
    p, q = pair(5, 8, 1.5)
    noise = np.random.default_rng(6).gumbel(size=(200_000, 8))
    drawn = ((np.log(p) + noise).argmax(1) == (np.log(q) + noise).argmax(1)).mean()
    assert abs(agreement(p, q) - drawn) < 5 * 0.5 / 200_000**0.5


def test_tokens_of_one_model_alone_are_never_agreed_on() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5])
    assert abs(agreement(p, q) - 1 / 3) < 1e-12
    assert agreement(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 0.0
