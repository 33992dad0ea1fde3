"""The tree in a cache, held against lists of what leads to each position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import ModelError
from airdraft.models.lineage import Lineage

Lines = list[tuple[int, ...]]
"""For each position all that lead to it, itself last, each a number of its own."""


def agrees(lineage: Lineage, lines: Lines) -> None:
    """It says of every position what the list says, and its trunk is as long as it may be."""
    at = {line[-1]: i for i, line in enumerate(lines)}
    assert lineage.length == len(lines)
    for start in {0, lineage.trunk, len(lines) // 2}:
        assert lineage.depths(start) == [len(line) - 1 for line in lines[start:]]
        seen = ~lineage.hidden(start)
        for line, row in zip(lines[start:], seen, strict=True):
            columns = [*range(min(len(line), lineage.trunk)), *(lineage.trunk + np.flatnonzero(row)).tolist()]
            assert columns == [at[each] for each in line]
    places = [[at[each] for each in line] for line in lines]
    trunk = max(
        end for end in range(len(lines) + 1)
        if all(place[:end] == list(range(min(end, i + 1))) for i, place in enumerate(places))
    )  # fmt: skip
    assert lineage.trunk == trunk
    for i, line in enumerate(lines):
        assert lineage.parent(i) == (at[line[-2]] if len(line) > 1 else -1)
        assert lineage.path(i) == [at[each] for each in line if at[each] >= trunk]


@given(st.data())
def test_whatever_grows_and_is_dropped(data: st.DataObject) -> None:
    lineage, lines, fresh = Lineage(), Lines(), 0
    for _ in range(data.draw(st.integers(1, 6))):
        keep = data.draw(st.integers(0, len(lines)))
        picks = list[int]()
        for at in range(keep, len(lines)):  # of what may stay, some
            above = lineage.parent(at)
            if (above < keep or above - keep in picks) and data.draw(st.booleans()):
                picks.append(at - keep)
        lines = [*lines[:keep], *(lines[keep + pick] for pick in picks)]
        n = data.draw(st.integers(0, 4))
        chain = data.draw(st.booleans())
        lowest = -len(lines) - 1
        parents = None if chain else [data.draw(st.integers(lowest, at - 1)) for at in range(n)]
        lineage = lineage.kept(keep, picks)
        agrees(lineage, lines)
        stay = len(lines)
        for at in range(n):
            above = stay + (at - 1 if parents is None else parents[at])
            lines.append((*(lines[above] if above >= 0 else ()), fresh))
            fresh += 1
        before, lineage = lineage, lineage.grown(n, parents)
        agrees(lineage, lines)
        if n:  # told as a part would tell it, the same comes out
            again = before.grown(n, lineage.fed(before.length, lineage.length))
            assert again == lineage


@pytest.mark.parametrize(("keep", "picks"), [(1, (1,)), (0, (0, 2)), (1, (3,)), (1, (1, 0)), (1, (-1,)), (2, (0, 0))])
def test_what_cannot_stay_is_refused(keep: int, picks: tuple[int, ...]) -> None:
    lineage = Lineage(1).grown(3, (-1, 0, -1))  # 0, 1 after it, 2 after 1, 3 after 0
    with pytest.raises(ModelError):
        lineage.kept(keep, picks)


@pytest.mark.parametrize("parents", [(-1,), (-4, 0), (0, 0), (-1, 1)])
def test_what_is_no_tree_is_refused(parents: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="no tree"):
        Lineage(2).grown(2, parents)
