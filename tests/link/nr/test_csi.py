"""CSI of a cell is the channel that its bytes meet."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from airdraft.channel.features import LEAST_POWER, silent
from airdraft.link.nr import NrLink
from airdraft.link.nr.csi import SLOTS


def test_there_is_none_before_the_first_bytes() -> None:
    assert NrLink().uplink().csi(0.0) is None


def test_its_power_is_the_snr_of_the_bytes() -> None:
    link = NrLink(outage_interval_s=1.0, seed=3)
    pipe, times_s = link.uplink(), np.arange(0.1, 6.0, 0.02)
    pipe.send(0.0, 100)
    measured = [pipe.csi(float(at_s)) for at_s in times_s]
    again, found = link.uplink(), []
    again.send(0.0, 100)
    for at_s, csi in zip(times_s, measured, strict=True):
        assert csi is not None
        assert csi.shape == (SLOTS, 32, 4)
        again.send(float(at_s), 100)
        here_s = at_s + again._phase_s  # by the link's own clock
        snr_db = [again.mac._snr_db(here_s - slot * 0.5e-3, link.prbs) for slot in range(SLOTS)]
        wanted = np.mean(10 ** (np.array(snr_db) / 10))
        found.append(wanted < LEAST_POWER)
        np.testing.assert_allclose(np.mean(np.abs(csi) ** 2), wanted + 1, rtol=0.15)
        assert silent(csi) == found[-1]
    assert 0 < np.mean(found) < 0.5


def test_it_is_the_same_again_and_changes_nothing_of_the_link() -> None:
    link = NrLink(seed=1)
    looked, plain = link.uplink(), link.uplink()
    for at_s in np.arange(0.0, 2.0, 0.01):
        assert looked.send(float(at_s), 50) == plain.send(float(at_s), 50)
        looked.csi(float(at_s))
    first, second = link.uplink(), link.uplink()
    for pipe in (first, second):
        pipe.send(1.0, 10)
    np.testing.assert_array_equal(first.csi(1.5), second.csi(1.5))


def test_it_turns_as_fast_as_the_device_moves() -> None:
    """Correlation of neighbouring slots: near 1 for one who walks, and J0 of the Doppler shift for a car."""
    correlations = []
    for speed_mps in (0.8, 30.0):
        pipe, products = NrLink(speed_mps=speed_mps, outage_interval_s=float("inf")).uplink(), []
        pipe.send(0.0, 10)
        for at_s in np.arange(0.1, 4.0, 0.05):
            csi = pipe.csi(float(at_s))
            assert csi is not None
            unit = csi / np.sqrt(np.mean(np.abs(csi) ** 2, axis=(1, 2), keepdims=True))
            products += [np.mean(here * before.conj()).real for before, here in pairwise(unit[::2])]
        correlations.append(np.mean(products))
    assert correlations[0] > 0.9
    assert correlations[1] < correlations[0] - 0.2
