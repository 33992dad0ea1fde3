"""What the edge proposes without a model: copies are found in bounded time and memory, and odds are learned."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import BadParameterError
from airdraft.proposers import NONE, PROPOSERS, USUAL, maker, named
from airdraft.proposers.index import FEW, LONGEST, MOST_BITS, SHORTEST, Index, tail
from airdraft.proposers.lookup import MOST, Lookup, copy
from airdraft.proposers.odds import Odds
from airdraft.proposers.predicted import Predicted
from airdraft.proposers.salvage import DEPTH, Salvage


def plainly(text: list[int], ahead: list[int]) -> tuple[int, int]:
    """What `Index.find` finds, by looking everywhere."""
    whole = [*text, *ahead]
    for length in range(min(LONGEST, len(whole)), SHORTEST - 1, -1):
        run = whole[-length:]
        for end in range(len(text) - 1, length - 1, -1):
            if text[end - length : end] == run:
                return end, length
    return 0, 0


@given(
    pieces=st.lists(st.lists(st.integers(0, 3), max_size=2 * FEW), min_size=1, max_size=12),
    ahead=st.lists(st.integers(0, 3), max_size=4),
)
def test_the_longest_run_is_found_where_it_stood_last(pieces: list[list[int]], ahead: list[int]) -> None:
    """In pieces small and large, so that both ways of indexing and their joints are taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airdraft.proposers.index.FEWEST_BITS", MOST_BITS)  # no two runs share a place
        index, text = Index(), list[int]()
    for piece in pieces:
        text += piece
        index.follow(text)
        assert index.find(text, tail(text, ahead)) == plainly(text, ahead)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_found_stood_there(seed: int) -> None:
    """Runs that share a place forget each other, and are not taken for each other."""
    rng, index = np.random.default_rng(seed), Index()
    text, ahead = rng.integers(10, size=2_500).tolist(), rng.integers(10, size=seed).tolist()
    for end in range(0, len(text), 7):
        index.follow(text[:end])
        last = tail(text[:end], ahead)
        at, length = index.find(text[:end], last)
        assert (at, length) == (0, 0) or (length <= at < end and text[at - length : at] == last[-length:])


def test_tables_grow_with_the_text_and_no_further() -> None:
    rng = np.random.default_rng(1)
    text = rng.integers(50_000, size=300_000).tolist()
    text[-6:] = text[200_000:200_006]
    index = Index()
    for end in (100, 5_000, 5_001, 150_000, 150_007, len(text)):
        index.follow(text[:end])
    assert index.find(text, tail(text, ())) == (200_006, 6)
    assert index._tables.shape == (5, 1 << MOST_BITS)
    tracemalloc.start()
    try:
        many = [Index() for _ in range(100)]
        for each in many:
            each.follow(text[:64])
        assert tracemalloc.get_traced_memory()[0] < 100 * 65_536
    finally:
        tracemalloc.stop()


def test_a_step_costs_the_same_however_long_the_text_is() -> None:
    """CPU time of 2,000 steps after 1,000 and after 100,000 tokens; were it linear, it would be 100 times as much."""

    def takes_s(length: int) -> float:
        rng = np.random.default_rng(1)
        text = rng.integers(1000, size=length).tolist()
        lookup = Lookup()
        lookup.propose(text, (), 8)
        began_s = time.thread_time()
        for token in rng.integers(1000, size=2_000).tolist():
            text.append(token)
            lookup.propose(text, (), 8)
        return time.thread_time() - began_s

    # The least of several: a machine may be busy, and its caches full of something else.
    few, many = (min(takes_s(length) for _ in range(4)) for length in (1_000, 100_000))
    assert many < 15 * few


def test_a_copy_goes_on_with_itself() -> None:
    text = [7, 8, 9, 7, 8]
    assert copy(text, (), 2, 7) == [9, 7, 8, 9, 7, 8, 9]
    assert copy(text, (9, 7), 4, 5) == [8, 9, 7, 8, 9]
    assert Lookup().propose(text, (), 3) == [9, 7, 8]
    assert Lookup().propose(text, (9,), 3) == [7, 8, 9]


def test_lookup_says_nothing_of_what_is_new_and_no_more_than_it_may() -> None:
    lookup = Lookup()
    assert list(lookup.propose(list(range(50)), (), 9)) == []
    assert list(lookup.propose(list(range(50)), (7,), 9)) == []
    text = [*range(50), *range(20)]
    assert lookup.propose(text, (), 4) == [20, 21, 22, 23]
    assert len(lookup.propose(text, (), 99)) == MOST
    assert lookup.propose(text, (20, 21), 2) == [22, 23]


def test_copies_that_are_wrong_end_and_begin_again_when_they_would_be_right() -> None:
    """A text whose pairs of tokens repeat with another token behind them each time, and then one that is periodic."""
    lookup, text = Lookup(), [1, 2, 3]
    for at in range(60):
        text += [1, 2]
        proposed = lookup.propose(text, (), 8)
        text.append(100 + at)
    assert list(proposed) == []
    for _ in range(4):
        text += range(40)
        lookup.propose(text, (), 8)
    for token in range(40):
        text.append(token)
        proposed = lookup.propose(text, (), 8)
    assert len(proposed) == 8


