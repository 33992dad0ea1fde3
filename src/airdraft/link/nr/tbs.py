"""The size of a transport block, by 3GPP TS 38.214 (release 17), §5.1.3.1 and §5.1.3.2."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

from airdraft.errors import BadParameterError

MCS: tuple[tuple[int, int], ...] = (
    *((2, rate) for rate in (120, 157, 193, 251, 308, 379, 449, 526, 602, 679)),
    *((4, rate) for rate in (340, 378, 434, 490, 553, 616, 658)),
    *((6, rate) for rate in (438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948)),
)
"""Bits per symbol and 1024 times the code rate of MCS 0 to 28: table 5.1.3.1-1, up to 64QAM."""

SMALL_TBS: tuple[int, ...] = (
    *range(24, 193, 8), *range(208, 385, 16), *range(408, 577, 24), *range(608, 769, 32), *range(808, 929, 40),
    984, 1032, 1064, *range(1128, 1353, 32), *range(1416, 1929, 64), 2024, *range(2088, 2281, 64),
    *range(2408, 2857, 64), 2976, 3104, *range(3240, 3753, 128), 3824,
)  # fmt: skip
"""The transport block sizes up to 3824 bits, rising: table 5.1.3.2-1."""

_MOST_RE = 156
"""Most resource elements of one PRB that count."""


@lru_cache(maxsize=4096)
def transport_block_bits(prbs: int, mcs: int, layers: int = 1, symbols: int = 14, dmrs_re: int = 12) -> int:
    """Compute the size in bits of the transport block of `prbs` resource blocks in one slot.

    `symbols` of the slot are allocated, and `dmrs_re` resource elements of each PRB hold reference signals. There is no
    other overhead. Raises: `BadParameterError` for an MCS outside the table, or no PRB.
    """
    if not 0 <= mcs < len(MCS):
        raise BadParameterError(f"mcs is {mcs}: give 0 to {len(MCS) - 1}")
    if prbs < 1:
        raise BadParameterError(f"prbs is {prbs}: give at least 1")
    bits_per_symbol, rate_1024 = MCS[mcs]
    resource_elements = min(_MOST_RE, 12 * symbols - dmrs_re) * prbs
    scaled = resource_elements * rate_1024 * bits_per_symbol * layers  # 1024 · N_info, whole
    if scaled <= 3824 * 1024:
        step = 1 << max(3, _floor_log2(scaled / 1024) - 6)
        wanted = max(24, step * (scaled // (1024 * step)))
        return SMALL_TBS[bisect_left(SMALL_TBS, wanted)]
    step = 1 << _floor_log2(scaled / 1024 - 24) - 5
    # Halves round up. Whole numbers avoid the rounding of floats.
    rounded = max(3840, step * ((2 * (scaled - 24 * 1024) + 1024 * step) // (2 * 1024 * step)))
    if 4 * rate_1024 <= 1024:
        code_blocks = -(-(rounded + 24) // 3816)
    elif rounded > 8424:
        code_blocks = -(-(rounded + 24) // 8424)
    else:
        code_blocks = 1
    return 8 * code_blocks * -(-(rounded + 24) // (8 * code_blocks)) - 24


def _floor_log2(value: float) -> int:
    return math.frexp(value)[1] - 1
