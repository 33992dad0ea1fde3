"""The device's machine for all shells, with an `Estimator` as learner and `plan` for policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from airdraft.control.estimate import PRIOR, Estimator
from airdraft.control.forecast import Forecaster
from airdraft.control.foresight import Foreseeing
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
    forecast: Callable[[], Forecaster] | None = None,
) -> DeviceMachine:
    """Make the device's end of one connection. See `DeviceMachine` for the arguments.

    lookup: whether the device copies from prompt and text, too; without a draft model (`draft_context` 0), it only does
    that. A `drafter` of one's own takes the place of both, and has the draft model to ask, if there is one. `forecast`
    makes a forecaster of the link; with one the device drafts nothing while drafts would come too late.
    """
    prior = COPYING if (lookup or drafter) and not draft_context else PRIOR
    learner = Estimator(prior) if forecast is None else Foreseeing(forecast(), prior)
    reach, usual = drafting(draft_context, lookup, learner.facts)
    if drafter is not None:
        reach = draft_context or ENDLESS
    return DeviceMachine(hello, reach, now, learner, plan, make, drafter or usual, wide)
