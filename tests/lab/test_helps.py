"""What edges draft from in the lab: predictions of three kinds, and what a tenant wrote before."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from airdraft.lab.helps import predicted, tenant

TEXT = st.lists(st.integers(0, 23), min_size=30, max_size=60)


@given(TEXT, st.integers(0, 1 << 20))
def test_a_prediction_is_as_true_as_its_name(text: list[int], seed: int) -> None:
    def made(kind: str) -> list[int]:
        return predicted(kind, text, 24, random.Random(seed))  # type: ignore[arg-type]  # noqa: S311

    assert made("true") == text
    assert len(made("false")) >= len(text)
    assert made("half true")[0] == text[0]
    assert all(0 <= token < 24 for kind in ("half true", "false") for token in made(kind))


def test_kinds_of_predictions_differ_in_what_they_get_right() -> None:
    rng = random.Random(1)  # noqa: S311
    text = rng.choices(range(24), k=2000)
    pairs = set(zip(text, text[1:], text[2:], strict=False))

    def right(kind: str) -> float:
        found = predicted(kind, text, 24, rng)  # type: ignore[arg-type]
        threes = list(zip(found, found[1:], found[2:], strict=False))
        return sum(three in pairs for three in threes) / len(threes)

    assert right("true") == 1
    assert 0.3 < right("half true") < 0.7
    assert right("false") < 0.25


def test_a_tenant_has_learned_from_texts_before() -> None:
    def proposed(before: list[list[int]]) -> list[int]:
        (proposer,) = tenant(("ngram",), before)((), False)
        return list(proposer.propose([1, 2, 7, 8, 9], (), 4))

    assert proposed([[5, 6, 7, 8, 9, 10]]) == [10]
    assert proposed([]) == proposed([[7, 8, 10, 9, 10]]) == []
