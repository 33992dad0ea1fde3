"""Standard output that takes every character, and says in one line why it takes no more."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from airdraft.errors import AirdraftError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from typing_extensions import Buffer

SPELLED = {
    "γ": "g", "α": "a", "×": "x", "−": "-", "–": "-", "—": "-", "…": "~", "·": ".", "⌈": "[", "⌉": "]",
    "≤": "<", "≥": ">", "→": ">", "◀": "<", "▸": ">", "●": "o", "━": "=", "─": "-", "│": "|", "█": "#", "χ": "x",
}  # fmt: skip
"""Characters that are shown by others, as wide as they are, where the output's encoding lacks them."""
SPELLING = "airdraft"
"""The name of that way to handle errors of an encoding."""


def one_line(message: str) -> str:
    """`message` as a line of printable text: parts of it may come from a peer or a file."""
    return "".join(char if char.isprintable() else " " for char in " ".join(message.split()))


def noted(console: Console, words: Text) -> None:
    """Print a note: in a terminal its lines end between words, and elsewhere only where `words` do."""
    console.print(words, soft_wrap=not console.is_terminal)


class OutputError(AirdraftError):
    """Standard output takes no more."""


class UnreadError(OutputError):
    """Nobody reads standard output any more, as after `airdraft ... | head`, which wants to hear nothing of it."""


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(SPELLED.get(char, "?") for char in error.object[error.start : error.end]), error.end


codecs.register_error(SPELLING, _spell)


class _File(io.FileIO):
    """A file descriptor whose errors are ours."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise UnreadError("nobody reads the standard output any more; let its reader go on") from error
        except OSError as error:
            raise OutputError(f"the standard output takes no more ({error.strerror}); make room") from error


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """Standard output in the body. Raises: `OutputError` there or at its end, once nothing more can be written."""
    before = sys.stdout
    if before is None:  # it was closed before we began
        with Path(os.devnull).open("w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
            yield
        return
    if not isinstance(before, io.TextIOWrapper):
        yield
        return
    try:
        number = before.fileno()
    except OSError:  # a stream without a file
        number = -1
    if number < 0 or sys.platform == "win32":  # whose console wants more than bytes
        before.reconfigure(errors=SPELLING)
        yield
        return
    before.flush()
    raw = _File(number, "w", closefd=False)
    binary = raw if before.write_through else io.BufferedWriter(raw)
    after = io.TextIOWrapper(
        binary,
        before.encoding, SPELLING, line_buffering=before.line_buffering, write_through=before.write_through,
    )  # fmt: skip
    sys.stdout = after
    try:
        try:
            yield
        finally:
            after.flush()
    except OutputError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)  # what is still held would fail once more at the end
        os.close(nowhere)
        raise
    finally:
        sys.stdout = before
