"""A text above a board that follows it, in a terminal; elsewhere the text alone, and the board's last lines."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from airdraft.demo.board import Board
from airdraft.demo.show import Prints
from airdraft.device.watch import Linked, of_link
from airdraft.telemetry.feed import Feed

FRAMES = 15
"""Pictures a second."""


@contextlib.asynccontextmanager
async def onto(
    console: Console, feed: Feed | None, link: Linked, chooses: bool = False, about: str = ""
) -> AsyncIterator[Prints]:
    """Yield what to print one text on: `console`, with a board under the text if `feed` tells its events.

    link: over which it is written. chooses, about: as in `Board`.
    """
    if feed is None:
        yield console
        return
    board = Board(chooses, about)
    with Screen(console, board) as screen:
        async with feed.listening(board.hear, functools.partial(of_link, link)):
            yield screen


def moves(console: Console) -> bool:
    """Whether what is printed can be drawn again in its place."""
    return console.is_terminal and not console.is_dumb_terminal and not console.record


class Screen:
    """Prints in the place of a console while a board is shown under the text.

    Only the last line of the text is drawn again and again, since it may grow; all before it is printed for good.
    """

    def __init__(self, console: Console, board: Board) -> None:
        self._console, self._board = console, board
        self._tail = Text()
        # What is said meanwhile on standard error goes above the board, if it would go to a terminal at all.
        drawn = Live(
            self, console=console, refresh_per_second=FRAMES, transient=True, redirect_stderr=sys.stderr.isatty()
        )
        self._live = drawn if moves(console) else None

    def print(self, what: Text, /, *, end: str, soft_wrap: bool) -> None:
        """Print text where the last one ended."""
        if self._live is None:
            self._console.print(what, end=end, soft_wrap=soft_wrap)
            return
        grown = Text.assemble(self._tail, what, end)
        *whole, self._tail = grown.wrap(self._console, self._console.width, overflow="fold")
        for line in whole:
            self._console.print(line, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        lines = Group(*self._board.lines(self._console.color_system is not None and not self._console.no_color))
        above, below = Text(self._board.heading(), "bold"), self._board.about or None
        panel = Panel(lines, title=above, subtitle=below, title_align="left", subtitle_align="left", border_style="dim")
        return Group(self._tail, panel)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        heading = ", ".join(filter(None, (self._board.heading(), self._board.about)))
        for line in (Text(heading), *self._board.lines(coloured=False)):
            self._console.print(line, soft_wrap=True)
