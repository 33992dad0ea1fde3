"""From a place to a block error rate."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from airdraft.link.nr.radio import (
    SCENARIOS,
    THRESHOLDS_DB,
    Channel,
    block_error_rate,
    choose_mcs,
    coherence_s,
    noise_dbm,
    path_loss_db,
)


def test_path_loss_by_hand() -> None:
    assert path_loss_db(SCENARIOS["micro-los"], 100.0, 10.0) == pytest.approx(32.4 + 42.0 + 20.0)
    assert path_loss_db(SCENARIOS["macro-nlos"], 100.0, 1.0) == pytest.approx(13.54 + 78.16)
    at_1m = path_loss_db(SCENARIOS["indoor-nlos"], 1.0, 1.0)
    assert at_1m == 32.4  # out of sight never loses less than in sight


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_farther_is_weaker(scenario: object) -> None:
    losses = [path_loss_db(scenario, distance_m, 3.5) for distance_m in (1, 10, 50, 200, 500)]  # type: ignore[arg-type]
    assert all(nearer < farther for nearer, farther in pairwise(losses))


def test_noise_and_coherence_by_hand() -> None:
    assert noise_dbm(51, 5.0) == pytest.approx(-96.4, abs=0.05)  # 18.36 MHz
    assert coherence_s(1.0, 3.0) == pytest.approx(0.0179, abs=1e-4)  # a Doppler shift of 10 Hz


@pytest.mark.parametrize("mcs", range(len(THRESHOLDS_DB)))
def test_a_threshold_is_where_a_tenth_is_lost(mcs: int) -> None:
    threshold_db = THRESHOLDS_DB[mcs]
    assert block_error_rate(mcs, threshold_db) == pytest.approx(0.1)
    assert block_error_rate(mcs, threshold_db + 3) < 1e-4
    assert block_error_rate(mcs, threshold_db - 3) > 0.99
    assert block_error_rate(mcs, -math.inf) == 1.0
    assert choose_mcs(threshold_db + 1e-9, 27) == mcs
    assert choose_mcs(threshold_db + 1e-9, 5) == min(mcs, 5)


def test_no_signal_gets_the_most_robust_mcs() -> None:
    assert choose_mcs(-math.inf, 27) == 0


def draw(n: int, branches: int = 2, outage_interval_s: float = math.inf) -> list[tuple[float, float]]:
    channel = Channel(0.01, 6.0, 0.9, branches, outage_interval_s, 0.5, np.random.default_rng(1))
    return [channel.gains_db(0.01 * (block + 0.5)) for block in range(n)]


def test_shadowing_is_normal_in_db_and_autoregressive() -> None:
    shadows_db = np.array([shadow_db for shadow_db, _ in draw(40_000)])
    assert shadows_db.mean() == pytest.approx(0.0, abs=0.5)
    assert shadows_db.std() == pytest.approx(6.0, rel=0.05)
    assert np.corrcoef(shadows_db[:-1], shadows_db[1:])[0, 1] == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("branches", [1, 2, 8])
def test_fading_has_unit_power_and_the_variance_of_its_branches(branches: int) -> None:
    powers = np.array([10 ** (fading_db / 10) for _, fading_db in draw(20_000, branches)])
    assert powers.mean() == pytest.approx(1.0, abs=0.04)
    assert powers.var() == pytest.approx(1 / branches, rel=0.1)


def test_outages_come_and_last_as_often_as_they_should() -> None:
    out = [fading_db == -math.inf for _, fading_db in draw(100_000, outage_interval_s=9.5)]
    begins = sum(after and not before for before, after in pairwise(out))
    assert begins == pytest.approx(100, abs=40)  # 1000 s, one every 10 s
    assert sum(out) / begins == pytest.approx(50, abs=20)  # half a second each


def test_what_is_forgotten_changes_nothing_after_it() -> None:
    def channel() -> Channel:
        return Channel(0.01, 6.0, 0.9, 2, 10.0, 0.5, np.random.default_rng(3))

    kept, forgetful = channel(), channel()
    for at in np.arange(0.0, 40.0, 0.37).tolist():
        forgetful.forget(at)
        assert forgetful.gains_db(at) == kept.gains_db(at)
        assert forgetful.gains_db(at + 1.0) == kept.gains_db(at + 1.0)
