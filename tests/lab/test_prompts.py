"""Prompts in virtual time: what an edge decides is never far from the best way, nor worse than computing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airdraft.lab.virtual import prompts
from airdraft.prompts import pace

from ..e2e.processes import airdraft


@pytest.mark.parametrize("token_bytes", [8 << 10, 28 << 10, 128 << 10])
def test_auto_is_never_far_from_the_best_way(token_bytes: int) -> None:
    rows = list(prompts.grid(token_bytes, tokens=(256, 1024, 2048)))
    assert {row.way for row in rows} == {"compute", "fetch", "overlap", "auto"}
    of_best, of_computing = prompts.worst(rows)
    assert of_best >= 0.95
    assert of_computing >= 0.95
    best = {min(rows[at : at + 4], key=lambda row: row.ttft_ms).way for at in range(0, len(rows), 4)}
    assert len(best) > 1  # no way is best everywhere


def test_the_bar_is_missed_by_who_only_waits_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LEAST", 10**9)
    monkeypatch.setattr(pace, "PATIENCE", 10**9)
    assert min(prompts.worst(list(prompts.grid(28 << 10, tokens=(1024,))))) < 0.5


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- prompts:begin -->\n<!-- prompts:end -->\n", "utf-8")
    done = airdraft("bench", "prompt", "--json", str(tmp_path / "p.json"), "--page", str(page))
    assert (done[0], done[2]) == (0, "")
    record = json.loads((tmp_path / "p.json").read_text("utf-8"))
    assert set(record["rows"][0]) == {
        "prompt_tokens", "rate_mbps", "rtt_ms", "prefill_tokens_per_s", "way", "ttft_ms",
    }  # fmt: skip
    assert record["auto_of_best"] >= 0.95
    assert "| tokens/s | Mbit/s | compute | fetch | overlap | auto |" in page.read_text("utf-8")
    done = airdraft("plan", "--prompt-tokens", "2000", "--store-mbps", "1", "--json")
    said = json.loads(done[1])
    assert said["ttft_ms"]["auto"] <= 1.001 * said["ttft_ms"]["compute"] == pytest.approx(2002)
    faster = str(1.05 * said["crossover_mbps"])
    saving = json.loads(airdraft("plan", "--prompt-tokens", "2000", "--store-mbps", faster, "--json")[1])
    assert saving["ttft_ms"]["auto"] <= 0.95 * 2000
    for words in (["--prompt-tokens", "3"], ["--prompt-tokens", "99", "--token-kib", "0"],
                  ["--prompt-tokens", "99", "--store-rtt-ms", "nan"]):  # fmt: skip
        done = airdraft("plan", *words)
        assert (done[0], done[1]) == (2, "")
        assert done[2].startswith("airdraft: ")
