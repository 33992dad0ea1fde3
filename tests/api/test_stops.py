"""Cutting at stop strings is `str.find` on the whole text, however it arrives."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from airdraft.api.stops import Stops

words = st.text("ab€", max_size=4)
stops = st.lists(st.text("ab€", min_size=1, max_size=5), max_size=4)


def cut(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    """What comes through, and whether it was cut."""
    stopper, shown = Stops(stops), ""
    for piece in pieces:
        shown += stopper.push(piece)
    return shown + stopper.flush(), stopper.found


@given(st.lists(words, max_size=20), stops)
@example(["ab", "cd"], ["bc", "abcd"])
@example(["abc", "x"], ["bc", "abcd"])
@example(["aa", "b"], ["aab"])
def test_the_text_is_cut_where_find_finds(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    found = [at for stop in stops if (at := whole.find(stop)) >= 0]
    assert cut(pieces, stops) == (whole[: min(found)] if found else whole, bool(found))


@given(st.lists(words, max_size=20), stops)
def test_nothing_is_held_that_cannot_be_cut(pieces: list[str], stops: list[str]) -> None:
    stopper, whole, shown = Stops(stops), "", ""
    for piece in pieces:
        whole += piece
        shown += stopper.push(piece)
        if stopper.found:
            return
        held = whole[len(shown) :]
        assert not held or any(stop.startswith(held[:1]) for stop in stops)
        assert len(held) <= 2 * max(map(len, stops), default=0)


def test_a_stop_string_is_found_as_soon_as_it_is_certain() -> None:
    stopper = Stops(["END"])
    assert (stopper.push("the EN"), stopper.found) == ("the ", False)
    assert (stopper.push("D of"), stopper.found) == ("", True)
    assert stopper.push("it") == stopper.flush() == ""
