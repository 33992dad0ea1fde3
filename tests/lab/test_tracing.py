"""Traces: what is run, what is counted, and that silence ends nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from airdraft.cli.bench.simulated import _trace_verdict, trace_block
from airdraft.core.messages import SchemeSpec
from airdraft.errors import BadParameterError
from airdraft.lab.record import synthetic
from airdraft.lab.virtual import tracing
from airdraft.lab.virtual.cell import Result, constant, run
from airdraft.lab.virtual.tracing import Speed, Task, Traced
from airdraft.link.trace import Series, TraceRun
from airdraft.sim.virtual import Compute

COMPUTE = Compute(0.015, 0.030)
RECORDING = synthetic(0.8, 3, 64, 1, 4096)
SCHEMES = ["server", "dense", "topk", "lattice", "split", "coupled", "stream/off", "stream/always",
           "server+lookup", "server+draft", "stream+lookup", "all", "auto"]  # fmt: skip


def trace_run(*steps: tuple[float, float]) -> TraceRun:
    """(seconds, Mbit/s), one after another."""
    ends_s = np.cumsum([seconds for seconds, _ in steps]).tolist()
    return TraceRun("made up", Series(tuple(ends_s), tuple(1e6 * mbps for _, mbps in steps)))


def speed(scheme: str, tokens_per_s: float) -> Speed:
    return Speed(scheme, None, round(10 * tokens_per_s), tokens_per_s, 1.0, 2.0, 3.0, 1.5, True)


def traced(**speeds: float) -> Traced:
    return Traced("made up", 1.0, 10.0, 5.0, 0.0, 20.0, [speed(scheme, value) for scheme, value in speeds.items()])


@pytest.fixture(autouse=True)
def few_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "LENGTHS", (1, 3))


def test_a_constant_trace_is_a_constant_link() -> None:
    task = Task("made up", trace_run((20, 5)), 0.05, COMPUTE, 6.0)
    found = tracing.trace(RECORDING, task)
    assert [row.scheme for row in found.speeds] == SCHEMES
    assert all(row.exact for row in found.speeds)
    assert (found.mean_mbps, found.outage, found.rtt_ms) == (5.0, 0.0, 50.0)
    assert all((row.device_drafts_per_token > 0) == (not row.scheme.startswith("server")) for row in found.speeds[:-1])
    coupled = found.speeds[SCHEMES.index("coupled")]
    long, setting = tracing.joined(RECORDING, 300), constant(50, 5, 15, 30)
    over_const = [tracing.speed(run(long, setting, SchemeSpec("coupled"), length=n), 6.0) for n in tracing.LENGTHS]
    assert coupled == max(over_const, key=lambda row: row.tokens_per_s)
    server = found.speeds[0]
    assert (server.length, server.wait_p50_ms) == (None, pytest.approx(30.0))
    assert server.tokens == 1 + (6000 - 50 - 30 - 30) // 30  # the first after a round trip, the prefill and a forward


@pytest.mark.slow
def test_an_outage_stops_rounds_and_not_the_edge() -> None:
    """Half a minute without an uplink is longer than any patience with a silent peer."""
    task = Task("made up", trace_run((3, 5), (38, 0), (10, 5)), 0.02, COMPUTE, 40.0)
    found = tracing.trace(RECORDING, task)
    assert found.began_s == pytest.approx(1.02, abs=0.01)
    assert found.outage == pytest.approx(38 / 40)
    by_scheme = {row.scheme: row for row in found.speeds}
    assert by_scheme["server"].tokens_per_s > 32
    assert by_scheme["stream/always"].tokens_per_s > 32
    assert 0 < by_scheme["coupled"].tokens < 2 * 40
    assert by_scheme["coupled"].tokens_per_s == by_scheme["coupled"].tokens / 40
    assert found.best.scheme in ("server+draft", "all")  # the edge has a draft model of its own


def test_nothing_was_committed_in_time() -> None:
    row = tracing.speed(Result("server", None, waits_s=[0.5]), 0.25)
    assert (row.tokens, row.tokens_per_s, row.wait_p50_ms) == (0, 0.0, 250.0)


def test_texts_are_joined() -> None:
    joined = tracing.joined(RECORDING, 3 * 64 + 70)
    text, texts = joined.texts[0], RECORDING.texts
    assert len(joined.texts) == 1
    assert text.tokens[:64] == texts[0].tokens
    assert len(text.tokens) == 3 * 64 + 70
    assert text.matches[64:128] == texts[1].matches
    assert text.matches[192:] == [*texts[0].matches, *texts[1].matches[:6]]


def test_a_text_says_nothing_of_its_repetition() -> None:
    """Copies are found within a text as often as before, and not in the one that it repeats."""
    text = RECORDING.texts[0]
    again = structs.replace(RECORDING, texts=[structs.replace(text, tokens=[7, 8, 9, 10] * 16)])
    tokens = tracing.joined(again, 192).texts[0].tokens
    pieces = [tokens[at : at + 64] for at in (0, 64, 128)]
    assert all(piece[4:] == piece[:-4] for piece in pieces)
    assert len({token for piece in pieces for token in piece}) == 12


@given(st.lists(st.floats(0, 2), min_size=1, max_size=60), st.floats(0.1, 30))
def test_tokens_count_that_were_there_in_time(waits_s: list[float], seconds: float) -> None:
    row = tracing.speed(Result("server", None, waits_s=waits_s), seconds)
    arrived = np.cumsum(waits_s)
    assert abs(row.tokens - int((arrived <= seconds).sum())) <= int(np.isclose(arrived, seconds).sum())
    assert row.tokens_per_s == row.tokens / seconds
    assert row.wait_p50_ms <= row.wait_p95_ms <= row.wait_p99_ms


def test_auto_is_held_against_the_best_of_the_others() -> None:
    bad, good = traced(server=30.0, coupled=40.0, auto=37.0), traced(server=30.0, coupled=20.0, auto=31.0)
    assert (bad.best.scheme, bad.ratio, good.best.scheme) == ("coupled", 0.925, "server")
    assert tracing.worst([good, bad]) is bad
    record = tracing.record_of([good, bad], COMPUTE)
    assert (record["held"], record["worst_ratio"], record["silent"]) == (False, 0.925, [])
    assert [(each["best"], each["ratio"]) for each in record["runs"]] == [("server", 31 / 30), ("coupled", 0.925)]
    assert tracing.record_of([good], COMPUTE)["held"]


def test_figures_are_of_the_window_in_which_texts_were_written() -> None:
    """A device that cannot connect for five seconds writes in the five that follow."""
    task = Task("made up", trace_run((5, 0), (15, 5)), 0.02, COMPUTE, 2.0)
    found = tracing.trace(RECORDING, task)
    assert found.began_s == pytest.approx(6.02, abs=0.01)
    assert (found.mean_mbps, found.outage) == (pytest.approx(5.0), 0)
    assert found.best.tokens_per_s > 30


def series(values: list[tuple[float, float]]) -> Series:
    return Series(tuple(np.cumsum([length for length, _ in values]).tolist()), tuple(value for _, value in values))


@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 9)), min_size=1, max_size=6),
    st.floats(0, 50),
    st.floats(0.1, 40),
)
def test_values_during_a_window(values: list[tuple[float, float]], began_s: float, seconds: float) -> None:
    """Against values looked up at many instants."""
    found = list(tracing._during(series(values), began_s, seconds))
    assert sum(share for share, _ in found) == pytest.approx(1)
    ends_s = series(values).ends_s
    at_s = (began_s + (np.arange(1000) + 0.5) / 1000 * seconds) % ends_s[-1]
    mean = np.mean([values[int(np.searchsorted(ends_s, each, "right")) % len(values)][1] for each in at_s])
    assert sum(share * value for share, value in found) == pytest.approx(mean, abs=9 * (len(found) + 1) / 1000)
    least, most = min(value for _, value in found), max(value for _, value in found)
    assert least <= tracing._median(found) <= most


def test_a_median_is_weighted() -> None:
    assert tracing._median([(0.5, 1.0), (0.5, 3.0)]) == 2.0
    assert tracing._median([(0.2, 1.0), (0.5, 3.0), (0.3, 9.0)]) == 3.0


def test_a_verdict_about_nothing_is_no_yes() -> None:
    nothing, good = traced(server=0.0, coupled=0.0, auto=0.0), traced(server=30.0, auto=31.0)
    assert nothing.ratio is None
    assert traced(server=0.0, auto=1.0).ratio == 1.0
    assert tracing.worst([nothing]) is None
    record = tracing.record_of([nothing], COMPUTE)
    assert (record["held"], record["worst_ratio"], record["silent"]) == (False, None, ["made up"])
    assert "no verdict" in _trace_verdict([nothing], record)
    assert "–" in trace_block([nothing], "about", "verdict")
    both = tracing.record_of([nothing, good], COMPUTE)
    assert (both["held"], both["silent"]) == (True, ["made up"])
    assert "yes. No scheme wrote a token in time on 1 of 2 runs: made up." in _trace_verdict([nothing, good], both)


@pytest.mark.slow
def test_an_outage_that_ends_the_connection_is_told_from_a_pool() -> None:
    """An error with a code comes whole out of another process, and names the trace."""
    task = Task("my.csv, Run 7", trace_run((10, 5), (4 * 3600, 0), (10, 5)), 0.02, COMPUTE, 60.0)
    with pytest.raises(BadParameterError, match=r"my\.csv, Run 7 has an outage .*nothing was heard.*; cut the trace"):
        tracing.trace_all(RECORDING, [task, task], 2)


def test_tasks(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("time_s,uplink_mbps,rtt_ms\n0,5,30\n1,8,60\n")
    many = tmp_path / "many.list"
    many.write_text("Run 1\n1,2,3\nRun 2\n" + ",".join(["4"] * 40) + "\n")
    todo = tracing.tasks([own, many], 40, 15, 30, 3.0)
    assert [each.name.rpartition("/")[2] for each in todo] == ["own.csv", "many.list, Run 1", "many.list, Run 2"]
    assert [each.seconds for each in todo] == pytest.approx([2.0, 0.3, 3.0])
    assert all(each.name.startswith("/".join(tmp_path.parts[-2:])) for each in todo)
    found = tracing.trace_all(RECORDING, todo[:2], 1)
    assert [each.rtt_ms for each in found] == [45.0, 40.0]  # its own, and the one given
    assert [each.mean_mbps for each in found] == pytest.approx([6.5, 2.0], rel=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 0.0}, "seconds is 0; give a finite number above 0"),
        ({"seconds": math.inf}, "seconds is inf"),
        ({"draft_ms": math.nan}, "draft-ms is nan"),
        ({"verify_ms": -1.0}, "verify-ms is -1"),
        ({"rtt_ms": -1.0}, "rtt-ms is -1; give a finite round trip"),
    ],
)
def test_mistakes(changes: dict[str, float], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("time_s,uplink_mbps\n0,5\n")
    given = {"rtt_ms": 20.0, "draft_ms": 15.0, "verify_ms": 30.0, "seconds": 5.0} | changes
    with pytest.raises(BadParameterError, match=message):
        tracing.tasks([path], **given)
