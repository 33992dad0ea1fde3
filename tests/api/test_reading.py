"""What a reader sees adds up to the text: cut at stops, corrected where the draft alone was wrong."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.api import reading
from airdraft.api.reading import Decoding, End, Piece, Reader
from airdraft.core.events import Committed, Finished
from airdraft.core.logprobs import Logprob
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.offline import Corrected, Unverified
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer

Told = Committed | Unverified | Corrected | Finished

START = 5
"""Tokens of a prompt."""


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer(shipped("draft"))


def reader(*stops: str) -> Reader:
    return Reader(lambda: Decoding(tokenizer().stream(), stops), START)


def shown(before: str, piece: Piece | None) -> str:
    return before if piece is None else before[: piece.replaces] + piece.text


texts = st.lists(st.integers(1, 4095), max_size=20) | st.text(max_size=12).map(lambda text: tokenizer().encode(text))


@given(texts, st.lists(st.text(min_size=1, max_size=2), max_size=2), st.data())
def test_any_text_in_any_commits(ids: list[int], stops: list[str], data: st.DataObject) -> None:
    whole = tokenizer().decode(ids)
    found = [at for stop in stops if (at := whole.find(stop)) >= 0]
    each, text, left = reader(*stops), "", ids
    while left:
        many = data.draw(st.integers(1, len(left)))
        text = shown(text, each.take(Committed(1, tuple(left[:many]), 0, "target")))
        left = left[many:]
    piece, end = each.end("length")
    assert shown(text, piece) == (whole[: min(found)] if found else whole)
    assert end.reason == ("stop" if found else "length")
    assert end.tokens <= len(ids)
    assert end.unverified == 0


@given(texts, st.data())
def test_what_the_draft_alone_wrote_is_put_right(ids: list[int], data: st.DataObject) -> None:
    """Guesses of any length, right or wrong, between commits of any length, as a `Writer` tells of them."""
    each, text, guess = reader(), "", []
    done = 0
    while done < len(ids):
        if data.draw(st.booleans()):
            token = (
                ids[min(done + len(guess), len(ids) - 1)] if data.draw(st.booleans()) else data.draw(st.integers(1, 9))
            )
            piece = each.take(Unverified(START + done + len(guess), (token,)))
            assert piece is None or not piece.verified
            guess.append(token)
        else:
            many = data.draw(st.integers(1, len(ids) - done))
            commit = ids[done : done + many]
            right = next((at for at, (a, b) in enumerate(zip(guess, commit, strict=False)) if a != b), None)
            if right is not None:
                piece = each.take(Corrected(START + done + right, tuple(guess[right:])))
                text, guess = shown(text, piece), []
                piece = None
            piece = each.take(Committed(1, tuple(commit), 0, "target"))
            guess, done = guess[many:], done + many
            if not guess:
                assert shown(text, piece).startswith(text[:0])
        text = shown(text, piece)
    if guess:
        text = shown(text, each.take(Corrected(START + done, tuple(guess))))
    piece, end = each.end("length")
    assert shown(text, piece) == tokenizer().decode(ids)
    assert (end.tokens, end.unverified) == (len(ids), 0)


@given(texts, st.lists(st.text(min_size=1, max_size=2), max_size=2), st.data())
def test_every_token_of_the_text_has_its_logprob_once(ids: list[int], stops: list[str], data: st.DataObject) -> None:
    """In order, never before the text it begins in is shown, and none of what a stop string cut off."""
    each, left, text, told = reader(*stops), ids, "", []
    while left and not each.stopped:
        many = data.draw(st.integers(1, len(left)))
        if data.draw(st.booleans()):  # shown before it is verified, rightly
            text = shown(text, each.take(Unverified(START + len(ids) - len(left), tuple(left[:many]))))
        logprobs = tuple(Logprob(token, -1.0) for token in left[:many])
        piece = each.take(Committed(1, tuple(left[:many]), 0, "target", logprobs))
        left, text = left[many:], shown(text, piece)
        told += piece.logprobs if piece else ()
        assert all(placed.start < len(text) for placed in told)
    piece, _ = each.end("length")
    text = shown(text, piece)
    told += piece.logprobs if piece else ()
    stream, at, starts = tokenizer().stream(), 0, []
    for token in ids:
        starts.append(at)
        at += len(stream.push(token))
    expected = [(start, token) for start, token in zip(starts, ids, strict=True) if start < len(text)]
    assert [(placed.start, placed.logprob.token) for placed in told] == expected


def test_what_is_confirmed_comes_with_its_logprobs_though_the_text_was_shown() -> None:
    ids = tokenizer().encode("one two")[1:]
    each = reader()
    each.take(Unverified(START, tuple(ids)))
    piece = each.take(Committed(1, tuple(ids), 2, "accepted", tuple(Logprob(token, -0.5) for token in ids)))
    assert piece is not None
    assert (piece.text, piece.verified, piece.replaces) == ("", True, None)
    assert [placed.start for placed in piece.logprobs] == [0, len("one")]


def test_a_text_that_ends_without_an_edge_says_how_much_was_never_verified() -> None:
    ids = tokenizer().encode("one two three four")[1:]
    each = reader()
    first = each.take(Committed(1, tuple(ids[:2]), 0, "target"))
    rest = each.take(Unverified(START + 2, tuple(ids[2:])))
    piece, end = each.end("stop")
    assert (first, rest) == (Piece("one two"), Piece(" three four", verified=False))
    assert (piece, end.tokens, end.unverified) == (None, len(ids), len(ids) - 2)


def test_a_correction_says_from_where() -> None:
    true, wrong = (tokenizer().encode(text)[1:] for text in ("one two three", "one two four"))
    each = reader()
    each.take(Unverified(START, tuple(wrong)))
    assert each.take(Corrected(START + 2, tuple(wrong[2:]))) is None
    assert each.take(Committed(1, tuple(true), 2, "recovered")) == Piece("three", replaces=len("one two "))


def test_what_is_confirmed_is_not_shown_twice() -> None:
    ids = tokenizer().encode("one two three")[1:]
    each = reader()
    each.take(Unverified(START, tuple(ids)))
    assert [each.take(Committed(1, (token,), 1, "accepted")) for token in ids] == [None] * len(ids)
    assert each.end("stop")[1].unverified == 0


def test_a_stop_string_in_what_the_draft_alone_wrote() -> None:
    ids = tokenizer().encode("one two three")[1:]
    each = reader("two")
    assert each.take(Unverified(START, tuple(ids))) == Piece("one ", verified=False)
    assert (each.guessed, each.stopped) == (True, False)
    assert each.take(Committed(1, tuple(ids), 3, "accepted")) is None
    assert (each.guessed, each.stopped) == (False, True)


class Scripted:
    """A writer that tells what it is to tell, after the seconds it is to take."""

    def __init__(self, *script: tuple[float, Told]) -> None:
        self._script = script

    async def write(self, request: Request) -> AsyncGenerator[Told, None]:
        for seconds, event in self._script:
            await asyncio.sleep(seconds)
            yield event
        await asyncio.sleep(60)


def end_of(monkeypatch: pytest.MonkeyPatch, *script: tuple[float, Told], alone_s: float = 0.2) -> End:
    monkeypatch.setattr(reading, "ALONE_S", alone_s)
    request = Request(tuple(range(START)), SchemeSpec("coupled"), SamplingParams(), 0, 50)

    async def main() -> End:
        async with asyncio.timeout(30):
            return [each async for each in reading.read(Scripted(*script), request, tokenizer(), ())][-1]

    end = asyncio.run(main())
    assert isinstance(end, End)
    return end


def test_a_draft_model_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    drafting = [(0.25, Unverified(START + at, (at,))) for at in range(1, 4)]
    end = end_of(monkeypatch, (0, Committed(0, (0,), 0, "target")), *drafting, (0, Unverified(START + 4, (), "length")))
    assert (end.reason, end.tokens, end.unverified) == ("length", 4, 3)


def test_a_guess_that_was_confirmed_in_part_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = Unverified(START + 3, (), "stop")
    end = end_of(
        monkeypatch,
        (0, Unverified(START, (1, 2, 0))), (0, complete), (0, Committed(0, (1,), 1, "bonus")), (0, complete),
        alone_s=1.0,
    )  # fmt: skip
    assert (end.reason, end.tokens, end.unverified) == ("stop", 3, 2)
