"""Estimation and prediction without learning: exact where they must be, and in the order that theory gives them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from airdraft.channel import baselines
from airdraft.channel.baselines import Comb
from airdraft.channel.bench import ESTIMATE, PREDICT, Drawn, bench, drawn, estimated, measure, true, ways
from airdraft.channel.generate import ChannelRecipe, Complex, channels

RECIPE = ChannelRecipe(("TDL-B",), (60.0, 60.0), (100e-9, 100e-9), (10.0, 10.0), 12, 16, 2)
PILOTS = Comb(np.arange(0, 12, 2), np.arange(1, 16, 4))


def test_lines_between_pilots_are_exact_on_a_plane_and_hold_the_last_value() -> None:
    time, frequency = np.mgrid[:12, :16]
    plane = ((2 + 1j) * time + (1 - 3j) * frequency)[:, :, None].astype(np.complex64)
    hidden = np.full_like(plane, np.nan)
    at = np.ix_(PILOTS.slots, PILOTS.subcarriers)
    hidden[at] = plane[at]
    found = baselines.interpolated(hidden, PILOTS)
    np.testing.assert_allclose(found[:11, 1:14], plane[:11, 1:14], rtol=1e-5)
    np.testing.assert_allclose(found[11], found[10])


def test_lmmse_is_the_joint_solution_over_all_pilots() -> None:
    channel = next(channels(RECIPE, 1))
    observed, known = channel.observed(np.random.default_rng(0)), true(RECIPE, channel)
    found = baselines.lmmse(observed, PILOTS, known.over_time, known.over_subcarriers, 10.0)
    at_pilots = np.kron(
        known.over_time[np.ix_(PILOTS.slots, PILOTS.slots)],
        known.over_subcarriers[np.ix_(PILOTS.subcarriers, PILOTS.subcarriers)],
    )
    to_all = np.kron(known.over_time[:, PILOTS.slots], known.over_subcarriers[:, PILOTS.subcarriers])
    seen = observed[PILOTS.slots][:, PILOTS.subcarriers].reshape(-1, 2)
    wanted = to_all @ np.linalg.solve(at_pilots + 0.1 * np.eye(len(at_pilots)), seen)
    np.testing.assert_allclose(found, wanted.reshape(found.shape), rtol=1e-3, atol=1e-3)


def test_predictions_are_exact_where_their_model_holds() -> None:
    time = np.arange(24)[:, None, None]
    line = ((1 + 2j) * time + 3).astype(np.complex64)
    turning = (np.exp(0.7j * time) + 0.5 * np.exp(-0.2j * time)).astype(np.complex64)
    np.testing.assert_allclose(baselines.continued(line, 12), line, rtol=1e-4)
    np.testing.assert_array_equal(baselines.held(line, 12)[12:], np.broadcast_to(line[11], (12, 1, 1)))
    assert np.abs(baselines.autoregressed(turning, 12) - turning)[12:16].max() < 0.05
    assert np.isfinite(baselines.autoregressed(np.zeros_like(line), 12)).all()


def test_methods_that_know_more_err_less() -> None:
    known = estimated(RECIPE, 60)

    def shown(task: str) -> Iterator[tuple[Drawn, Complex]]:
        return ((each, each.channel.values) for each in drawn(RECIPE, task, 5, 30))

    found = measure(ways(ESTIMATE, RECIPE, known), shown(ESTIMATE), (0,))
    lines, some, all_ = (each[0] for each in found.values())
    assert lines > some + 0.5
    assert some > all_
    ahead = measure(ways(PREDICT, RECIPE, known), shown(PREDICT), (1, 4))
    assert ahead["LMMSE, true covariance"][1] == min(each[1] for each in ahead.values())
    assert all(each[1] < each[4] for each in ahead.values())


@pytest.mark.slow
def test_the_bench_measures_every_cell() -> None:
    told: list[tuple[int, int]] = []
    rows = bench(10, told=lambda done, of: told.append((done, of)))
    assert told == [(i + 1, len(told)) for i in range(len(told))]
    assert len({(row.task, row.method, row.snr_db, row.speed_kmh, row.horizon) for row in rows}) == len(rows)
    assert all(np.isfinite(row.nmse_db) for row in rows)
