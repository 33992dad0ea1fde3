"""The hf engine beside transformers: the table says which bars are missed."""

from __future__ import annotations

import pytest

from airdraft.lab.wall.plain import BARS, CHAT, SHAPES, TINY, PlainRow, table


def test_every_bar_is_one_of_what_is_measured() -> None:
    assert all(model in (TINY, CHAT) and (texts, tokens) in SHAPES for model, texts, tokens in BARS)


@pytest.mark.parametrize(("ms", "said"), [(12.4, "none"), (12.6, "135 M parameters, random, 16 × 5")])
def test_a_bar_that_is_missed_is_named(ms: float, said: str) -> None:
    rows = [PlainRow(CHAT, 16, 5, ms, 10.0), PlainRow(CHAT, 1, 5, 99.0, 1.0)]
    text = table(rows)
    assert text.endswith(f"Bars missed: {said}.")
    assert "| 1.25 |" in text
