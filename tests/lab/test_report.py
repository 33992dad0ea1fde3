"""A grid becomes figures and tables that say what its rows say."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import BadParameterError
from airdraft.lab.report import blocks, report
from airdraft.lab.results import SCHEMES, read, typical, winner

SPEEDS = {
    "server": 30.0, "dense": 20.0, "topk": 28.0, "lattice": 27.5, "split": 27.0, "coupled": 29.0, "stream/off": 35.0,
    "stream/idle": 38.0, "stream/always": 40.0, "server+lookup": 29.5, "server+draft": 31.0, "stream+lookup": 39.0,
    "all": 39.5, "tree": 39.2, "tree+lookup": 39.3, "auto": 40.1, "oracle": 44.0, "device": 60.0,
}  # fmt: skip


def row(scheme: str, tokens_per_s: float, **changes: object) -> dict[str, Any]:
    return {
        "rtt_ms": 20, "uplink_mbps": 5, "draft_ms": 15, "verify_ms": 30, "agreement": "pair T=0.7", "scheme": scheme,
        "length": None, "tokens_per_s": tokens_per_s, "target_forwards_per_token": 0.5, "uplink_bits_per_token": 20.0,
        "downlink_bits_per_token": 30.0, "device_drafts_per_token": 2.0, "exact": scheme != "device",
        "bottleneck": "draft", **changes,
    }  # fmt: skip


def span(lane: str, start_s: float, end_s: float, kind: str, label: str = "") -> dict[str, Any]:
    return {"lane": lane, "start_s": start_s, "end_s": end_s, "kind": kind, "label": label}


def grid() -> dict[str, Any]:
    rows = [
        row(
            scheme,
            speed * (1 if scheme == "server" else 1.5 - rtt_ms / 200),
            rtt_ms=rtt_ms,
            uplink_mbps=rate,
            draft_ms=draft_ms,
        )
        for rtt_ms in (0, 5, 20, 200)
        for rate in (1, 5)
        for draft_ms in (5, 15)
        for scheme, speed in SPEEDS.items()
    ]
    spans = [
        span("device", 0, 0.015, "draft", "def"),
        span("device", 0.015, 0.055, "dead", "$x$<&\x07\n"),
        span("device", 5, 6, "draft", "never"),
        span("uplink", 0.015, 0.03, "send"),
        span("edge", 0.03, 0.06, "verify", "2"),
        span("edge", 0.06, 0.06, "mismatch"),
        span("edge", 0.06, 0.09, "race", "1"),
        span("downlink", 0.06, 0.08, "answer"),
    ]
    cell = {"rtt_ms": 200, "uplink_mbps": 0.5, "draft_ms": 15, "verify_ms": 30, "agreement": "pair T=0.7", "seed": 3}
    return {
        "rows": rows,
        "claims": [
            {"claim": "auto keeps up with server", "bar": 0.99, "worst": 1.0123, "held": True, "cell": cell},
            {"claim": "one | two\nlines", "bar": 2, "worst": 1.5, "held": False, "cell": {}},
            {"claim": "odd", "bar": 1, "worst": 1, "held": True, "cell": {"rtt_ms": "a | trace", "seed": None}},
        ],
        "means": {"topk": 1.834, "split": 1.5},
        "gains": {"pair T=0.7": 1.249, "pair | T=1": 1.0},
        "timeline": {"title": "stream at RTT 20 ms & 5 Mbit/s", "spans": spans},
        "when": "what else a grid says of itself is nobody's business here",
    }


def words(path: Path) -> str:
    """All text of an SVG; fails if it is not well-formed."""
    return "\n".join(text.strip() for text in ET.fromstring(path.read_text("utf-8")).itertext())  # noqa: S314


def test_the_figures_say_what_they_show(tmp_path: Path) -> None:
    paths = report(grid(), tmp_path / "docs" / "figures")
    assert [path.name for path in paths] == ["winner.svg", "rtt.svg", "timeline.svg"]
    said = {path.stem: words(path) for path in paths}
    assert all("simulated (virtual time)" in text for text in said.values())
    assert all(scheme in said["rtt"] for scheme in SCHEMES)
    assert "device (not exact)" in said["rtt"]
    assert {"draft 5 ms, verify 30 ms", "draft 15 ms, verify 30 ms"} <= set(said["winner"].splitlines())
    lines = said["winner"].splitlines()
    assert {"server", "stream/always"} <= set(lines)
    assert not {"auto", "oracle", "device"} & set(lines)
    # 40 · 1.5 / 30 at RTT 0; at 200 ms the server, twice two cells each
    assert (lines.count("×2.00"), lines.count("×1.00")) == (4, 4)
    assert "stream at RTT 20 ms & 5 Mbit/s" in said["timeline"]
    assert {"def", "$x$<&·↵", "mismatch", "raced forward"} <= set(said["timeline"].splitlines())
    assert "never" not in said["timeline"]


def test_panels_beyond_a_line_start_the_next(tmp_path: Path) -> None:
    """Every panel has its RTTs beneath it, also where the last line is not full."""
    rows = [row("server", 30.0, draft_ms=draft_ms, rtt_ms=rtt_ms) for draft_ms in range(5) for rtt_ms in (77, 99)]
    lines = words(report({"rows": rows}, tmp_path)[0]).splitlines()
    assert [lines.count(text) for text in ("77", "99", "×1.00", "RTT, ms")] == [5, 5, 10, 3]


@pytest.mark.slow
def test_the_same_grid_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = report(grid(), tmp_path / "1"), report(grid(), tmp_path / "2")
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert b"<dc:date>" not in one.read_bytes()


def test_a_bare_grid_is_drawn(tmp_path: Path) -> None:
    """One row, no timeline, nothing exact: no figure has much to show, and none fails."""
    bare = {"rows": [row("device", 0.0, rtt_ms=0, agreement="synthetic 0.75", uplink_mbps=1)]}
    assert [path.name for path in report(bare, tmp_path)] == ["winner.svg", "rtt.svg"]
    assert "synthetic 0.75; 1 Mbit/s up" in words(tmp_path / "rtt.svg")
    assert set(blocks(bare)) == {"claims", "typical"}


def test_the_tables_say_what_the_rows_say() -> None:
    said = blocks(grid())
    where = "RTT 200 ms, 0.5 Mbit/s up, draft 15 ms, verify 30 ms, pair T=0.7, seed 3"
    assert f"| auto keeps up with server | 0.99 | 1.012 | yes | {where} |" in said["claims"]
    assert "| one \\| two lines | 2 | 1.500 | **NO** | – |" in said["claims"]
    assert "| odd | 1 | 1.000 | yes | RTT a \\| trace ms, seed None |" in said["claims"]
    assert "1.83 × `topk`, 1.50 × `split`" in said["claims"]
    assert (
        "against `stream/always`, geometric mean: 1.25 × with pair T=0.7, 1.00 × with pair \\| T=1." in said["claims"]
    )
    assert said["claims"].startswith("16 cells, simulated (virtual time)")
    typical = said["typical"].splitlines()
    assert "simulated (virtual time): pair T=0.7; 5 Mbit/s up; draft 15 ms, verify 30 ms" in typical[0]
    assert typical[2] == "| scheme | RTT 5 ms | RTT 20 ms | RTT 200 ms |"
    assert "| `server` | 30.0 | 30.0 | **30.0** |" in typical
    assert "| `stream/always` | **59.0** | **56.0** | 20.0 |" in typical
    assert "| `device` (not exact) | 88.5 | 84.0 | 30.0 |" in typical
    assert len(typical) == 4 + len(SCHEMES)


def test_a_scheme_that_is_missing_somewhere_leaves_a_gap() -> None:
    rows = [row("server", 30.0, rtt_ms=5), row("server", 30.0, rtt_ms=20), row("topk", 44.0, rtt_ms=5)]
    assert "| `topk` | **44.0** | – |" in blocks({"rows": rows})["typical"]


def _winner(*rows: dict[str, Any]) -> tuple[str, int | None] | None:
    won = winner(read({"rows": list(rows)}).rows)
    return won and (won.scheme, won.length)


def test_the_winner_is_the_fastest_exact_scheme() -> None:
    server = row("server", 30.0)
    assert _winner(server, row("topk", 40.0, length=2), row("topk", 41.0, length=4)) == ("topk", 4)
    assert _winner(row("topk", 40.0), server, row("oracle", 50.0), row("device", 60.0)) == ("topk", None)
    assert _winner(server, row("dense", 60.0, exact=False)) == ("server", None)
    assert _winner(row("device", 60.0), row("oracle", 60.0)) is None


def test_within_half_a_percent_the_simplest_wins() -> None:
    assert _winner(row("auto", 30.1), row("server", 30.0)) == ("server", None)
    assert _winner(row("auto", 30.2), row("server", 30.0)) == ("auto", None)


def test_the_typical_setting_is_taken_if_there_is_one() -> None:
    other = [
        row("server", 1.0, agreement="synthetic 0.75"),
        row("server", 1.0, uplink_mbps=1),
        row("server", 1.0, draft_ms=5),
    ]
    usual = [row("server", 2.0), row("topk", 2.0, rtt_ms=5)]
    assert typical(read({"rows": other + usual}).rows).rows == read({"rows": usual}).rows
    assert str(typical(read({"rows": other[:1]}).rows)) == "synthetic 0.75; 5 Mbit/s up; draft 15 ms, verify 30 ms"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "missing required field `rows`"),
        ({"rows": []}, "the grid has no rows; run the grid again"),
        ({"rows": {}}, "Expected `array`"),
        ([], "Expected `object`"),
        ({"rows": [{"rtt_ms": 5}]}, "missing required field `uplink_mbps`"),
        ({"rows": [row("magic", 1.0)]}, "Invalid enum value 'magic'"),
        ({"rows": [row("server", 1.0, rtt_ms="5")]}, "Expected `float`, got `str`"),
        ({"rows": [row("server", 1.0)], "timeline": {"title": "", "spans": [span("air", 0, 1, "draft")]}}, "'air'"),
    ],
)
def test_a_file_that_is_no_grid_is_refused_in_one_line(tmp_path: Path, given: Any, said: str) -> None:
    for action in (lambda: report(given, tmp_path), lambda: blocks(given)):
        with pytest.raises(BadParameterError) as problem:
            action()
        assert said in str(problem.value)
        assert "\n" not in str(problem.value)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "airdraft.lab.figures", raising=False)
    monkeypatch.delattr("airdraft.lab.figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BadParameterError, match=r"install airdraft\[report\]"):
        report(grid(), tmp_path)
    assert blocks(grid())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadParameterError, match=r"cannot write figures into .*file"):
        report(grid(), tmp_path / "file")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25), st.floats(0.001, 0.2))
def test_labels_keep_apart_and_in_order(heights: list[float], gap: float) -> None:
    from airdraft.lab.figures import spread

    placed = spread(heights, gap)
    gap = min(gap, 1 / len(heights))
    order = sorted(range(len(heights)), key=heights.__getitem__)
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in placed)
    assert all(placed[b] - placed[a] >= gap - 1e-9 for a, b in pairwise(order))
    if all(heights[b] - heights[a] >= gap for a, b in pairwise(order)):
        assert placed == pytest.approx(heights, abs=1e-9)
