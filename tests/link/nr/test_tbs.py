"""Transport block sizes against those of a real scheduler, and what the standard's rules imply."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import BadParameterError
from airdraft.link.nr.tbs import MCS, SMALL_TBS, transport_block_bits


@pytest.mark.parametrize(
    ("mcs", "sizes"),
    [
        (0, (176, 1864, 9984)),
        (4, (480, 4736, 25608)),
        (10, (1032, 10504, 56368)),
        (16, (2024, 20496, 108552)),
        (22, (3104, 31240, 167976)),
        (27, (4096, 42016, 225480)),
    ],
)
def test_known_sizes(mcs: int, sizes: tuple[int, int, int]) -> None:
    assert tuple(transport_block_bits(prbs, mcs) for prbs in (5, 51, 273)) == sizes


@given(st.integers(1, 275), st.integers(0, len(MCS) - 1))
def test_close_to_what_the_resources_hold(prbs: int, mcs: int) -> None:
    bits_per_symbol, rate_1024 = MCS[mcs]
    information = 156 * prbs * bits_per_symbol * rate_1024 / 1024
    size = transport_block_bits(prbs, mcs)
    assert size % 8 == 0
    assert 0.93 * information - 24 <= size <= max(24, 1.07 * information + 24)


@pytest.mark.parametrize("mcs", range(len(MCS)))
def test_more_resources_hold_no_less(mcs: int) -> None:
    sizes = [transport_block_bits(prbs, mcs) for prbs in range(1, 274)]
    assert all(before <= after for before, after in pairwise(sizes))


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("prbs", [30, 106, 273])
def test_code_blocks_are_equal_and_small_enough(prbs: int, layers: int) -> None:
    """TS 38.212 §5.2.2: with its 24-bit checksum a large block divides evenly into whole bytes of code blocks."""
    for mcs, (_, rate_1024) in enumerate(MCS):
        size = transport_block_bits(prbs, mcs, layers=layers) + 24
        most = 3816 if rate_1024 <= 256 else 8424
        if size > 8424:
            assert any(
                size % (8 * count) == 0 and size / count <= most
                for count in range(-(-size // most), -(-size // most) + 2)
            )


def test_the_small_sizes() -> None:
    """Table 5.1.3.2-1 as it is printed: its steps are not regular, so no rule stands for it."""
    assert SMALL_TBS == (
        24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184, 192, 208, 224,
        240, 256, 272, 288, 304, 320, 336, 352, 368, 384, 408, 432, 456, 480, 504, 528, 552, 576, 608, 640, 672, 704,
        736, 768, 808, 848, 888, 928, 984, 1032, 1064, 1128, 1160, 1192, 1224, 1256, 1288, 1320, 1352, 1416, 1480,
        1544, 1608, 1672, 1736, 1800, 1864, 1928, 2024, 2088, 2152, 2216, 2280, 2408, 2472, 2536, 2600, 2664, 2728,
        2792, 2856, 2976, 3104, 3240, 3368, 3496, 3624, 3752, 3824,
    )  # fmt: skip


def test_what_the_table_lacks_is_refused() -> None:
    for mcs in (-1, 29):
        with pytest.raises(BadParameterError, match=f"mcs is {mcs}"):
            transport_block_bits(1, mcs)
    with pytest.raises(BadParameterError, match="prbs is 0"):
        transport_block_bits(0, 0)
