"""Files of channels: what is written is read, other programs' axes are put in order, all else is refused in a line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from typer.testing import CliRunner

from airdraft.channel import files
from airdraft.channel.generate import ChannelRecipe, channels
from airdraft.cli.channel import channel
from airdraft.errors import BadParameterError

RECIPE = ChannelRecipe(("TDL-A", "CDL-D"), (3.0, 60.0), slots=5, subcarriers=6, antennas=2)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files.write(tmp_path / "own.npz", RECIPE, 4, 7, noisy=True)
    found = files.read(tmp_path / "own.npz")
    assert found.recipe == RECIPE
    made = channels(RECIPE, 7)
    wanted = np.stack([next(made).values for _ in range(4)])
    np.testing.assert_allclose(found.values * np.sqrt(np.mean(np.abs(wanted) ** 2)), wanted, rtol=1e-5)
    with np.load(tmp_path / "own.npz") as plain:
        assert plain["noisy"].shape == (4, 5, 6, 2)
        assert plain["profile"].tolist() == [
            next(made2).profile for made2 in [channels(RECIPE, 7, i) for i in range(4)]
        ]
        assert json.loads(str(plain["made_with"]))["seed"] == 7


@pytest.mark.parametrize("suffix", ["npy", "npz", "mat"])
def test_axes_of_another_program_are_put_in_order(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    deepmimo = rng.standard_normal((3, 2, 4, 5)) + 1j * rng.standard_normal((3, 2, 4, 5))  # users, rx, tx, subcarriers
    path = tmp_path / f"other.{suffix}"
    if suffix == "npy":
        np.save(path, deepmimo)
    elif suffix == "npz":
        np.savez(path, deepmimo)
    else:
        savemat(path, {"channel": deepmimo})
    found = files.read(path, files.DEEPMIMO).values
    assert found.shape == (3, 1, 5, 8)
    wanted = deepmimo.transpose(0, 3, 1, 2).reshape(3, 1, 5, 8)
    np.testing.assert_allclose(found / found[0, 0, 0, 0], wanted / wanted[0, 0, 0, 0], rtol=1e-4)


def test_files_that_are_not_channels_are_refused_in_a_line(tmp_path: Path) -> None:
    good = np.ones((2, 3, 4), np.complex64)
    for name, array in (
        ("nan", np.where(np.arange(4) == 2, np.nan, good)), ("zeros", 0 * good), ("real", good.real),
        ("objects", np.array([[[{}]]], object)), ("good", good), ("empty", good[:0]),
    ):  # fmt: skip
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    (tmp_path / "text.npy").write_text("time,csi\n")
    (tmp_path / "text.mat").write_text("time,csi\n")
    (tmp_path / "short.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-9])
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<c8', 'fortran_order': False, 'shape': (99999999, 99999999), }".ljust(118)
    )
    (tmp_path / "huge.npy").write_bytes(header)
    with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive:
        archive.write(tmp_path / "good.npy", "a.npy")
        archive.write(tmp_path / "good.npy", "b.npy")
    for name, axes, said in (
        ("nan.npy", "nta", "not finite"), ("zeros.npy", "nta", "only zeros"), ("real.npy", "nta", "not complex"),
        ("objects.npy", "nta", "not complex"), ("text.npy", "nta", "no file"), ("huge.npy", "nf", "at most"),
        ("text.mat", "nta", "no file of channels"), ("short.npy", "nta", "too early"), ("two.npz", "nta", "a, b"),
        ("missing.npy", "nta", "no file"), ("good.npy", None, "say what its axes are"), ("good.npy", "nt", "name all"),
        ("empty.npy", "nta", "holds nothing"), ("good.npy", "ntt", "at most once"), ("good.npy", "xyz", "at most once"),
    ):  # fmt: skip
        with pytest.raises(BadParameterError, match=said) as raised:
            files.read(tmp_path / name, axes)
        assert "\n" not in str(raised.value), name
    for scale in (1e-30, 1e30):
        np.save(tmp_path / "scaled.npy", (scale * good).astype(np.complex64))
        np.testing.assert_allclose(files.read(tmp_path / "scaled.npy", "nta").values, 1, rtol=1e-5)
    assert files.read(tmp_path / "two.npz", "nta", key="b").values.shape == (2, 3, 1, 4)


def test_the_command_writes_a_file_and_refuses_what_is_no_range(tmp_path: Path) -> None:
    runner, out = CliRunner(), str(tmp_path / "made.npz")
    ran = runner.invoke(
        channel, ["generate", out, "--count", "2", "--profile", "all", "--speed-kmh", "0:30", "--slots", "4"]
    )
    assert ran.exit_code == 0, ran.output
    recipe = files.read(Path(out)).recipe
    assert recipe is not None
    assert recipe.speed_kmh == (0.0, 30.0)
    for wrong in (["--speed-kmh", "fast"], ["--snr-db", "9:3"], ["--profile", "TDL-Z"], ["--slots", "0"]):
        assert isinstance(runner.invoke(channel, ["generate", out, *wrong]).exception, BadParameterError)
