"""A draft model at the edge: it runs as long as that saves time, by what this text has shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from airdraft.core.drafting import Ask
from airdraft.core.edge import Pace
from airdraft.proposers.draft import MOST, EdgeDraft

TEXT = list(range(20))
ROW = np.zeros(1)


class Told:
    """A helper whose model is told what it drafts: 100 plus the position of each draft."""

    def __init__(self, verify_s: float, draft_s: float, context: int = 9999) -> None:
        self.text = list(TEXT)
        self.pace = Pace(verify_s, draft_s)
        self.helper = EdgeDraft(lambda row, drafts: 100 + len(self.text) + len(drafts), self.pace, context)
        self.asked: list[Ask] = []

    def drafts(self, device: Sequence[int] = (), proposed: float = 0.0, most: int = 32) -> Sequence[int]:
        """What is verified in the end."""
        while (ask := self.helper.want(self.text, device, proposed, most)) is not None:
            self.asked.append(ask)
            self.helper.told(ROW)
        return self.helper.instead(self.text, device, proposed, most)


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.01, 9, MOST), (0.1, 3, 6), (0.3, 1, 3), (1.0, 0, 0)])
def test_the_dearer_a_draft_the_fewer_are_made(share: float, fewest: int, most: int) -> None:
    told = Told(0.03, 0.03 * share)
    drafts = told.drafts()
    assert fewest <= len(drafts) <= most
    assert list(drafts) == [100 + at for at in range(20, 20 + len(drafts))]
    assert len(told.asked) == len(drafts)
    assert [ask.keep for ask in told.asked] == [0, *range(20, 20 + len(drafts) - 1)][: len(drafts)]


def test_it_waits_until_it_is_known_how_long_a_forward_takes() -> None:
    assert not Told(0.0, 0.001).drafts()
    assert Told(0.03, 0.0).drafts()


def test_it_learns_from_the_text() -> None:
    bad, good = Told(0.03, 0.003), Told(0.03, 0.003)
    for told, right in ((bad, False), (good, True)):
        for _ in range(30):
            drafts = list(told.drafts())
            told.text += [*drafts, 7] if right else [7]
    assert len(good.drafts()) > len(bad.drafts())
    assert len(bad.drafts()) <= 1


def test_it_tries_again_after_a_while() -> None:
    told, tried = Told(0.03, 0.003), []
    for _ in range(200):
        tried.append(len(told.drafts()))
        told.text.append(7)
    assert 0 < sum(tried[100:]) < 40


def test_it_rests_where_as_much_is_had_for_nothing() -> None:
    assert Told(0.03, 0.003).drafts(proposed=0.4)
    assert not Told(0.03, 0.003).drafts(proposed=8.0)
    assert not Told(0.03, 0.003).drafts(device=[1] * 10)
    assert not Told(0.03, 0.003).drafts(most=0)


def test_it_drafts_on_behind_the_device_and_over_a_device_that_is_always_wrong() -> None:
    told = Told(0.03, 0.003)
    drafts = list(told.drafts(device=[120]))
    assert drafts[:2] == [120, 121]
    for _ in range(40):
        told.text.append(7)
        told.drafts(device=[1, 2])
    told.text.append(120 + 41)
    assert list(told.drafts(device=[1, 2]))[:1] != [1]


def test_a_rolled_back_text_is_fed_again_from_where_it_differs() -> None:
    told = Told(0.03, 0.003)
    drafts = list(told.drafts())
    told.text += [drafts[0], 7]
    told.asked.clear()
    assert told.drafts()
    assert told.asked[0] == Ask(21, (7,))


def test_a_model_with_little_room_drafts_no_further() -> None:
    assert len(Told(0.03, 0.0003, context=22).drafts()) == 2
    assert not Told(0.03, 0.0003, context=20).drafts()
    assert not Told(0.03, 0.0003, context=9).drafts()
