"""Channels have the statistics of TR 38.901's profiles, which closed forms give: delays, Doppler, Rayleigh and Rice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from airdraft.channel.baselines import lags, true_subcarriers, true_time
from airdraft.channel.generate import ChannelRecipe, channels, rays, shift_hz
from airdraft.channel.profiles import CDL, PROFILES, TDL, profile
from airdraft.errors import BadParameterError

from ..suites import mostly_slow


def drawn(recipe: ChannelRecipe, count: int, seed: int = 0) -> NDArray[np.complex64]:
    """Draw channels, [count, slots, subcarriers, antennas]."""
    return np.stack([each.values for each in itertools.islice(channels(recipe, seed), count)])


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_power_and_delay_spread_of_one(name: str) -> None:
    like = profile(name)
    assert like.powers.sum() == pytest.approx(1)
    assert like.spread() == pytest.approx(1, abs=0.01)
    assert like.los == name.endswith(("D", "E"))


BARS = {"TDL-A": 0.06, "TDL-D": 0.025, "CDL-C": 0.13, "CDL-E": 0.03}
"""Some four deviations of 400 channels, whose antennas may be as one."""


@pytest.mark.parametrize("name", mostly_slow(BARS, often=["TDL-A"]))
def test_the_covariance_over_subcarriers_is_the_transform_of_the_powers_by_delay(name: str) -> None:
    values = drawn(ChannelRecipe((name,), delay_spread_s=(3e-7, 3e-7), slots=1, subcarriers=24, antennas=8), 400)[:, 0]
    found = np.einsum("nfa,nga->fg", values, values.conj()) / (400 * 8)
    apart = lags(24, 90e3)
    assert np.abs(found - true_subcarriers(profile(name), 3e-7, apart)).max() < BARS[name]
    assert np.abs(found - true_subcarriers(profile(name), 1.5e-7, apart)).max() > 1.5 * BARS[name]


@pytest.mark.parametrize("name", mostly_slow(["TDL-B", "TDL-E"], often=["TDL-E"]))
def test_the_covariance_over_time_is_that_of_clarke(name: str) -> None:
    recipe = ChannelRecipe((name,), (60.0, 60.0), slots=20, subcarriers=1, antennas=16)
    values = drawn(recipe, 400)[:, :, 0]
    found = np.einsum("nta,nsa->ts", values, values.conj()) / (400 * 16)
    apart = lags(20, recipe.slot_s)
    assert np.abs(found - true_time(profile(name), shift_hz(recipe, 60.0), apart)).max() < 0.08
    assert np.abs(found - true_time(profile(name), shift_hz(recipe, 30.0), apart)).max() > 0.12


@pytest.mark.parametrize("name", CDL)
def test_clusters_shift_by_less_than_the_largest_shift_whatever_the_direction(name: str) -> None:
    for seed in range(20):
        found = rays(profile(name), 100.0, 1e-7, 4, np.random.default_rng(seed))
        assert np.abs(found.shifts_hz).max() <= 100.0
        assert found.powers.sum() == pytest.approx(1)
        np.testing.assert_allclose(np.abs(found.response), 1)


@pytest.mark.parametrize("name", ["TDL-A", "TDL-D"])
def test_amplitudes_are_of_rayleigh_without_a_direct_path_and_of_rice_with_one(name: str) -> None:
    factor = profile(name).rice()
    amplitudes = np.abs(drawn(ChannelRecipe((name,), slots=1, subcarriers=1, antennas=1), 600).ravel())

    def likely(rice: float) -> float:
        deviation = np.sqrt(0.5 / (1 + rice))
        return float(stats.kstest(amplitudes, stats.rice(np.sqrt(2 * rice), scale=deviation).cdf).pvalue)

    assert likely(factor) > 0.01
    assert likely(0.0 if factor else 8.0) < 1e-6


def test_a_row_of_antennas_sees_clusters_under_angles_and_taps_under_none() -> None:
    for name, least, most in (("CDL-D", 0.8, 1.01), ("TDL-A", 0.0, 0.2)):
        values = drawn(ChannelRecipe((name,), slots=1, subcarriers=1), 300)[:, 0, 0]
        neighbours = np.abs(np.mean(values[:, :-1] * values[:, 1:].conj() / np.abs(values[:, :-1] * values[:, 1:]), 1))
        together = np.abs(np.mean(values[:, 0] * values[:, 1].conj())) if name in TDL else float(np.mean(neighbours))
        assert least <= together <= most, name


def test_noise_is_as_loud_as_the_snr_says_and_channels_are_the_same_wherever_one_begins() -> None:
    recipe = ChannelRecipe(PROFILES, (0, 120), (1e-8, 3e-7), (-5, 25))
    four = list(itertools.islice(channels(recipe, 3), 4))
    third = next(channels(recipe, 3, 2))
    np.testing.assert_array_equal(four[2].values, third.values)
    assert (four[2].profile, four[2].snr_db) == (third.profile, third.snr_db)
    for each in four:
        noise = each.observed(np.random.default_rng(0)) - each.values
        assert -10 * np.log10(np.mean(np.abs(noise) ** 2)) == pytest.approx(each.snr_db, abs=0.3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"profiles": ()}, {"profiles": ("TDL-F",)}, {"speed_kmh": (5.0, 3.0)}, {"snr_db": (float("nan"), 3.0)},
        {"delay_spread_s": (0.0, 1e-7)}, {"slots": 0}, {"slots": 4096, "subcarriers": 4096}, {"slot_s": float("inf")},
    ],
)  # fmt: skip
def test_an_impossible_recipe_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadParameterError, match=r"give|choose"):
        ChannelRecipe(**wrong)  # type: ignore[arg-type]
