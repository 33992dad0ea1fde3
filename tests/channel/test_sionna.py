"""Our channels against Sionna's: the same profiles give the same powers by delay, Doppler and distribution of power."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
tr38901 = pytest.importorskip("sionna.phy.channel.tr38901")

from airdraft.channel.generate import ChannelRecipe, channels  # noqa: E402
from airdraft.channel.profiles import TDL, profile  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SPEED_KMH, DELAY_SPREAD_S, COUNT = 60.0, 100e-9, 600
RECIPE = ChannelRecipe(("TDL-A",), (SPEED_KMH, SPEED_KMH), (DELAY_SPREAD_S, DELAY_SPREAD_S), slots=12, antennas=1)


def theirs(name: str) -> Any:
    """Sionna's model of a TDL profile, at the same speed and delay spread."""
    speed_mps = SPEED_KMH / 3.6
    return tr38901.TDL(
        name[-1], DELAY_SPREAD_S, RECIPE.carrier_hz, num_sinusoids=20, min_speed=speed_mps, max_speed=speed_mps
    )


@pytest.mark.parametrize("name", TDL)
def test_delays_powers_and_rice_factor_are_the_same(name: str) -> None:
    model, like = theirs(name), profile(name)
    ours: dict[float, float] = {}
    for delay, power in zip(like.delays, like.powers, strict=True):
        ours[round(float(delay), 4)] = ours.get(round(float(delay), 4), 0) + float(power)
    found: dict[float, float] = {}
    for delay, power in zip(model.delays.numpy() / DELAY_SPREAD_S, model.mean_powers.numpy(), strict=True):
        found[round(float(delay), 4)] = found.get(round(float(delay), 4), 0) + float(power)
    assert sorted(ours) == pytest.approx(sorted(found), abs=1e-3)
    assert [ours[each] for each in sorted(ours)] == pytest.approx([found[each] for each in sorted(found)], rel=1e-3)
    if like.los:  # theirs is of the first tap alone
        assert like.powers[0] / like.powers[1] == pytest.approx(float(model.k_factor), rel=1e-2)


@pytest.mark.parametrize("name", ["TDL-A", "TDL-D"])
def test_covariances_and_the_spread_of_power_are_the_same(name: str) -> None:
    torch.manual_seed(0)
    gains, delays = theirs(name)(COUNT, RECIPE.slots, 1 / RECIPE.slot_s)
    taps = gains[:, 0, 0, 0, 0].numpy()  # [channels, taps, slots]
    frequencies_hz = np.arange(RECIPE.subcarriers) * RECIPE.spacing_hz
    turned = np.exp(-2j * np.pi * np.outer(delays[0, 0, 0].numpy(), frequencies_hz))
    their_values = np.einsum("nlt,lf->ntf", taps, turned)
    made = channels(replace(RECIPE, profiles=(name,)), 0)
    our_values = np.stack([each.values[:, :, 0] for each in itertools.islice(made, COUNT)])

    def statistics(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        over_time = np.einsum("ntf,nf->t", values, values[:, 0].conj()) / (len(values) * values.shape[2])
        over_subcarriers = np.einsum("ntf,nt->f", values, values[:, :, 0].conj()) / (len(values) * values.shape[1])
        return over_time, over_subcarriers, np.quantile(np.abs(values[:, 0, 0]), (0.1, 0.5, 0.9))

    for ours, found in zip(statistics(our_values), statistics(their_values), strict=True):
        np.testing.assert_allclose(ours, found, atol=0.12)
    assert np.abs(statistics(our_values)[0] - 1).max() > 0.5  # channels move
