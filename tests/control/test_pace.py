"""Paces: what is lately true, from enough tokens, and not for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.control.pace import ENOUGH, FORGOTTEN, TokenPace


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0.001, 1.0)), min_size=1, max_size=200))
def test_a_pace_is_a_mean_of_what_was_seen(commits: list[tuple[int, float]]) -> None:
    pace = TokenPace()
    for tokens, seconds in commits:
        pace.wrote(tokens, seconds)
    rates = [seconds / tokens for tokens, seconds in commits]
    if sum(tokens for tokens, _ in commits) < ENOUGH:
        assert pace.token_s is None
    if pace.token_s is not None:
        assert min(rates) * (1 - 1e-9) <= pace.token_s <= max(rates) * (1 + 1e-9)


@pytest.mark.parametrize("tokens", [1, 2, 8])
def test_it_is_known_after_enough_tokens_and_follows_a_change(tokens: int) -> None:
    pace = TokenPace()
    for count in range(0, ENOUGH, tokens):
        assert count < ENOUGH / 2 or pace.token_s is None
        pace.wrote(tokens, 0.01 * tokens)
    assert pace.token_s == pytest.approx(0.01)
    for _ in range(0, 4 * ENOUGH, tokens):
        pace.wrote(tokens, 0.03 * tokens)
    assert pace.token_s == pytest.approx(0.03, rel=0.12)


def test_it_is_forgotten_when_much_was_written_another_way() -> None:
    pace = TokenPace()
    pace.wrote(ENOUGH, 1.0)
    pace.missed(FORGOTTEN - 1)
    assert pace.token_s is not None
    pace.wrote(ENOUGH, 1.0)
    pace.missed(FORGOTTEN - 1)
    assert pace.token_s is not None  # it was measured again meanwhile
    pace.missed(1)
    assert pace.token_s is None
    pace.wrote(ENOUGH, 2.0)
    assert pace.token_s == pytest.approx(2.0 / ENOUGH)
