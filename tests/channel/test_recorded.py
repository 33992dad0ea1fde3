"""Recorded channels are cut, measured as simulated ones are, and what is no such file is refused by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.channel import baselines, bench, files, nets, recorded
from airdraft.channel.generate import ChannelRecipe, Complex
from airdraft.channel.learned import LearnedChannel
from airdraft.errors import BadParameterError

DEEPMIMO_USERS = 6


def command(*given: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "airdraft", "channel", *given], capture_output=True, text=True, check=False, timeout=110
    )


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CSI as a tool of another program might write it: slots, antennas, subcarriers, in its own unit, and a fade."""
    own = tmp_path_factory.mktemp("csi") / "own.npz"
    files.write(own, ChannelRecipe(("TDL-C",), (10.0, 10.0), slots=240, subcarriers=40, antennas=4), 1, 3)
    values = files.read(own).values[0].transpose(0, 2, 1) * 3e-21
    values[20:60] *= 0.05
    np.save(own.with_name("drive.npy"), values)
    return own.with_name("drive.npy")


def test_windows_are_apart_scaled_and_all_that_fits() -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((3, 9, 7, 5)) + 1j * rng.standard_normal((3, 9, 7, 5))).astype(np.complex64)
    values[1] = 0
    values[0] *= 30
    found = recorded.cut(values, (4, 3, 2))
    assert (len(found.known), len(found.tested), found.empty) == (8, 8, 8)
    np.testing.assert_allclose(np.mean(np.abs(found.tested) ** 2, axis=(1, 2, 3)), 1, rtol=1e-5)

    def like(window: Complex, piece: Complex) -> bool:
        return bool(np.allclose(window / window[0, 0, 0], piece / piece[0, 0, 0], rtol=1e-3))

    assert like(found.known[0], values[0, :4, :3, :2])
    assert like(found.known[4], values[0, 4:8, :3, :2])
    assert like(found.tested[3], values[2, :4, 3:6, 2:4])
    one = recorded.cut(values[:1, :4], (4, 7, 5))
    assert (len(one.known), len(one.tested)) == (0, 1)
    values = np.zeros((1, 41, 8, 1), np.complex64)
    values[0, 40] = 1  # beyond the last whole window
    with pytest.raises(BadParameterError, match="no window with power"):
        recorded.measure("edge", values, 10, {})


def test_simulated_channels_from_a_file_err_as_in_the_bench(tmp_path: Path) -> None:
    recipe = ChannelRecipe(("TDL-B",), (30.0, 30.0), snr_db=(10.0, 10.0))
    files.write(tmp_path / "own.npz", recipe, 80, 5)
    learned = {task: {nets.LEARNED: LearnedChannel().filled} for task in bench.TASKS}
    found = recorded.measure("own", files.read(tmp_path / "own.npz").values, 40, learned)
    assert (found.tested, found.covariances, found.empty, found.learned, found.predicted) == (40, 40, 0, True, True)
    others = np.stack([each.channel.values for each in bench.drawn(recipe, bench.ESTIMATE, 7, 40)])
    covariances = bench.Covariances(baselines.measured(others, 1), baselines.measured(others, 2))
    methods = bench.untold(bench.ESTIMATE, covariances) | learned[bench.ESTIMATE]
    shown = ((each, each.channel.values) for each in bench.drawn(recipe, bench.ESTIMATE, 6, 40))
    wanted = bench.measure(methods, shown, (0,))
    for name, errors in wanted.items():
        (row,) = [each for each in found.rows if (each.method, each.snr_db, each.horizon) == (name, 10.0, 0)]
        assert row.nmse_db == pytest.approx(errors[0], abs=2.0), name
    assert {each.horizon for each in found.rows if each.task == bench.PREDICT} == set(bench.HORIZONS)


