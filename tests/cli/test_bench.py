"""`airdraft bench`: tables, JSON, pages, exit codes, and one line for each mistake."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from airdraft import cli
from airdraft.cli.bench import results
from airdraft.cli.bench.simulated import validation_block
from airdraft.cli.pages import renew
from airdraft.errors import BadParameterError
from airdraft.lab.record import synthetic
from airdraft.lab.results import SCHEMES
from airdraft.lab.virtual import grid as lab_grid
from airdraft.lab.virtual import tracing
from airdraft.lab.virtual.validate import Check, Checked, Overhead, Validation

TRACE = "time_s,uplink_mbps,rtt_ms\n0,5,30\n2,8,30\n4,8,30\n"


def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, int]:
    """Standard output, standard error and exit code of `airdraft bench`."""
    monkeypatch.setattr(sys, "argv", ["airdraft", "bench", *words])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown, error = capsys.readouterr()
    return shown, error, int(ended.value.code or 0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of two cells."""
    for name, value in {"RTT_MS": (20.0,), "UPLINK_MBPS": (5.0,), "COMPUTE_MS": ((15.0, 30.0),)}.items():
        monkeypatch.setattr(lab_grid, name, value)
    made_up = [synthetic(acceptance, 1, 32, 1, 4096) for acceptance in (0.6, 0.75)]
    monkeypatch.setattr(lab_grid, "recordings", lambda: made_up)


@pytest.mark.slow
def test_a_grid_and_its_report(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = tmp_path / "grid.json"
    shown, _, code = say(monkeypatch, capsys, "grid", "--json", str(results), "--jobs", "1")
    record: dict[str, Any] = json.loads(results.read_text())
    assert code == (0 if all(claim["held"] for claim in record["claims"]) else 1)
    assert f"{2 * len(SCHEMES)} runs, simulated (virtual time)" in shown
    for claim in record["claims"]:
        assert f"{claim['claim']}, worst: rtt_ms 20" in shown
    assert f"{record['means']['server']:.2f} × server" in shown

    page = tmp_path / "page.md"
    page.write_text("<!-- typical:begin -->\nold\n<!-- typical:end -->\n")
    shown, _, code = say(
        monkeypatch, capsys, "report", str(results), "--folder", str(tmp_path / "f"), "--page", str(page)
    )
    assert code == 0
    assert f"wrote typical into {page}" in shown
    assert "| `stream/always` |" in page.read_text()
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"winner.svg", "rtt.svg", "timeline.svg"}
    shown, _, code = say(monkeypatch, capsys, "report", str(results), "--folder", str(tmp_path / "f"))
    assert "| claim | bar |" in shown  # without a page, to the terminal


