"""The jamming guard: thresholds hold the share of false alarms that was asked for, and two find more than one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from airdraft.channel.guard import Guard, Thresholds, alarms, learn, looked, shipped, write
from airdraft.errors import BadParameterError, ModelError
from airdraft.lab.guarding import block, guarded, many
from airdraft.link.nr import NrLink

SHAPE = (20, 32, 4)


def noisy(power: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found: np.ndarray = np.sqrt(power / 2) * (rng.standard_normal(SHAPE) + 1j * rng.standard_normal(SHAPE))
    return found.astype(np.complex64)


def test_energy_and_correlation_of_channels_that_are_known() -> None:
    energy_db, correlation = looked(noisy(100.0))
    assert energy_db == pytest.approx(20.0, abs=0.5)
    assert correlation < 0.1
    energy_db, correlation = looked(np.full(SHAPE, 10.0 + 0j, np.complex64))
    assert (energy_db, correlation) == (pytest.approx(20.0), pytest.approx(1.0))
    assert looked(np.zeros(SHAPE, np.complex64)) == (pytest.approx(-90.0), 0.0)


@pytest.mark.parametrize(
    "bad", [np.full(SHAPE, np.nan), np.zeros((0, 32, 4)), np.zeros((20, 1, 4)), np.zeros((20, 32))]
)
def test_csi_that_cannot_be_looked_at_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ModelError, match="CSI is empty, not finite or of one subcarrier"):
        looked(bad)


def test_thresholds_keep_to_the_share_of_false_alarms_and_two_find_more_than_one() -> None:
    """Clean: strong and alike, or weak and not. Jammed: strong and not."""
    rng = np.random.default_rng(4)

    def looks(energy_db: float, correlation: float, count: int = 5000) -> np.ndarray:
        return np.column_stack([rng.normal(energy_db, 3, count), np.clip(rng.normal(correlation, 0.08, count), 0, 1)])

    clean, jammed = np.vstack([looks(20, 0.9), looks(2, 0.2)]), looks(20, 0.3)
    found = learn(clean, jammed, 0.01)
    assert float(np.mean(alarms(clean, found))) <= 0.01
    assert float(np.mean(alarms(np.vstack([looks(20, 0.9), looks(2, 0.2)]), found))) < 0.015
    assert float(np.mean(alarms(jammed, found))) > 0.95
    assert float(np.mean(jammed[:, 0] > np.quantile(clean[:, 0], 0.99))) < 0.5
    assert float(np.mean(jammed[:, 1] < np.quantile(clean[:, 1], 0.01))) < 0.5


def test_the_guard_that_ships_tells_a_jam_from_a_fade_and_from_an_outage() -> None:
    guard = shipped()
    assert guard.jammed(noisy(1000.0))
    assert not guard.jammed(noisy(1.0))
    cells = many(12, None, seed=1234), many(12, (25, 30), seed=1234)
    wrong, right = (float(np.mean(alarms(each, guard.thresholds))) for each in cells)
    assert wrong < 0.02
    assert right > 0.95
    pipe = NrLink(outage_interval_s=0.5, seed=5).uplink()
    pipe.send(0.0, 1)
    assert not any(guard.jammed(csi) for at in range(100) if (csi := pipe.csi(0.1 * at)) is not None)


def test_learning_is_written_and_the_same_again(tmp_path: Path) -> None:
    steps = list[tuple[int, int]]()
    found = guarded(10, 0.02, 3, lambda done, of: steps.append((done, of)))
    assert steps[-1] == (9, 9)
    write(tmp_path / "guard.json", found.thresholds)
    again = msgspec.json.decode((tmp_path / "guard.json").read_bytes(), type=Thresholds)
    assert again == found.thresholds
    assert Guard(again).jammed(noisy(1000.0))
    assert f"{found.false_alarms:.2%} of the looks" in block(found)
    with pytest.raises(BadParameterError, match="with 10 cells of 100 looks give 0"):
        guarded(10, 0.001, 3, lambda done, of: None)
