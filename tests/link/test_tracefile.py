"""Trace files: what they mean, and what is refused, by its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from airdraft.errors import BadParameterError
from airdraft.link.trace import Series, TraceLink, TraceRun
from airdraft.link.tracefile import read

RULE = "###############################\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_our_own_format(tmp_path: Path) -> None:
    path = write(
        tmp_path / "walk.csv",
        "# a walk\n\ntime_s, uplink_mbps, downlink_mbps, rtt_ms  # with a header\n"
        "5,1,10,20\n5.5,0,20,40 # a tunnel\n7,2,30,60\n",
    )
    ends_s = (0.5, 2.0, 3.5)
    assert read(path) == [
        TraceRun(
            "walk.csv",
            Series(ends_s, (1e6, 0.0, 2e6)),
            Series(ends_s, (10e6, 20e6, 30e6)),
            Series(ends_s, (0.02, 0.04, 0.06)),
        )
    ]


def test_a_file_of_a_spreadsheet_begins_with_a_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "\ufefftime_s,uplink_mbps\n0,3\n")
    assert read(path) == [TraceRun("a", Series((1.0,), (3e6,)))]


def test_columns_may_lack_and_a_single_line_will_do(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a", "time_s,uplink_mbps\n0,3\n")) == [TraceRun("a", Series((1.0,), (3e6,)))]
    (run,) = read(write(tmp_path / "b", "time_s,uplink_mbps,rtt_ms\n0,3,10\n"))
    assert (run.downlink_bps, run.rtt_s) == (None, Series((1.0,), (0.01,)))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "begin with time_s,uplink_mbps"),
        ("# nothing\n", 1, "begin with time_s,uplink_mbps"),
        ("0,1\n1,2\n", 1, "begin with time_s,uplink_mbps"),
        ("time_s,rtt_ms\n0,1\n", 1, "begin with time_s,uplink_mbps"),
        ("time_s,uplink_mbps,uplink_mbps\n0,1,1\n", 1, "begin with"),
        ("time_s,uplink_mbps\n0,1\n1,2,3\n", 3, "3 values for 2 columns"),
        ("time_s,uplink_mbps\n0,1\n\n1\n", 4, "1 values for 2 columns"),
        ("time_s,uplink_mbps\n0,1\n1,-2\n", 3, "-2 is out of range"),
        ("time_s,uplink_mbps\n0,fast\n", 2, "'fast' is not a number"),
        ("time_s,uplink_mbps\n0,\n", 2, "'' is not a number"),
        ("time_s,uplink_mbps\n0,nan\n", 2, "nan is out of range"),
        ("time_s,uplink_mbps\n0,1\n1,inf\n", 3, "inf is out of range"),
        ("time_s,uplink_mbps\n0,1\n2,1\n1,1\n", 4, "time 1 s is not after 2 s"),
        ("time_s,uplink_mbps\n0,1\n# twice\n0,1\n", 4, "time 0 s is not after 0 s"),
    ],
)
def test_a_faulty_file_is_refused_by_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path / "faulty.csv", text)
    with pytest.raises(BadParameterError) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}, line {line}: ")
    assert words in str(refused.value)


def test_files_without_values(tmp_path: Path) -> None:
    with pytest.raises(BadParameterError, match="has no values"):
        read(write(tmp_path / "a.csv", "time_s,uplink_mbps\n"))
    with pytest.raises(BadParameterError, match="cannot be read"):
        read(tmp_path / "nowhere.csv")
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(BadParameterError, match="not UTF-8 text"):
        read(tmp_path / "picture")


def test_a_list_has_several_runs_and_finds_their_round_trips(tmp_path: Path) -> None:
    path = write(
        tmp_path / "throughput" / "hovering" / "5g" / "far.list",
        f"\n{RULE}Run 1\n1,0,2.5\n\n{RULE}Run 4\n3\n{RULE}Run 5\n4,4\n",
    )
    write(tmp_path / "ping" / "hovering" / "5g" / "other.list", f"{RULE}Run 1\n20,30\n{RULE}Run 2\n40,50\n")
    runs = read(path)
    assert [run.name for run in runs] == ["far.list, Run 1", "far.list, Run 4", "far.list, Run 5"]
    assert [run.uplink_bps.values for run in runs] == [(1e6, 0.0, 2.5e6), (3e6,), (4e6, 4e6)]
    assert runs[0].uplink_bps.ends_s == pytest.approx((0.1, 0.2, 0.3))
    assert [run.rtt_s and run.rtt_s.values for run in runs] == [(0.02, 0.03), (0.04, 0.05), (0.02, 0.03)]
    write(tmp_path / "ping" / "hovering" / "5g" / "far.list", f"{RULE}Run 1\n70,80\n")
    assert {run.rtt_s and run.rtt_s.values for run in read(path)} == {(0.07, 0.08)}  # its namesake's, if there is one


def test_times_far_from_0_keep_their_steps(tmp_path: Path) -> None:
    (run,) = read(write(tmp_path / "late", "time_s,uplink_mbps\n1e9,1\n1000000000.5,2\n"))
    assert run.uplink_bps.ends_s == (0.5, 1.0)
    (run,) = read(write(tmp_path / "alone", "time_s,uplink_mbps\n1e300,1\n"))
    assert run.uplink_bps.ends_s == (1.0,)


def test_a_list_alone_has_no_round_trips(tmp_path: Path) -> None:
    (run,) = read(write(tmp_path / "alone.list", "Run 1\n1,2\n"))
    assert run.rtt_s is None


def test_lines_of_times_make_parts(tmp_path: Path) -> None:
    runs = read(write(tmp_path / "pairs.list", f"{RULE}Run 1\n18.7,18.8\n1,2\n0,0.1,0.05\n3,4,5\n"))
    assert [(run.name, run.uplink_bps.values) for run in runs] == [
        ("pairs.list, Run 1, part 1", (1e6, 2e6)),
        ("pairs.list, Run 1, part 2", (3e6, 4e6, 5e6)),
    ]
    assert runs[1].uplink_bps.ends_s == pytest.approx((0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2\n", "line 1: values before the first run"),
        (f"{RULE}Run 1\n1,x\n", "line 3: 'x' is not a number"),
        (f"{RULE}Run 1\n1,-1\n", "line 3: -1 is out of range"),
        (f"{RULE}Run 1\n1,2,\n", "line 3: '' is not a number"),
        (f"{RULE}Run 1\n0,0.1\n1\n", "line 4: 1 values for 2 times"),
        (f"{RULE}Run 1\n0\n1\n0\n", "line 5: times without values"),
        (f"{RULE}Run 1\n{RULE}Run 2\n1\n", "Run 1 has no values"),
        (RULE, "has no runs"),
    ],
)
def test_a_faulty_list_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadParameterError) as refused:
        read(write(tmp_path / "faulty.list", text))
    assert words in str(refused.value)
    assert str(tmp_path / "faulty.list") in str(refused.value)


def test_round_trips_are_no_rates(tmp_path: Path) -> None:
    with pytest.raises(BadParameterError, match="holds round trips"):
        read(write(tmp_path / "ping" / "hovering" / "5g" / "far.list", "Run 1\n20\n"))


def test_a_trace_that_never_delivers_is_refused() -> None:
    dead, ends_dead = Series((1.0,), (0.0,)), Series((1.0, 2.0), (1e6, 0.0))
    with pytest.raises(BadParameterError, match="no rate of 1 bit/s or more"):
        TraceLink(TraceRun("dead", dead))
    with pytest.raises(BadParameterError, match="no rate of 1 bit/s or more"):
        TraceLink(TraceRun("half dead", Series((1.0,), (1e6,)), dead))
    TraceLink(TraceRun("an outage", ends_dead))
    with pytest.raises(BadParameterError, match="ends with a rate of 0"):
        TraceLink(TraceRun("an end", ends_dead), repeat=False)


def test_what_is_given_goes_before_the_file() -> None:
    one = Series((1.0,), (8e6,))
    run = TraceRun("all", one, one, Series((1.0,), (0.1,)))
    assert TraceLink(run, header_bytes=0).downlink().send(0.0, 1000) == pytest.approx(0.051)
    assert TraceLink(run, 8e3, 0.2, header_bytes=0).downlink().send(0.0, 1000) == pytest.approx(1.1)
    bare = TraceLink(TraceRun("bare", one), header_bytes=0)
    assert bare.downlink().send(0.0, 100_000) == pytest.approx(0.018)  # 100 Mbit/s, 20 ms
    assert bare.uplink().send(0.0, 1000) == pytest.approx(0.011)
