"""Many users on one edge in virtual time: the engine's calls, what a token costs, and how many users it holds."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from airdraft.errors import BadParameterError
from airdraft.lab.record import Recording, synthetic
from airdraft.lab.virtual import crowd as lab
from airdraft.lab.virtual.gpu import Gpu, Point, gpu

FLAT = Gpu("flat", (Point(1, 1, 30.0), Point(64, 1, 30.0)))
STEEP = Gpu("steep", (Point(1, 1, 10.0), Point(11, 1, 60.0)))
"""A call of one text more takes 5 ms more: ten users have a token in 55 ms, nine in 50."""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WARM_S": 1.2, "SECONDS": 2.0, "FIRST_USERS": 4}.items():
        monkeypatch.setattr(lab, name, value)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return synthetic(0.9, 4, 16, 1, 64)


def way(name: str) -> lab.Way:
    return next(each for each in lab.WAYS if each.name == name)


def test_a_call_takes_what_was_measured_and_lines_between() -> None:
    found = gpu(lab.H100)
    for point in found.calls:
        assert found.ms(point.texts, point.texts * point.rows) == pytest.approx(point.ms)
    assert found.common == 5
    assert found.ms(40, 200) == pytest.approx((32 + 62) / 2)
    assert found.ms(16, 16) == pytest.approx(32 - 16 * 0.2)  # rows fewer make what they make in a call of one text
    assert found.ms(128, 640) == pytest.approx(62 + 64 * 30 / 48)
    assert Gpu("one", (Point(1, 1, 7.0),)).ms(9, 40) == 7.0


@pytest.mark.parametrize(("words", "said"), [
    ("{}", "missing required field `name`"),
    ('{"name": "x", "calls": []}', "length >= 1"),
    ('{"name": "x", "calls": [{"texts": 0, "rows": 1, "ms": 1}]}', ">= 1"),
    ('{"name": "x", "calls": [{"texts": 1, "rows": 1, "ms": -1}]}', "> 0"),
    ('{"name": "x", "calls": [{"texts": 2, "rows": 1, "ms": 1}]}', "no call is of one text"),
    ('{"name": "x", "calls": [{"texts": 1, "rows": 1, "ms": 1}, {"texts": 1, "rows": 1, "ms": 2}]}', "twice"),
    ('{"name": "x", "calls": [{"texts": 1, "rows": 1, "ms": 1}, {"texts": 2, "rows": 5, "ms": 1}, '
     '{"texts": 3, "rows": 5, "ms": 1}]}', "calls of 5 rows a text have none of one text"),
    ('{"name": "x", "calls": [{"texts": 1, "rows": 1, "ms": 2}, {"texts": 1, "rows": 5, "ms": 1}]}', "takes less time"),
    ('{"name": "x", "calls": [{"texts": 1, "rows": 1, "ms": 2}, {"texts": 4, "rows": 1, "ms": 1}]}', "takes less time"),
    ('{"name": "x", "calls": [], "speed": 1}', "length >= 1"),
    ("\xff", "does not say how long calls take"),
])  # fmt: skip
def test_a_file_that_says_no_such_thing(words: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_bytes(words.encode("latin-1"))
    with pytest.raises(BadParameterError, match=said):
        gpu(path)
    with pytest.raises(BadParameterError, match="cannot be read"):
        gpu(tmp_path / "none.json")


def test_each_engine_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "own_engine", lambda: FLAT)
    steep, flat = tmp_path / "steep.json", tmp_path / "flat.json"
    for path, engine in ((steep, STEEP), (flat, FLAT)):
        path.write_bytes(msgspec.json.encode(engine))
    assert lab.engines_of([str(steep), "target"]) == {"steep": STEEP, "target": FLAT}
    for twice in ([str(steep), str(steep)], [str(flat), "target"]):
        with pytest.raises(BadParameterError, match="two engines are called"):
            lab.engines_of(twice)


def test_one_user_has_a_token_in_every_call(recording: Recording) -> None:
    row = lab.crowd(recording, FLAT, way("server"), 1)
    assert row.exact
    assert row.device_drafts_per_token == 0
    assert row.texts_per_call == 1
    assert row.target_ms_per_token == pytest.approx(30, rel=0.2)
    assert row.busy > 0.9
    assert 30 <= row.token_ms_p99 < 40


def test_users_share_calls_and_devices_save_some(recording: Recording) -> None:
    alone, many = (lab.crowd(recording, FLAT, way("server"), users) for users in (1, 6))
    assert many.texts_per_call > 5
    assert many.target_ms_per_token == pytest.approx(alone.target_ms_per_token / 6, rel=0.15)
    helped = lab.crowd(recording, FLAT, way("stream/off"), 6)
    assert helped.exact
    assert helped.device_drafts_per_token > 1
    assert helped.target_ms_per_token < 0.7 * many.target_ms_per_token


@pytest.mark.slow
def test_the_most_users_are_found(recording: Recording) -> None:
    row = lab.held(recording, STEEP, way("server"))
    assert 7 <= row.users <= 9
    assert row.token_ms_p99 <= lab.BOUND_MS < lab.crowd(recording, STEEP, way("server"), row.users + 1).token_ms_p99
    slow = replace_ms(STEEP, 80.0)
    assert lab.held(recording, slow, way("server")).users == 0


def replace_ms(engine: Gpu, ms: float) -> Gpu:
    return Gpu(engine.name, (Point(1, 1, ms),))


def test_a_run_comes_out_the_same_again(recording: Recording) -> None:
    first, second = (lab.crowd(recording, STEEP, way("stream/idle+lookup"), 2) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_the_record_and_the_table(recording: Recording) -> None:
    rows = [lab.crowd(recording, FLAT, each, 2) for each in lab.WAYS]
    record = lab.record_of(rows, [FLAT])
    assert json.loads(msgspec.json.encode(record))["simulated"] is True
    assert {"scheme", "users", "target_ms_per_token", "device_drafts_per_token"} <= set(record["rows"][0])
    found = lab.saving(rows, "flat")
    best = min((row for row in rows if row.devices), key=lambda row: row.target_ms_per_token)
    assert found.scheme == best.scheme
    assert found.against_server == best.target_ms_per_token / rows[0].target_ms_per_token
    assert record["savings"]["flat"]["scheme"] == found.scheme
    wrong = [msgspec.structs.replace(row, exact=not row.devices) for row in rows]
    with pytest.raises(ValueError, match="empty"):
        lab.saving(wrong, "flat")
    shown, said = lab.table(rows, "flat"), lab.says(rows, "flat")
    assert "simulated" in shown
    most = max(rows, key=lambda row: row.users * row.devices)
    assert f"and {most.users} with `{most.scheme}`, where devices draft" in said
    assert f"{found.against_server:.2f} × `server`'s time" in said
    assert not lab.missed(rows, [FLAT])
    h100 = lab.gpu(lab.H100)
    rows = [msgspec.structs.replace(row, engine=h100.name, target_ms_per_token=1.0) for row in rows]
    assert lab.missed(rows, [FLAT, h100])
    assert shown.count("\n| ") == len(lab.WAYS) + 1
