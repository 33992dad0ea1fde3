"""The hf engine on a card: the table names the card and the bars that are missed, and the command runs on a CPU too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.errors import ModelError
from airdraft.lab.wall import card as lab
from airdraft.lab.wall.card import BARS, CPU, SHAPES, Card, CardRow, checked, table


def measured(chosen_ms: float, graphs: str = "") -> Card:
    rows = [CardRow(64, 5, chosen_ms, 99.0, 10.0, None, 5.0), CardRow(1, 1, 13.1, 99.0, 20.0, 10.0, 5.0)]
    return Card("A Card 80GB", "8b", "bfloat16", "3.0", "6.0", 3000.0, 15.0, graphs, rows)


def test_every_bar_is_one_of_what_is_measured() -> None:
    assert set(BARS) <= set(SHAPES)


@pytest.mark.parametrize(("ms", "said"), [(14.9, "1 × 1."), (15.1, "64 × 5, 1 × 1.")])
def test_a_bar_that_is_missed_is_named(ms: float, said: str) -> None:
    text = table(measured(ms))
    assert text.startswith("A Card 80GB, Llama 8b")
    assert text.endswith(f"Bars missed: {said}")
    assert "| 1.5 × transformers |" in text


def test_a_row_without_a_graph_beside_it_has_no_ratio() -> None:
    assert CardRow(1, 1, 13.1, 99.0, 20.0, None, 5.0).ratio is None
    assert CardRow(16, 5, 13.1, 99.0, 20.0, None, 5.0).ratio is None


def test_a_cpu_has_no_bars() -> None:
    found = measured(15.1, "there is no GPU")
    found.card = CPU
    assert "missed" not in table(found)
    assert "×" not in table(found)


def test_it_says_why_nothing_was_captured() -> None:
    assert table(measured(1.0, "out of memory")).endswith("The engine captured no graphs: out of memory.")


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match="tiny, 1b, 8b"):
        checked("70b")


@pytest.mark.slow
def test_the_command_measures_and_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the hf engine takes airdraft[hf]")
    monkeypatch.setattr(lab, "TURNS", 2)
    page, file = tmp_path / "page.md", tmp_path / "card.json"
    page.write_text("<!-- card:begin -->\n<!-- card:end -->\n")
    found = CliRunner().invoke(app, ["bench", "card", "--size", "tiny", "--json", str(file), "--page", str(page)])
    assert found.exit_code == 0, found.output
    record = json.loads(file.read_text())
    assert [(row["texts"], row["tokens"]) for row in record["rows"]] == list(SHAPES)
    assert all(row["captured_ms"] for row in record["rows"] if row["texts"] == 1)  # run, if not captured
    assert record["card"] in page.read_text()