def test_the_device_drafts_before_a_copy_lower_its_odds() -> None:
    odds = Odds([0.5, 0.9])
    assert odds.worth(1, 0, 99) > odds.worth(1, 4, 99) > 0
    assert odds.worth(0, 0, 99) > 0
    for _ in range(30):
        odds.note([1], [5, 5], [6], 1)
        odds.learn([1, 7, 7, 8])
    assert odds.worth(1, 2, 99) == 0
    assert odds.worth(1, 0, 99) > 0


def test_odds_learn_from_what_was_proposed_and_nothing_else() -> None:
    odds = Odds([0.5, 0.5])
    odds.note([1, 2], [], [3, 4, 5], 0)
    odds.learn([1, 2])  # the text has not grown
    assert odds._chances == [0.5, 0.5]
    odds.learn([1, 2, 3])
    assert odds._chances == [pytest.approx(0.55), 0.5]
    odds.learn([1, 2, 3, 4])  # learned from already, as far as it could be
    assert odds._chances == [pytest.approx(0.55), 0.5]
    odds.note([1], [], [3, 9, 9], 0)
    odds.learn([1, 3, 4, 9])
    assert odds._chances == [pytest.approx(0.595), pytest.approx(0.45)]


def test_salvage_tries_dead_drafts_in_their_places() -> None:
    salvage = Salvage()
    assert list(salvage.propose([0, 1, 2], (), 9)) == []
    salvage.dropped(2, [9, 3, 4, 5, 6, 7])  # the first of them differs from the text's 2
    assert salvage.propose([0, 1, 2], (), 2) == [3, 4]
    assert list(salvage.propose([0, 1, 2], (8,), 9)) == []  # the device knows better
    salvage.dropped(8, [8, 9])  # still under way when the branch died
    text = [0, 1, 2, 3, 4, 5]
    assert salvage.propose(text, (), 9)[:3] == [6, 7, 8]
    assert len(salvage.propose(text, (), 99)) <= DEPTH
    assert list(salvage.propose([*text, 6, 7, 8, 9, 9], (), 9)) == []  # the text is beyond them
    salvage.dropped(20, [1])
    assert list(salvage.propose([*text, 6, 7, 8, 9, 9], (), 9)) == []  # not there yet


def test_salvage_that_is_wrong_ends() -> None:
    salvage, text = Salvage(), [0]
    for _ in range(40):
        salvage.dropped(len(text) - 1, [5, 6, 7])
        tried = salvage.propose(text, (), 4)
        text.append(1)
    assert list(tried) == []


def test_salvage_holds_no_more_than_lies_ahead() -> None:
    salvage, text = Salvage(), [0]
    for at in range(1, 2_000):
        salvage.dropped(at, [5])
        salvage.propose(text, (), 4)
        text.append(1)
    assert len(salvage._dead) <= 2


def test_a_prediction_is_followed_from_its_beginning() -> None:
    predicted = Predicted(range(100, 150))
    assert predicted.propose([1, 2, 3], (), 4) == [100, 101, 102, 103]
    assert predicted.propose([1, 2, 3], (100, 101), 2) == [102, 103]
    assert predicted.propose([1, 2, 3, 100, 101, 102], (), 3) == [103, 104, 105]
    assert len(predicted.propose([1, 2, 3, *range(100, 110)], (), 999)) > 16
    assert list(predicted.propose([1, 2, 3, *range(100, 150)], (), 9)) == []


def test_a_prediction_is_found_again_after_a_token_was_replaced_left_out_or_put_in() -> None:
    for text in ([*range(100, 110), 7], [*range(100, 110), *range(115, 118)], [*range(100, 110), 7, 8, 110, 111]):
        predicted = Predicted(range(100, 150))
        for end in range(len(text)):
            predicted.propose(text[:end], (), 8)
        following = 111 if text[-1] == 7 else text[-1] + 1
        assert predicted.propose(text, (), 3)[:1] == [following]


def test_a_prediction_is_found_again_when_a_text_goes_on() -> None:
    assert Predicted(range(100, 150)).propose([1, *range(100, 120)], (), 2) == [120, 121]


def test_a_prediction_that_is_wrong_ends() -> None:
    predicted, text = Predicted(range(100, 150)), [1]
    for at in range(40):
        tried = predicted.propose(text, (), 8)
        text.append(at)
    assert list(tried) == []


def test_proposers_are_known_by_name() -> None:
    assert named(NONE) == ()
    assert named("salvage, lookup") == ("salvage", "lookup")
    assert [each.name for each in maker(USUAL)((1,), False)] == list(USUAL)
    assert [each.name for each in maker(USUAL)((), False)] == [name for name in USUAL if name != "predicted"]
    assert all(make((1, 2)).name == name for name, make in PROPOSERS.items())
    first, second = maker(USUAL)((), False), maker(USUAL)((), False)
    assert first[0] is not second[0]
    for words, why in (("magic", "no proposer 'magic'"), ("", "no proposer ''"), ("lookup,lookup", "names one twice")):
        with pytest.raises(BadParameterError, match=why):
            named(words)
