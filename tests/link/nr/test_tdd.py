"""Slots of a direction, and how long one waits for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import BadParameterError
from airdraft.link.nr.tdd import SLOT_S, Slots


@pytest.mark.parametrize(
    ("pattern", "mean_ms", "most_ms"), [("DDDSU", 1.25, 2.5), ("DDDDDDDSUU", 2.05, 4.5), ("FDD", 0.25, 0.5)]
)
def test_the_wait_for_an_uplink_slot(pattern: str, mean_ms: float, most_ms: float) -> None:
    slots = Slots(pattern, "U")
    n = 10_000  # moments of one period of 5 ms, at the middles of equal parts
    waits_ms = [1e3 * (slots.next_s(at) - at) for at in ((part + 0.5) * 5e-3 / n for part in range(n))]
    assert sum(waits_ms) / n == pytest.approx(mean_ms, abs=1e-6)
    assert max(waits_ms) == pytest.approx(most_ms, abs=1e-3)


@given(st.sampled_from(["DDDSU", "DDDDDDDSUU", "DU", "FDD"]), st.sampled_from("DU"), st.floats(0, 1e5))
def test_the_next_slot_is_a_slot_and_none_lies_before(pattern: str, direction: str, time_s: float) -> None:
    slots = Slots(pattern, direction)
    found_s = slots.next_s(time_s)
    letters = direction if pattern == "FDD" else pattern
    number = round(found_s / SLOT_S)
    assert found_s == number * SLOT_S
    assert letters[number % len(letters)] == direction
    assert found_s >= time_s - 1e-8
    assert slots.next_s(found_s) == found_s
    skipped = range(int(time_s / SLOT_S) + 1, number)
    assert not any(letters[slot % len(letters)] == direction for slot in skipped)


@pytest.mark.parametrize("pattern", ["", "UUU", "DDX", "ddu", "SSU"])
def test_no_pattern(pattern: str) -> None:
    with pytest.raises(BadParameterError, match="give FDD, or slots such as DDDSU"):
        Slots(pattern, "D")
