"""A text in several sessions is the text of one; delays grow, end and differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.events import Committed, Finished
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.resume import Backoff, Resumable
from airdraft.errors import LocalProtocolError
from airdraft.sim.pair import Pair

from ..core.tables import SPECS, STREAMS, alike, request, table
from ..suites import examples

SCHEMES = {name: spec for name, spec in SPECS.items() if spec.cut != "conformal"}  # whose threshold begins anew
SCHEMES |= {f"stream-{race}": STREAMS[race] for race in STREAMS}
TARGET = table(1, eos_ids=(4,))
DRAFT = alike(TARGET, 2)


def in_sessions(asked: Request, cuts: list[int]) -> tuple[Resumable, int]:
    """The text, cut after so many events of each session and resumed at another edge; and how many sessions it took."""
    text, sessions = Resumable(asked, TARGET.eos_ids), 0
    for cut in [*cuts, 1 << 30]:
        if text.finished:
            break
        sessions += 1
        part = Pair(DRAFT, TARGET).write(text.next_request())
        events = [*part.commits, Finished(1, part.reason)]
        for event in events[:cut]:
            text.take(event)
    return text, sessions


@pytest.mark.parametrize("scheme", SCHEMES)
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 6), max_size=5))
@examples(60)
def test_a_text_that_is_cut_anywhere_is_the_same(scheme: str, seed: int, cuts: list[int]) -> None:
    """Under the schemes that toss coins, too: these belong to positions, and so does where a round begins."""
    asked = request(SCHEMES[scheme], SamplingParams(0.9), seed, max_tokens=12)
    whole = Pair(DRAFT, TARGET).write(asked)
    text, _ = in_sessions(asked, cuts)
    assert (text.tokens, text.finished) == (whole.tokens, whole.reason)


def test_nothing_is_asked_for_where_nothing_is_left() -> None:
    asked = request(max_tokens=3)
    for committed, reason in (
        ((1, 2, 3), "length"),
        ((1, 4), "stop"),
        ((1, 2, 4), "stop"),
        ((4, 1), "stop"),
        ((1, 2), None),
        ((), None),
    ):
        text = Resumable(replace(asked, committed=committed), eos_ids=(4,))
        assert text.finished == reason
        if reason:
            with pytest.raises(LocalProtocolError, match="nothing to ask for"):
                text.next_request()
    late = Resumable(replace(asked, committed=(1, 4)))
    late.ends_with((4,))  # known from the first welcome on
    assert late.finished == "stop"


def test_a_commit_without_its_end_is_still_an_end() -> None:
    text = Resumable(request(max_tokens=2), eos_ids=(4,))
    text.take(Committed(1, (1, 2), 0, "target"))
    assert text.finished == "length"  # though the link died before anybody said so
    stopped = Resumable(request(max_tokens=9), eos_ids=(4,))
    stopped.take(Committed(1, (1, 4), 0, "target"))
    assert stopped.finished == "stop"
    stopped.take(Finished(1, "stop"))
    with pytest.raises(LocalProtocolError):
        stopped.take(Committed(1, (1,), 0, "target"))


def test_what_is_left_shares_what_is_counted() -> None:
    asked = request(max_tokens=9, committed=(3,))
    text = Resumable(asked)
    text.take(Committed(1, (1, 2), 0, "target"))
    rest = text.next_request()
    assert rest.counts is asked.counts
    assert rest == replace(asked, committed=(3, 1, 2))
    with pytest.raises(LocalProtocolError):
        text.take(Committed(1, (1,) * 7, 0, "target"))


def test_delays_double_end_and_begin_anew() -> None:
    exact = Backoff(0.2, 10.0, jitter=0.0)
    assert [exact.failed() for _ in range(8)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    exact.succeeded()
    assert exact.failed() == pytest.approx(0.2)


@given(seed=st.integers(0, 1 << 32))
def test_delays_are_random_within_their_bounds(seed: int) -> None:
    one, again, other = Backoff(seed=seed), Backoff(seed=seed), Backoff(seed=seed + 1)
    delays = [one.failed() for _ in range(10)]
    assert delays == [again.failed() for _ in range(10)]
    assert delays != [other.failed() for _ in range(10)]
    for at, delay_s in enumerate(delays):
        whole = min(0.2 * 2**at, 10.0)
        assert whole / 2 <= delay_s <= whole
