"""`airdraft plan`: the table, the JSON, and one line for each mistake."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from airdraft import cli
from airdraft.models.registry import load

NAMES = ["server", "dense", "topk", "lattice", "split", "coupled", "stream", "stream", "server", "stream"]
"""The last two at an edge that drafts itself."""


def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, int]:
    """Standard output, standard error and exit code of `airdraft plan`."""
    monkeypatch.setattr(sys, "argv", ["airdraft", "plan", *words])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown, error = capsys.readouterr()
    return shown, error, int(ended.value.code or 0)


def rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    shown, _, code = say(monkeypatch, capsys, "--json", *words)
    assert code == 0
    found: dict[str, Any] = json.loads(shown)
    return found


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown, _, code = say(monkeypatch, capsys, "--rtt-ms", "50", "--uplink-mbps", "5", "--acceptance", "0.8")
    assert code == 0
    assert "Predicted, not measured: 5 Mbit/s up, 100 down, 50 ms RTT" in shown
    assert "…" not in shown  # it fits 80 columns
    lines = shown.splitlines()
    names = [line.split()[0].strip(",") for line in lines if line[1:].startswith(tuple(NAMES))]
    assert names == [*NAMES[:-2], "server+draft", "stream+draft"]
    assert next(line for line in lines if "◀" in line).startswith(" stream, racing ◀")
    assert "times plain server streaming" in " ".join(shown.split())


def test_json_holds_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(
        monkeypatch, capsys, "--uplink-mbps", "inf", "--rtt-ms", "50", "--draft-ms", "5", "--acceptance", "0.8"
    )
    assert found["predicted"] is True
    assert found["measured"] == {}
    assert found["facts"] == {"draft_s": 0.005, "verify_s": 0.03, "rtt_s": 0.05, "uplink_bps": None,
                              "downlink_bps": 100e6, "acceptance": 0.8, "drafted": True, "beside": 0.0,
                              "edge_draft_s": 0.0}  # fmt: skip
    assert [row["edge_drafts"] for row in found["rows"]] == [False] * 8 + [True] * 2
    by_name = {(row["scheme"], row["race"]): row for row in found["rows"] if not row["edge_drafts"]}
    assert [row["scheme"] for row in found["rows"]] == NAMES
    assert by_name["server", None]["tokens_per_s"] == pytest.approx(33.3, rel=0.01)
    assert by_name["coupled", None]["tokens_per_s"] == pytest.approx(36.2, rel=0.02)
    assert by_name["stream", "always"]["tokens_per_s"] == pytest.approx(51.5, rel=0.04)
    assert [row["race"] for row in found["rows"] if row["chosen"]] == ["always"]
    assert by_name["coupled", None]["draft_length"] > 1
    assert by_name["coupled", None]["window"] is None
    assert by_name["stream", "off"]["window"] > 1


def test_it_says_so_where_plain_streaming_wins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(monkeypatch, capsys, "--draft-ms", "50")
    assert [row["scheme"] for row in found["rows"] if row["chosen"]] == ["server"]
    assert found["why"][0].startswith("Plain server streaming: no drafting is predicted to be faster")


def test_an_edge_that_drafts_may_leave_the_device_nothing_to_gain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, chosen in ((("--rtt-ms", "200"), "server"), (("--rtt-ms", "5", "--draft-ms", "3"), "stream")):
        found = rows(monkeypatch, capsys, "--edge-draft-ms", "3", *words)
        assert [(row["scheme"], row["edge_drafts"]) for row in found["rows"] if row["chosen"]] == [(chosen, True)]
    assert found["facts"]["edge_draft_s"] == 0.003


def test_options_of_schemes_count(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few, many = (rows(monkeypatch, capsys, "--k", k)["rows"][2] for k in ("4", "256"))
    assert few["scheme"] == many["scheme"] == "topk"
    assert few["uplink_bits_per_token"] < many["uplink_bits_per_token"]


def test_what_is_not_given_is_measured(
    edge: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(monkeypatch, capsys, "--probe", edge, "--rtt-ms", "50", "--downlink-mbps", "8")
    assert set(found["measured"]) == {"uplink_mbps", "draft_ms", "verify_ms", "vocab_size"}
    facts, measured = found["facts"], found["measured"]
    assert (facts["rtt_s"], facts["downlink_bps"]) == (0.05, 8e6)
    assert facts["draft_s"] == pytest.approx(measured["draft_ms"] / 1e3)
    assert facts["verify_s"] == pytest.approx(measured["verify_ms"] / 1e3)
    assert 0 < facts["draft_s"] < 1
    assert 0 < facts["verify_s"] < 1
    assert measured["vocab_size"] == load("draft")[1].vocab_size


def test_the_measured_figures_are_shown_before_the_plan(
    edge: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, _, code = say(monkeypatch, capsys, "--probe", edge, "--uplink-mbps", "5", "--draft-ms", "12")
    assert code == 0
    measured, predicted = " ".join(shown.split()).split("Predicted, not measured: ")
    assert re.fullmatch(rf"Measured, {edge}: \S+ down, \S+ ms RTT, target \S+ ms\. ", measured)
    assert predicted.startswith("5 Mbit/s up, ")
    assert "draft 12 ms" in predicted


@pytest.mark.parametrize(
    ("words", "thing", "remedy"),
    [
        (("--acceptance", "1.5"), "acceptance is 1.5", "0 to 1"),
        (("--acceptance", "nan"), "acceptance is nan", "0 to 1"),
        (("--draft-ms", "0"), "draft-ms is 0", "above 0 ms"),
        (("--edge-draft-ms", "0"), "edge-draft-ms is 0", "above 0 ms"),
        (("--edge-draft-ms", "nan"), "edge-draft-ms is nan", "finite"),
        (("--verify-ms", "inf"), "verify-ms is inf", "finite"),
        (("--uplink-mbps", "0"), "uplink-mbps is 0", "above 0 in Mbit/s"),
        (("--rtt-ms", "-1"), "rtt-ms is -1", "0 ms or more"),
        (("--vocab-size", "1"), "vocab-size is 1", "2 to 4194304"),
        (("--vocab-size", "1000000000"), "vocab-size is 1000000000", "2 to 4194304"),
        (("--header-bytes", "-1"), "header-bytes is -1", "0 or more"),
        (("--k", "0"), "k is 0", "at least 1"),
        (("--bits", "99"), "bits is 99", "1 to 24"),
    ],
)
def test_mistakes(
    words: tuple[str, ...],
    thing: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown, error, code = say(monkeypatch, capsys, *words)
    assert (shown, code, error.count("\n")) == ("", 2, 1)
    assert error.startswith(f"airdraft: {thing}")
    assert remedy in error


def test_a_scheme_that_the_options_do_not_fit_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(monkeypatch, capsys, "--k", "5000", "--vocab-size", "152000")
    assert [row["scheme"] for row in found["rows"]] == [name for name in NAMES if name != "lattice"]
    assert any(line.startswith("lattice is left out: k 5000") for line in found["why"])
    _, error, code = say(monkeypatch, capsys, "--k", "0")  # fits none
    assert code == 2
    assert "k is 0" in error


def test_a_codec_makes_a_prompt_smaller_and_its_rate_lower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes are those that the codec writes: 4 bits a number are a little more than a quarter of 16."""
    found = {
        codec: rows(monkeypatch, capsys, "--prompt-tokens", "2048", "--prompts-codec", codec)
        for codec in ("exact", "half", "kivi4")
    }
    assert found["exact"]["token_bytes"] == found["half"]["token_bytes"] == 28 * 1024
    assert [found[codec]["lossy"] for codec in found] == [False, True, True]
    for name in ("token_bytes", "store_bytes", "crossover_mbps"):
        assert 0.25 < found["kivi4"][name] / found["exact"][name] < 0.3
    shown, _, _ = say(monkeypatch, capsys, "--prompt-tokens", "2048", "--prompts-codec", "kivi4")
    assert "not the target's own" in " ".join(shown.split())
