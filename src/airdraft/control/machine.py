"""A device's machine that learns by an `Estimator` and plans by `plan`, as all shells use it."""

from __future__ import annotations

from collections.abc import Callable

from airdraft.control.estimate import Estimator
from airdraft.control.plan import plan
from airdraft.core import schemes
from airdraft.core.device import DeviceMachine
from airdraft.core.drafting import Drafter, ModelDrafter
from airdraft.core.messages import Hello


def device_machine(
    hello: Hello,
    draft_context: int,
    now: float,
    make: Callable[..., schemes.Scheme] = schemes.make,
    drafter: Callable[[], Drafter] = ModelDrafter,
) -> DeviceMachine:
    """The device's end of one connection. The arguments are those of `DeviceMachine`."""
    return DeviceMachine(hello, draft_context, now, Estimator(), plan, make, drafter)
