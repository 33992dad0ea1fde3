"""The device's machine for all shells, with an `Estimator` as learner and `plan` for policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from airdraft.control.estimate import PRIOR, Estimator
from airdraft.control.plan import plan
from airdraft.core import schemes
from airdraft.core.device import DeviceMachine
from airdraft.core.drafting import Drafter
from airdraft.core.messages import Hello
from airdraft.drafters import ENDLESS, drafting

COPYING = replace(PRIOR, draft_s=0.001)
"""The facts before any measurement of a device without a draft model: copies take no time, and packets of them some."""


def device_machine(
    hello: Hello,
    draft_context: int,
    now: float,
    make: Callable[..., schemes.Scheme] = schemes.make,
    drafter: Callable[[], Drafter] | None = None,
    lookup: bool = False,
    wide: bool = False,
) -> DeviceMachine:
    """Make the device's end of one connection. See `DeviceMachine` for the arguments.

    lookup: whether the device copies from prompt and text, too; without a draft model (`draft_context` 0), it only does
    that. A `drafter` of one's own takes the place of both, and has the draft model to ask, if there is one.
    """
    learner = Estimator(COPYING if (lookup or drafter) and not draft_context else PRIOR)
    reach, usual = drafting(draft_context, lookup, learner.facts)
    if drafter is not None:
        reach = draft_context or ENDLESS
    return DeviceMachine(hello, reach, now, learner, plan, make, drafter or usual, wide)