def test_a_sample_of_a_grid_has_its_json(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = {}
    for seed in ("0", "1", "1"):
        results = tmp_path / "grid.json"
        words = ("grid", "--sample", "1", "--seed", seed, "--json", str(results), "--jobs", "1")
        shown, _, _ = say(monkeypatch, capsys, *words)
        record = json.loads(results.read_text())
        assert f"Each claim is about every cell of a sample of 1 (seed {seed})" in shown
        assert record["sample"] == {"cells": 1, "seed": int(seed)}
        assert len(record["rows"]) == len(SCHEMES)
        assert found.setdefault(seed, record["rows"]) == record["rows"]
        (agreement,) = record["gains"]
        assert f"{record['gains'][agreement]:.2f} × with {agreement}" in shown
    assert len({rows[0]["agreement"] for rows in found.values()}) == 2
    _, error, code = say(monkeypatch, capsys, "grid", "--sample", "3")
    assert (code, error) == (2, "airdraft: a sample of 3 cells of 2; give a number from 1 to that\n")


def test_a_grid_goes_on_where_it_was_broken_off(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept, results = tmp_path / "kept", tmp_path / "grid.json"
    words = ("grid", "--keep", str(kept), "--json", str(results), "--jobs", "1")
    say(monkeypatch, capsys, *words)
    whole = json.loads(results.read_text())
    head, first, second = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(head + first.replace(b'"bottleneck":"', b'"bottleneck":"kept ') + second[:99])
    say(monkeypatch, capsys, *words)
    again = json.loads(results.read_text())
    for row in whole["rows"][: len(SCHEMES)]:  # these are not run again
        row["bottleneck"] = f"kept {row['bottleneck']}"
    assert again["rows"] == whole["rows"]
    assert kept.read_bytes().endswith(second)
    for other, said in ((b"0\n" + first, "keeps cells of another airdraft"), (head + b"[]\n", "keeps no cells")):
        kept.write_bytes(other)
        _, error, code = say(monkeypatch, capsys, *words)
        assert code == 2
        assert said in error
        assert kept.read_bytes() == other


def test_a_text_that_is_not_the_targets(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lab_grid, "unheld", lambda found: found[:1])
    shown, _, code = say(monkeypatch, capsys, "grid", "--jobs", "1")
    assert code == 1
    assert "NOT EXACT: 1 runs" in shown


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A trace file; and fewer and shorter texts, so that a test is quick."""
    for name, value in {"TEXTS": 6, "TOKENS": 32, "LENGTHS": (2, 3)}.items():
        monkeypatch.setattr(tracing, name, value)
    path = tmp_path / "drive.csv"
    path.write_text(TRACE)
    return path


def test_a_trace(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results, page = tmp_path / "t.json", tmp_path / "page.md"
    page.write_text("# Links\n<!-- trace:begin -->\n<!-- trace:end -->\n")
    shown, _, code = say(
        monkeypatch, capsys, "trace", str(trace), "--json", str(results), "--page", str(page), "--seconds", "4",
        "--jobs", "1",
    )  # fmt: skip
    record: dict[str, Any] = json.loads(results.read_text())
    assert code == (0 if record["held"] else 1)
    (run,) = record["runs"]
    assert [row["scheme"] for row in run["speeds"]] == [
        "server", "dense", "topk", "lattice", "split", "coupled", "stream/off", "stream/always",
        "server+lookup", "server+draft", "stream+lookup", "all", "auto"]  # fmt: skip
    # The window begins when the device has connected, a second into the trace.
    assert (run["seconds"], run["rtt_ms"]) == (4.0, pytest.approx(30))
    assert 5 < run["mean_mbps"] < 8
    assert "simulated (virtual time): 4 s of each run, or all of it, from when the device has connected on" in shown
    assert f"{run['speeds'][0]['tokens_per_s']:.1f}" in shown
    assert f"auto against the best exact scheme: {run['ratio']:.3f} at worst" in shown
    assert "wait for a token, ms" in shown
    written = page.read_text()
    speeds = " | ".join(f"{row['tokens_per_s']:.1f}" for row in run["speeds"])
    assert f"| 1 | {run['mean_mbps']:.0f} | 30 ms | {speeds} | {run['ratio']:.3f} |" in written
    assert f"| `auto` | {run['speeds'][-1]['wait_p50_ms']:.0f} |" in written
    assert f"{run['ratio']:.3f} at worst" in written


def test_auto_that_falls_short(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracing, "BAR", 2.0)
    shown, _, code = say(monkeypatch, capsys, "trace", str(trace), "--seconds", "1", "--jobs", "1")
    assert code == 1
    assert "bar 2: NO" in shown


@pytest.mark.parametrize(
    ("words", "thing", "remedy"),
    [
        (("trace", "gone.csv"), "the trace gone.csv cannot be read", "give the path of a trace file"),
        (("trace", "{trace}", "--seconds", "0"), "seconds is 0", "above 0"),
        (("trace", "{trace}", "--draft-ms", "nan"), "draft-ms is nan", "above 0"),
        (("trace", "{trace}", "--json", "nowhere/t.json"), "nowhere/t.json cannot be written", "make it"),
        (("validate", "--json", "nowhere/v.json"), "nowhere/v.json cannot be written", "make it"),
        (("grid", "--json", "nowhere/g.json"), "nowhere/g.json cannot be written", "make it"),
        (("report", "gone.json"), "gone.json cannot be read", "give a grid's JSON"),
        (("report", "{trace}"), "drive.csv is not JSON", "bench grid --json"),
        (("report", "{list}"), "list.json holds no grid", "bench grid --json"),
        (("report", "{empty}"), "this is not a grid", "run the grid again"),
    ],
)
def test_mistakes(
    words: tuple[str, ...],
    thing: str,
    remedy: str,
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty.json").write_text("{}")
    given = [word.format(trace=trace, list=tmp_path / "list.json", empty=tmp_path / "empty.json") for word in words]
    shown, error, code = say(monkeypatch, capsys, *given)
    assert (shown, code, error.count("\n")) == ("", 2, 1)
    assert error.startswith("airdraft: ")
    assert thing in error
    assert remedy in error


def test_pages(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb <!-- y:begin --><!-- y:end --> c\n<!-- z:begin -->")
    assert renew(page, {"x": "new", "y": "1\n2", "z": "never", "w": "nowhere"}) == ["x", "y"]
    assert page.read_text() == (
        "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb <!-- y:begin -->\n1\n2\n<!-- y:end --> c\n<!-- z:begin -->"
    )
    with pytest.raises(BadParameterError, match="lacks the marks <!-- z:begin --> and <!-- z:end -->; put them"):
        renew(page, {"z": "never"})
    with pytest.raises(BadParameterError, match="cannot be renewed \\(No such file or directory\\); give a page"):
        renew(tmp_path / "gone.md", {"z": "never"})
    page.write_bytes(b"\xff")
    with pytest.raises(BadParameterError, match="not UTF-8 text"):
        renew(page, {"z": "never"})


def test_a_page_is_looked_at_before_the_run_and_its_blocks_are_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    for text, thing in ((None, "cannot be renewed"), ("plain", "has no marks")):
        if text is not None:
            page.write_text(text)
        shown, error, code = say(monkeypatch, capsys, "chat", "--page", str(page))
        assert (shown, code, error.count("\n")) == ("", 2, 1)
        assert thing in error
    page.write_text("<!-- other:begin --><!-- other:end -->")
    with pytest.raises(BadParameterError, match="lacks the marks"):
        results.renew_pages([page], {"x": "found"})
    assert capsys.readouterr().out == "<!-- x:begin -->\nfound\n<!-- x:end -->\n"


def test_the_table_of_a_validation() -> None:
    check = Check("phone-8b", 20.0, 5.0, "coupled", 3)
    block = validation_block(Validation(Overhead(4e-4, 6e-4), [Checked(check, 20.0, 21.0, 22.0, True)]))
    assert "0.40 ms a draft, 0.60 ms a forward" in block
    assert "| coupled, γ 3 | phone-8b | 20 ms, 5 Mbit/s | 20.0 | 21.0 | +5.0% | +10.0% |" in block
    assert "off by 5.0% in the median cell and 5.0% in the worst; bars 8% and 20%: yes." in block


def test_without_a_terminal_progress_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for every_s in (0.0, 1000.0):  # the last one has nothing to say yet
        monkeypatch.setattr(results, "_EVERY_S", every_s)
        with results.progress(Console(file=io.StringIO()), "texts") as step:
            step(1, 3)
            step(2, 3)
    assert capsys.readouterr() == ("", "1 of 3 texts\n2 of 3 texts\n")
