"""Which tests run often, and which in the slow suite only."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[str], often: Container[str]) -> list[Any]:
    """Make parameters of values; all but those in `often` go to the slow suite.

    One or two values of a class run often, so that a fault of the whole class is found at once.
    """
    return [pytest.param(value, marks=() if value in often else pytest.mark.slow) for value in values]
