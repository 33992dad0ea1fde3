"""The device's machine for all shells, with an `Estimator` as learner and `plan` for policies."""

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
    """Make the device's end of one connection. See `DeviceMachine` for the arguments."""
    return DeviceMachine(hello, draft_context, now, Estimator(), plan, make, drafter)
