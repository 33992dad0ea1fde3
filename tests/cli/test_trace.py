"""`airdraft trace show`: a timeline for people, JSON for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from airdraft.cli.trace import trace
from airdraft.errors import BadParameterError

EVENTS = [
    {"t": 0.0, "event": "opened", "at": "2026-01-02T03:04:05+00:00", "prompt": 3, "length": 3, "scheme": "stream"},
    {"t": 0.01, "event": "ready", "length": 3, "ids": [1, 2, 3]},
    {"t": 0.1, "event": "draft", "start": 3, "count": 4, "bytes": 6},
    {"t": 0.36, "event": "call", "began": 0.21, "texts": 2, "tokens": 9},
    {"t": 0.36, "event": "committed", "length": 6, "accepted": 2, "written": 1},
    {"t": 0.55, "event": "committed", "length": 7, "accepted": 0, "written": 1},
    {"t": 0.6, "event": "finished", "reason": "stop\x1b[31m"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    return path


def say(*words: str, columns: int = 120) -> str:
    """Standard output of `airdraft trace`. Raises what the command raises."""
    app = typer.Typer()
    app.add_typer(trace, name="trace")
    ended = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["trace", *words])
    if isinstance(ended.exception, BadParameterError):
        raise ended.exception
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_a_timeline(file: Path) -> None:
    lines = say("show", str(file), "--no-color").splitlines()
    shown = {words[1]: line for line in lines if len(words := line.split()) > 1}
    assert "texts 2, tokens 9" in shown["call"]
    assert shown["call"].split()[0] == "360.0"
    assert "150.0 ms" in shown["call"]
    assert "start 3, count 4, bytes 6" in shown["draft"]
    assert "ids 1 2 3" in shown["ready"]
    bar = shown["call"].rstrip()
    assert bar.endswith("━" * 7)  # of 24 characters, those from 0.21 to 0.36 of 0.6 s
    assert len(shown["committed"].rstrip()) > len(shown["draft"].rstrip())  # later, so further right
    assert "\x1b" not in "".join(lines)
    said = " ".join(" ".join(lines).split())
    assert (
        "4 tokens in 0.600 s: 2 accepted of 4 drafted, 2 by the target; first after 360.0 ms; then 5.3 tokens/s" in said
    )
    assert "1 calls of the engine, 0.150 s, of 2.0 texts in the mean; finished (stop" in said


def test_a_narrow_terminal_wraps_what_is_long_and_nothing_else(file: Path) -> None:
    lines = say("show", str(file), "--no-color", columns=80).splitlines()
    assert max(map(len, lines)) <= 80
    (call,) = [line for line in lines if " call " in line]
    assert call.split()[:4] == ["360.0", "call", "150.0", "ms,"]
    assert call.rstrip().endswith("━" * 7)


def test_json(file: Path) -> None:
    record = json.loads(say("show", str(file), "--json"))
    assert record["events"] == EVENTS
    assert record["summary"]["tokens"] == 4
    assert record["summary"]["end"] == "finished"


def test_no_trace(tmp_path: Path) -> None:
    with pytest.raises(BadParameterError, match=r"cannot be read .*name a file of --trace-dir"):
        say("show", str(tmp_path / "nowhere"))
