"""The board under a text: it says what the events say, whoever tells them, and is drawn within any width."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from airdraft.core.events import Begun, Committed, Failed, Finished, Offered, Taken, Turning
from airdraft.demo.board import LATELY_S, Board
from airdraft.demo.live import Screen
from airdraft.telemetry.feed import Feed
from airdraft.telemetry.trace import Traces
from airdraft.telemetry.winners import NAMES

READINGS = {
    "sent_bytes_total": 1000, "received_bytes_total": 3000, "device_rtt_seconds": 0.0203,
    "device_uplink_bits_per_second": 19.9e6, "device_downlink_bits_per_second": float("inf"),
}  # fmt: skip


def told(events: list[tuple[float, Any]], readings: list[dict[str, Any]] | None = None) -> Board:
    """A board that heard of a text what its trace would hold."""
    board, feed = Board(chooses=True), Feed()
    rest = iter(readings or [READINGS, READINGS])

    async def tell() -> None:
        async with feed.listening(board.hear, lambda: next(rest)):
            trace = Traces(None, "device", feed=feed).open(Begun(1, 4, 4, 90, "stream", None), 0.0)
            trace.event(Taken(1, 4), 0.01, [1, 2, 3, 4])
            for at, event in events:
                if isinstance(event, float):
                    trace.call(at, event, 1, 1)
                else:
                    trace.event(event, at)

    asyncio.run(tell())
    return board


def rows(board: Board) -> dict[str, str]:
    return {str(line)[:8].strip(): str(line)[8:] for line in board.lines(coloured=False)}


def test_it_says_who_won_tokens_and_how_fast() -> None:
    board = told(
        [
            (1.0, Committed(1, (1, 2, 3), 2, "recovered", copied=frozenset({1}))),
            (1.5, Committed(1, (4, 5), 1, "bonus")),
            (2.0, Committed(1, (6, 7), 0, "target")),
        ]
    )
    assert board.heading() == "stream (auto) · 3.5 tokens/s · 7.0 lately · 7 tokens in 2.0 s"
    assert rows(board)["won"] == "model 2  copy 1  edge 1  recovered 1  bonus 1  raced 1"
    assert rows(board)["drafts"] == "none in flight  acceptance 0.75"  # three of the four that were judged


def test_drafts_fly_until_a_commit_settles_them_or_their_branch_is_dead() -> None:
    sent = [(0.1, Offered(1, 4, 3, 10)), (0.2, Offered(1, 7, 2, 10))]
    assert rows(told(sent))["drafts"] == "▸▸▸▸▸ 5 in flight  5 sent"
    settled = (0.3, Committed(1, (1, 2, 3), 3, "bonus"))
    assert rows(told([*sent, settled]))["drafts"] == "▸▸ 2 in flight  5 sent  acceptance 1.00"
    dead = (0.3, Committed(1, (1,), 0, "recovered"))
    assert rows(told([*sent, dead]))["drafts"] == "none in flight  5 sent  acceptance 0.00"
    assert rows(told([*sent, (0.3, Finished(1, "stop"))]))["drafts"] == "none in flight  5 sent"


def test_link_and_cost_are_of_this_text_alone() -> None:
    later = READINGS | {"sent_bytes_total": 1500, "received_bytes_total": 2_503_000}
    board = told([(0.5, 0.25), (1.0, Committed(1, (1,), 0, "target"))], [READINGS, later])
    assert rows(board)["link"] == "RTT 20.3 ms  19.9 Mbit/s up"
    assert rows(board)["cost"] == "500 B up  2.5 MB down  2.04 J on this device, estimated"  # 1 J of it drafts


def test_a_switch_and_a_link_that_is_lost_stand_in_the_heading() -> None:
    assert told([(0.1, Turning(1, "server"))]).heading().startswith("server (auto) ·")
    board = Board(chooses=False)
    for event in ({"event": "opened", "at": "2026-01-01T00:00:00+00:00", "scheme": "coupled"}, {"event": "lost"}):
        board.hear(event)
    assert board.heading() == "coupled · 0 tokens in 0.0 s · no edge answers"
    board.hear({"event": "opened", "at": "2026-01-01T00:00:03+00:00", "scheme": "coupled"})
    board.hear({"event": "committed", "t": 1.0, "length": 9, "accepted": 0, "written": 1, "by": ["raced"]})
    assert board.heading() == f"coupled · 0.2 tokens/s · {1 / LATELY_S:.1f} lately · 1 tokens in 4.0 s"
    assert told([(0.1, Failed(1, "engine", "no", ours=False))]).heading().startswith("stream (auto)")


def test_nobody_hears_anything_after_the_text() -> None:
    board, feed = Board(chooses=False), Feed()

    async def tell() -> None:
        async with feed.listening(board.hear, lambda: READINGS):
            assert feed.heard
            assert not feed.wanted  # nobody wants words and chances

    asyncio.run(tell())
    assert not feed.heard


@given(
    st.lists(st.tuples(st.sampled_from([*NAMES.values(), "device", "lookup"]), st.integers(1, 999)), max_size=12),
    st.integers(20, 200),
    st.booleans(),
)
def test_it_is_drawn_within_any_width_and_its_bar_is_whole(
    won: list[tuple[str, int]], width: int, coloured: bool
) -> None:
    board = Board(chooses=True, about="compute imitates phone-8b, link emulated")
    for at, (name, count) in enumerate(won, 1):
        board.hear({"event": "committed", "t": at, "length": at, "accepted": 0, "written": 1, "by": [name] * count})
    drawn = [line for line in board.lines(coloured) if "█" in str(line)]
    assert [str(line).count("█") for line in drawn] == ([60] if coloured and won else [])
    out = io.StringIO()
    console = Console(file=out, width=width, no_color=not coloured)
    console.print(Screen(console, board))
    assert all(len(line) <= width for line in out.getvalue().splitlines())


@pytest.mark.parametrize("width", [10, 40, 80])
def test_a_text_in_pieces_is_the_text_whole(width: int) -> None:
    """What a terminal keeps of lines that are printed for good, and of the last one, is the text."""
    text = "def add(a, b):\n    return a + b\n\n\n日本語の長い行 with spaces   and more of them, until it wraps\n  é\n"
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, no_color=True, highlight=False, color_system=None)
    screen = Screen(console, Board(chooses=False))
    for char in text:
        screen.print(Text(char), end="", soft_wrap=True)
    lines = out.getvalue().split("\n")
    assert "".join("".join(lines).split()) == "".join(text.split())
    if width == 80:
        assert out.getvalue() == text
