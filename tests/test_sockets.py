"""The time of the loop that a connection may take."""

from __future__ import annotations

from airdraft.sockets import BURST_S, LoopShare


def test_little_work_is_not_rested_for() -> None:
    assert LoopShare().spend(BURST_S / 2) == 0


def test_work_to_come_is_rested_for_as_work_done_is() -> None:
    charged = LoopShare()
    for _ in range(10):
        charged.charge(BURST_S)
    assert charged.spend(0.0) > 9 * BURST_S
    charged.rested()
