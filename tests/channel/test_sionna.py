"""Our channels against Sionna's (`airdraft[sionna]`): the same profiles give the same powers by delay, Rice factors,
covariances over time, which are those of the Doppler spectrum, and over subcarriers, and distributions of power.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from airdraft.channel.generate import ChannelRecipe, channels
from airdraft.channel.profiles import CDL, TDL, profile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("sionna") is None, reason="needs airdraft[sionna]"),
]

SPEED_KMH, DELAY_SPREAD_S, COUNT = 60.0, 100e-9, 3000
RECIPE = ChannelRecipe(("TDL-A",), (SPEED_KMH, SPEED_KMH), (DELAY_SPREAD_S, DELAY_SPREAD_S), slots=12, antennas=1)


def theirs(name: str) -> Any:
    """Sionna's model of a profile, at the same speed and delay spread, with one antenna at both ends."""
    from sionna.phy.channel import tr38901  # seconds: only where it is used

    speed_mps = SPEED_KMH / 3.6
    if name in TDL:
        return tr38901.TDL(
            name[-1], DELAY_SPREAD_S, RECIPE.carrier_hz, num_sinusoids=20, min_speed=speed_mps, max_speed=speed_mps
        )
    antenna = tr38901.PanelArray(1, 1, "single", "V", "omni", RECIPE.carrier_hz)
    headings = np.random.default_rng(0).uniform(0, 2 * np.pi, COUNT)  # horizontal, as ours
    velocities = speed_mps * np.stack([np.cos(headings), np.sin(headings), 0 * headings], 1)
    return tr38901.CDL(
        name[-1], DELAY_SPREAD_S, RECIPE.carrier_hz, antenna, antenna, ut_velocity=velocities.astype(np.float32)
    )


def paths(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Gains [channels, paths, slots] and delays [paths] in s of channels that Sionna draws."""
    from sionna.phy import config

    config.seed = 0
    gains, delays = theirs(name)(COUNT, RECIPE.slots, 1 / RECIPE.slot_s)
    return gains[:, 0, 0, 0, 0].numpy(), delays[0, 0, 0].numpy()


def by_delay(delays: NDArray[Any], powers: NDArray[Any]) -> dict[float, float]:
    """Powers by delay, in delay spreads."""
    found: dict[float, float] = {}
    for delay, power in zip(delays, powers, strict=True):
        found[round(float(delay), 4)] = found.get(round(float(delay), 4), 0) + float(power)
    return found


@pytest.mark.parametrize("name", TDL)
def test_delays_powers_and_rice_factor_are_the_same(name: str) -> None:
    model, like = theirs(name), profile(name)
    ours = by_delay(like.delays, like.powers)
    found = by_delay(model.delays.numpy() / DELAY_SPREAD_S, model.mean_powers.numpy())
    assert sorted(ours) == pytest.approx(sorted(found), abs=1e-3)
    assert [ours[each] for each in sorted(ours)] == pytest.approx([found[each] for each in sorted(found)], rel=1e-3)
    if like.los:  # theirs is of the first tap alone
        assert like.powers[0] / like.powers[1] == pytest.approx(float(model.k_factor), rel=1e-2)


@pytest.mark.parametrize("name", CDL)
def test_clusters_that_are_drawn_have_the_delays_and_powers_of_the_profile(name: str) -> None:
    like, (gains, delays) = profile(name), paths(name)
    ours = by_delay(like.delays, like.powers)
    found = by_delay(delays / DELAY_SPREAD_S, np.mean(np.abs(gains) ** 2, axis=(0, 2)))
    assert sorted(ours) == pytest.approx(sorted(found), abs=2e-3)
    np.testing.assert_allclose([found[each] for each in sorted(found)], [ours[each] for each in sorted(ours)], rtol=0.1)
    assert sum(found.values()) == pytest.approx(1, abs=0.05)
    k_factor = float(theirs(name)._get_k_factor(1).ravel()[0])
    assert like.rice() == pytest.approx(k_factor, rel=1e-3)


@pytest.mark.parametrize("name", ["TDL-A", "TDL-D", "CDL-A", "CDL-C", "CDL-D"])
def test_covariances_and_the_spread_of_power_are_the_same(name: str) -> None:
    taps, delays = paths(name)
    frequencies_hz = np.arange(RECIPE.subcarriers) * RECIPE.spacing_hz
    turned = np.exp(-2j * np.pi * np.outer(delays, frequencies_hz))
    their_values = np.einsum("nlt,lf->ntf", taps, turned)
    made = channels(replace(RECIPE, profiles=(name,)), 0)
    our_values = np.stack([each.values[:, :, 0] for each in itertools.islice(made, COUNT)])

    def statistics(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        over_time = np.einsum("ntf,nf->t", values, values[:, 0].conj()) / (len(values) * values.shape[2])
        over_subcarriers = np.einsum("ntf,nt->f", values, values[:, :, 0].conj()) / (len(values) * values.shape[1])
        return over_time, over_subcarriers, np.quantile(np.abs(values[:, 0, 0]), (0.1, 0.5, 0.9))

    for ours, found in zip(statistics(our_values), statistics(their_values), strict=True):
        np.testing.assert_allclose(ours, found, atol=0.1)
    assert np.abs(statistics(our_values)[0] - 1).max() > 0.5  # channels move
