"""Networks that ship say what they are and beat others, and words about methods come from their rows."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from airdraft.channel import bench, nets
from airdraft.channel.bench import NmseRow
from airdraft.channel.generate import ChannelRecipe
from airdraft.channel.profiles import PROFILES
from airdraft.errors import ModelError


def test_the_networks_that_ship_are_small_and_at_walking_speed_beat_what_they_are_held_against() -> None:
    found = nets.read(nets.SHIPPED_NETS)
    assert sum(path.stat().st_size for path in nets.SHIPPED_NETS.iterdir()) < 2_000_000
    recipe = ChannelRecipe(PROFILES, (3.0, 3.0), bench.DELAY_SPREADS_S, (20.0, 20.0))
    known = bench.estimated(recipe, 60)
    against = {bench.ESTIMATE: bench.LMMSE, bench.PREDICT: bench.AUTOREGRESSION}
    for task, methods in nets.by_task(found).items():
        (name,) = methods
        pair = {name: methods[name], "other": bench.untold(task, known)[against[task]]}
        shown = [(each, each.channel.values) for each in bench.drawn(recipe, task, 3, 40)]
        errors = bench.measure(pair, shown, (0,) if task == bench.ESTIMATE else (5,))
        (ours,), (other,) = (errors[each].values() for each in (name, "other"))
        assert ours < other - 1


def test_a_table_says_what_networks_are() -> None:
    about = nets.About("some net", ("estimate", "predict"), "SNR", 1234, 64_000, 2.5)
    assert "| some net | estimate and predict | SNR | 1,234 | 64,000 | 2.5 |" in nets.table([about])


def test_how_a_method_stands_is_said_from_the_rows() -> None:
    said = {bench.LINES: 0.0, bench.LMMSE: -5.0, "some net": -4.5, bench.AUTOREGRESSION: -3.0}
    estimates = [
        NmseRow(bench.ESTIMATE, name, snr_db, speed, 0, db - (speed == 3.0) * (name == "some net"))
        for (name, db), snr_db, speed in itertools.product(said.items(), bench.SNRS_DB, bench.SPEEDS_KMH)
    ]
    predictions = [
        NmseRow(bench.PREDICT, name, bench.PREDICTED_SNR_DB, speed, horizon, db + (horizon == 20) * (db == -4.5) * 2)
        for (name, db), speed, horizon in itertools.product(said.items(), bench.SPEEDS_KMH, bench.HORIZONS)
    ]
    learned = {task: {"some net": lambda seen: seen.observed} for task in bench.TASKS}
    first, then = bench.reached(estimates + predictions, learned).splitlines()
    assert "better than least squares in 21 of 21 cells" in first
    assert (
        "-0.50 dB at 3 km/h, +0.50 dB at 30 km/h, +0.50 dB at 120 km/h; at most 1 dB behind at 3 of 3 speeds" in first
    )
    assert "better than autoregression in 12 of 15 cells; the mean difference is -1.10 dB" in then


def test_folders_of_something_else_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no network"):
        nets.read(tmp_path)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ModelError, match="no channel model"):
        nets.read(tmp_path)
    (tmp_path / "text.onnx").unlink()
    for name in ("one.onnx", "two.onnx"):
        shutil.copy(nets.SHIPPED_NETS / "mixture-estimate.onnx", tmp_path / name)
    with pytest.raises(ModelError, match="two networks with the title 'mixture of filters'"):
        nets.read(tmp_path)
