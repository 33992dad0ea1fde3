"""The CPU that tests run on: how fast it is now, and what it can do."""

from __future__ import annotations

import time

import pytest
from numpy._core._multiarray_umath import __cpu_features__  # type: ignore[attr-defined]

needs_avx2 = pytest.mark.skipif(
    not __cpu_features__.get("AVX2", True),
    reason="without AVX2, ONNX Runtime rounds by the width of a product, of which an edge tells the share",
)


def slowness() -> float:
    """How many times as long as 25 ms this CPU now takes to count to a million, the least of five; at least 1.

    A bound of CPU time is one of a CPU that takes as long, and of a slower one so many times that.
    """
    return max(1.0, min(_counting_s() for _ in range(5)) / 0.025)


def _counting_s() -> float:
    began_s, count = time.process_time(), 0
    for each in range(1_000_000):
        count += each
    return time.process_time() - began_s
