"""`airdraft reproduce` and `airdraft bench league`: results, pages, and one line for each mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from airdraft import cli
from airdraft.cli.bench.paired import CHAT, SHIPPED, models_of, prompts_of
from airdraft.lab.reproduce import dssd, everything, pairs, payload, qs, tk_slt
from airdraft.lab.virtual import league


def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, int]:
    """Standard output, standard error and exit code of `airdraft`."""
    monkeypatch.setattr(sys, "argv", ["airdraft", *words])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown, error = capsys.readouterr()
    return shown, error, int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("reproduce", "sled"), "qs, tslt, sqs, or all"),
        (("reproduce", "qs", "--pair", "shipped", "--json", "no/such/folder/r.json"), "no folder"),
        (("reproduce", "qs", "--pair", "alone"), "DRAFT,TARGET"),
        (("reproduce", "qs", "--pair", ",target"), "DRAFT,TARGET"),
        (("reproduce", "qs", "--pair", "draft,no-such-model"), "no-such-model"),
        (("bench", "league", "--pair", "alone"), "DRAFT,TARGET"),
        (("bench", "league", "--trace", "no-such-file"), "no-such-file"),
    ],
)
def test_a_mistake_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], named: str
) -> None:
    _, error, code = say(monkeypatch, capsys, *words)
    assert code == 2
    assert named in error
    assert error.count("\n") == 1


def test_a_pair_is_named() -> None:
    assert models_of(SHIPPED) == ("draft", "target")
    assert models_of(CHAT) == ("chat-draft", "chat-target")
    assert models_of("a/b:Q4, c") == ("a/b:Q4", "c")
    assert len(prompts_of(SHIPPED, 3)) == 18
    assert len(prompts_of("draft,target", 3)) == 3


@pytest.mark.slow
def test_all_papers_on_a_pair_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(pairs, "TEXTS", 2)
    monkeypatch.setattr(pairs, "TOKENS", 12)
    for module in (tk_slt, qs, payload):
        monkeypatch.setattr(module, "LENGTHS", (1, 3))
    monkeypatch.setattr(dssd, "MBPS", (10.0,))
    results, page = tmp_path / "r.json", tmp_path / "page.md"
    marks = ("pairs", *everything.PAPERS)
    page.write_text("\n".join(f"<!-- {mark}:begin -->\n<!-- {mark}:end -->" for mark in marks))
    shown, _, code = say(
        monkeypatch, capsys, "reproduce", "all", "--pair", "draft,target", "--json", str(results), "--page", str(page),
        "--figures", str(tmp_path / "figures"),
    )  # fmt: skip
    assert code == 0
    assert f"wrote {', '.join(marks)} into" in shown
    record = json.loads(results.read_text())
    assert all({"alpha", "L", "gamma", "speedup"} <= set(row) for row in record["closed_form"])
    assert record["qs"][0]["vocab_size"] == 4096
    assert 0 < record["cpu_s"] < 20 * 60
    assert (tmp_path / "figures" / "reproduce-qs.svg").is_file()


@pytest.mark.slow
def test_a_league_over_a_few_links(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(league, "LINKS", {name: league.LINKS[name] for name in ("markov2", "nr 5 dB, configured")})
    results, page = tmp_path / "l.json", tmp_path / "page.md"
    page.write_text("<!-- league:begin -->\n<!-- league:end -->\n")
    few = ("--jobs", "1", "--texts", "2", "--tokens", "16")
    _, _, code = say(monkeypatch, capsys, "bench", "league", "--json", str(results), "--page", str(page), *few)
    assert code == 0
    rows = json.loads(results.read_text())["rows"]
    assert {row["link"] for row in rows} == {"markov2", "nr 5 dB, configured"}
    assert all(row["low"] <= row["tokens_per_s"] <= row["high"] for row in rows)
    assert "fastest exact" in page.read_text()