@pytest.mark.slow
def test_the_command_measures_what_applies_and_says_what_does_not(tmp_path: Path, drive: Path) -> None:
    page, out = tmp_path / "page.md", tmp_path / "csi.json"
    marks = [f"<!-- csi-{name}:begin -->\n<!-- csi-{name}:end -->\n" for name in ("files", "estimate", "predict")]
    page.write_text("".join(marks))
    ran = command("bench", "--csi", str(drive), "--axes", "taf", "--json", str(out), "--page", str(page))
    assert ran.returncode == 0, ran.stderr
    (found,) = json.loads(out.read_text())["files"]
    assert (found["shape"], found["window"]) == ([1, 240, 40, 4], [40, 32, 4])
    assert (found["tested"], found["covariances"]) == (3, 3)
    errors = {(row["task"], row["method"], row["snr_db"], row["horizon"]): row["nmse_db"] for row in found["rows"]}
    assert errors["estimate", nets.LEARNED, 10.0, 0] < errors["estimate", bench.LINES, 10.0, 0]
    assert errors["predict", bench.AUTOREGRESSION, 20.0, 1] < -10
    assert {"estimate", "predict"} == {task for task, *_ in errors}
    assert f"| {drive.name} | mixture of filters |" in page.read_text()
    assert "3 windows of 40 slots, 32 subcarriers and 4 antennas" in page.read_text()


@pytest.mark.slow
def test_what_users_have_at_one_moment_is_estimated_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shape = DEEPMIMO_USERS, 1, 8, 64
    values = 1e-7 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    values[2] = 0  # no path leads there
    np.savez(tmp_path / "o1.npz", channel=values, place=np.zeros((DEEPMIMO_USERS, 3)))
    given = [str(tmp_path / "o1.npz"), "--axes", files.DEEPMIMO, "--key", "channel"]
    ran = command("bench", "--csi", *given, "--json", str(tmp_path / "found.json"))
    assert ran.returncode == 0, ran.stderr
    (found,) = json.loads((tmp_path / "found.json").read_text())["files"]
    assert (found["window"], found["empty"], found["tested"], found["covariances"]) == ([1, 32, 4], 4, 12, 8)
    assert {row["method"] for row in found["rows"]} == {bench.LINES, bench.LMMSE}
    said = " ".join(ran.stdout.split())
    assert "learned methods are left out" in said
    assert "nothing is predicted" in said
    ran = command("describe", *given, "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["channels"], told["subcarriers"], told["antennas"], told["without_power"]) == (6, 64, 8, 1)


@pytest.mark.slow
def test_likeness_falls_with_what_moves(drive: Path) -> None:
    told = recorded.described(files.read(drive, "taf").values)
    assert told["alike"]["slots"][1] > told["alike"]["slots"][10]
    assert told["alike"]["subcarriers"][1] > 0.9
    ran = command("describe", str(drive), "--axes", "taf")
    assert ran.returncode == 0, ran.stderr
    assert "1 channels, 240 slots, 40 subcarriers, 4 antennas" in " ".join(ran.stdout.split())


REFUSED: dict[str, tuple[Any, list[str], str]] = {
    "nan": (np.full((9, 8, 4), np.nan, np.complex64), ["--axes", "tfa"], "without NaN"),
    "axes": (np.ones((9, 8, 4), np.complex64), [], "say what its axes are"),
    "shape": (np.ones((9, 8, 4), np.complex64), ["--axes", "ntfa"], "name all of them"),
    "dot": (np.ones((9, 4), np.complex64), ["--axes", "na"], "single slot and subcarrier"),
    "csv": ("time,csi\n1,2\n", ["--axes", "tfa"], "no file of channels"),
    "labels": (np.ones((9, 8, 4), np.complex64), ["--axes", "tfa", "--labels", "100"], "--labels"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_file_of_channels_is_one_line_and_exit_code_2(what: str, tmp_path: Path) -> None:
    content, given, said = REFUSED[what]
    path = tmp_path / f"{what}.npy"
    if isinstance(content, str):
        path.write_text(content)
    else:
        np.save(path, content)
    ran = command("bench", "--csi", str(path), *given)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert not ran.stdout
