"""A jammed cell: jams come as often as asked and last as long, bytes wait for their end, and CSI hears them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from airdraft.errors import BadParameterError
from airdraft.link.nr import NrLink
from airdraft.link.nr.jam import Jammer
from airdraft.link.presets import preset


def test_jams_come_as_often_and_last_as_long_as_asked() -> None:
    jammer = Jammer(4.0, 1.0, 20.0, np.random.default_rng(1))
    found = [jammer.power(0.01 * at) > 0 for at in range(400_000)]
    begun = sum(now and not before for before, now in pairwise(found))
    assert np.mean(found) == pytest.approx(0.2, abs=0.03)
    assert begun == pytest.approx(4000 / 5, rel=0.1)
    assert max(map(jammer.power, (3999.0, 3999.5, 3998.0))) in (0.0, 100.0)  # it may be asked of what has just been
    assert Jammer(math.inf, 1.0, 20.0, np.random.default_rng(1)).power(1e9) == 0.0


def test_jams_change_nothing_else_of_a_link() -> None:
    calm, rare = NrLink(seed=3).uplink(), NrLink(seed=3, jam_interval_s=1e9).uplink()
    assert [calm.send(0.1 * at, 300) for at in range(200)] == [rare.send(0.1 * at, 300) for at in range(200)]


def test_bytes_wait_for_the_end_of_a_jam_and_a_weak_one_costs_little() -> None:
    def waits(link: NrLink) -> np.ndarray:
        pipe = link.uplink()
        return np.array([pipe.send(0.05 * at, 100) - 0.05 * at for at in range(2000)])

    calm, weak, strong = (
        waits(NrLink(seed=2, outage_interval_s=math.inf, jam_interval_s=5.0, jam_db=power)) for power in (-10, 5, 30)
    )
    assert np.quantile(calm, 0.99) < 0.1
    assert np.quantile(weak, 0.9) < 0.1
    assert np.quantile(strong, 0.99) > 0.5


def test_csi_hears_a_jam() -> None:
    pipe = NrLink(seed=2, outage_interval_s=math.inf, jam_interval_s=3.0, jam_db=30.0).uplink()
    assert not pipe.jammed(0.0)  # it is not used yet
    pipe.send(0.0, 1)
    power = {False: list[float](), True: list[float]()}
    for at in range(100):
        jammed, csi = pipe.jammed(0.1 * at), pipe.csi(0.1 * at)
        assert csi is not None
        power[jammed].append(float(np.mean(np.abs(csi[-1]) ** 2)))
    assert min(power[True]) > 800
    assert max(power[False]) < 800


@pytest.mark.parametrize("bad", ["jams=0", "jam=nan", "jam=100"])
def test_impossible_jams_are_refused(bad: str) -> None:
    with pytest.raises(BadParameterError, match="jam_"):
        preset(f"nr:{bad}")
