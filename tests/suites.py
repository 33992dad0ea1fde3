"""Which tests run often, and which in the slow suite only."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

WHOLE = 100
"""Examples of a law that asks for no number, in the profile `thorough`."""
FEWEST = 5
"""Examples below which a law would only see the simplest."""


def mostly_slow(values: Iterable[Any], often: Container[Any]) -> list[Any]:
    """Make parameters of values; all but those in `often` go to the slow suite.

    One or two values of a class run often, so that a fault of the whole class is found at once.
    """
    return [pytest.param(value, marks=() if value in often else pytest.mark.slow) for value in values]


def examples(number: int, suppress_health_check: Iterable[HealthCheck] = (), **more: Any) -> settings:
    """Make settings of `number` examples in the profile `thorough`, and in others of as large a share of them.

    Health checks that the profile suppresses stay suppressed: how long an example is drawn for says nothing.
    """
    profile = settings()
    return settings(
        max_examples=max(min(FEWEST, number), number * profile.max_examples // WHOLE),
        suppress_health_check={*profile.suppress_health_check, *suppress_health_check}, **more,
    )  # fmt: skip
