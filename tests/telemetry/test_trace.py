"""Traces: written by either side, read again, summed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airdraft.core.events import Begun, Failed, Finished, Offered, Progress, Taken, Turning
from airdraft.errors import BadParameterError
from airdraft.telemetry.trace import FILES_A_SECOND, HELD, MOST_AT_ONCE, Traces, read, summary

BEGUN = Begun(1, 3, 3, 50, "stream")


def test_what_is_written_is_read_and_summed_up(tmp_path: Path) -> None:
    trace = Traces(tmp_path / "new" / "folder", "device").open(BEGUN, 100.0, edge="e")
    trace.event(Taken(1, 3), 100.1)
    trace.event(Offered(1, 3, 4, 3), 100.2)
    trace.call(100.5, 0.25, 2, 5)
    trace.event(Progress(1, 3, 2, 1, 4, raced=False), 100.5)
    trace.event(Turning(1, "topk"), 100.6)
    trace.event(Taken(1, 6), 100.7)
    trace.event(Progress(1, 6, 3, 1, 3, raced=False), 101.5)
    assert not trace.path.exists()  # at once at the end, and not before
    trace.event(Finished(1, "length"), 102.0)
    trace.close()
    events = read(trace.path)
    assert [event["event"] for event in events] == [
        "opened", "ready", "draft", "call", "committed", "switch", "switched", "committed", "finished",
    ]  # fmt: skip
    assert events[0].pop("at")
    assert events[0] == {
        "t": 0.0, "event": "opened", "side": "device", "edge": "e", "prompt": 3, "length": 3, "max_tokens": 50,
        "scheme": "stream",
    }  # fmt: skip
    assert events[3] == {"t": 0.5, "event": "call", "began": 0.25, "texts": 2, "tokens": 5}
    by = ["device", "device", "recovered"]
    assert events[4] == {"t": 0.5, "event": "committed", "length": 6, "accepted": 2, "written": 1, "by": by}
    assert summary(events) == {
        "tokens": 7, "accepted": 5, "written": 2, "drafted": 4, "seconds": 2.0, "first_token_s": 0.5, "token_s": 0.25,
        "engine_s": 0.25, "calls": 1, "mean_batch": 2.0, "end": "finished", "why": "length",
    }  # fmt: skip


def test_ids_only_if_asked(tmp_path: Path) -> None:
    text = [11, 12, 13]
    for ids in (False, True):
        trace = Traces(tmp_path, "edge", ids).open(BEGUN, 0.0)
        trace.event(Taken(1, 3), 0.0, text)
        trace.event(Progress(1, 3, 0, 1, 0, raced=True), 0.1, [*text, 14])
        trace.event(Progress(1, 5, 0, 1, 1, raced=False), 0.2, [*text, 14, 15, 16])  # 15: the device's own
        trace.event(Failed(1, "busy", "no room", ours=True), 0.3, text)
        trace.close()
        events = read(trace.path)
        assert [event["ids"] for event in events if "ids" in event] == ([text, [14], [15, 16]] if ids else [])
        assert events[-1] == {"t": 0.3, "event": "failed", "code": "busy", "message": "no room"}


def test_a_flood_of_texts_does_not_fill_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    traces = Traces(tmp_path, "edge")

    def flood(now: float) -> int:
        before = len(list(tmp_path.iterdir()))
        for _ in range(2 * MOST_AT_ONCE):
            trace = traces.open(BEGUN, now)
            trace.event(Finished(1, "closed"), now)
            trace.close()
        return len(list(tmp_path.iterdir())) - before

    assert [flood(now) for now in (5.0, 6.0, 6.5)] == [MOST_AT_ONCE, FILES_A_SECOND, FILES_A_SECOND // 2]
    assert len(caplog.records) == 1
    assert "some leave no trace" in caplog.text


def test_a_long_text_does_not_pile_up(tmp_path: Path) -> None:
    trace = Traces(tmp_path, "edge").open(BEGUN, 0.0)
    for at in range(HELD):
        trace.note("call", at, began=at, texts=1, tokens=1)
    assert len(trace.path.read_text().splitlines()) == HELD
    trace.close()
    assert len(read(trace.path)) == HELD + 1


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("", "does not begin as a trace does"),
        ('{"t": 0, "event": "ready"}', "does not begin as a trace does"),
        ("nonsense", "line 1 of .* is not an event"),
        ('{"t": 0, "event": "opened", "length": 1}\n{"t": "x", "event": "call"}', "line 2 of .* is not an event"),
        ('{"t": 0, "event": "opened", "length": 1}\n[]', "line 2 of .* is not an event"),
        ('{"t": "0", "event": "opened", "length": 1}', "line 1 of .* is not an event"),
        ('{"t": NaN, "event": "opened", "length": 1}', "line 1 of .* is not an event"),
        ('{"t": 1e999, "event": "opened", "length": 1}', "line 1 of .* is not an event"),
        ('{"t": 1' + "0" * 400 + ', "event": "opened", "length": 1}', "line 1 of .* is not an event"),
        ('{"t": 0, "event": ["opened"], "length": 1}', "line 1 of .* is not an event"),
        ('{"t": 0, "event": "opened", "length": 1, "ids": 5}', "line 1 of .* has ids that are not a list"),
        ("[" * 100_000, "line 1 of .* is not an event"),
        ('{"t": 0, "event": "opened", "length": 1}\n{"t": 1, "event": "ready", "began": "x"}', "line 2 of .* lacks"),
        ('{"t": 0, "event": "opened", "length": 1}\n{"t": 1, "event": "call"}', "line 2 of .* lacks"),
        (
            '{"t": 0, "event": "opened", "length": 1}\n{"t": 1, "event": "committed", "length": "x"}',
            "line 2 of .* lacks",
        ),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, lines: str, why: str) -> None:
    path = tmp_path / "trace"
    path.write_text(lines)
    with pytest.raises(BadParameterError, match=why):
        read(path)


def test_no_such_file_and_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(BadParameterError, match=r"cannot be read .*name a file of --trace-dir"):
        read(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadParameterError, match="no traces can go to"):
        Traces(tmp_path / "file", "edge")


def test_a_trace_of_a_text_that_never_began(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(json.dumps({"t": 0, "event": "opened", "length": 3}))
    numbers = summary(read(path))
    assert (numbers["tokens"], numbers["end"], numbers["token_s"], numbers["mean_batch"]) == (0, None, None, None)
