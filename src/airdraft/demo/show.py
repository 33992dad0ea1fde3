"""How a text looks in the terminal while it is written: each token in the colour of how it was won."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from airdraft.core.events import Committed
from airdraft.models.text import Tokenizer

STYLES = {"accepted": "green", "recovered": "bold yellow", "bonus": "bold cyan", "target": "default"}

MEANINGS = {
    "accepted": "drafted on the device, accepted by the edge",
    "recovered": "the edge's correction of a rejected draft",
    "bonus": "a token more after a fully accepted draft",
    "target": "written by the edge while no draft was at hand",
}


def legend() -> Text:
    """One line a colour."""
    names = {"target": "raced"}
    lines = [
        Text.assemble("  ", (f"{names.get(kind, kind):<10}", STYLES[kind]), meaning)
        for kind, meaning in MEANINGS.items()
    ]
    return Text("\n").join(lines)


class TokenPrinter:
    """Prints tokens as they are committed; characters appear when all of their bytes are there."""

    def __init__(self, console: Console, tokenizer: Tokenizer) -> None:
        self._console = console
        self._stream = tokenizer.stream()
        self._style = STYLES["target"]

    def committed(self, event: Committed) -> None:
        """Print the tokens of one commit."""
        for at, token in enumerate(event.tokens):
            self._style = STYLES["accepted" if at < event.accepted else event.kind]
            self._print(self._stream.push(token))

    def end(self) -> None:
        """Print what is left, and end the line."""
        self._print(self._stream.flush())
        self._console.print()

    def _print(self, piece: str) -> None:
        if piece:
            self._console.print(Text(piece, self._style), end="", soft_wrap=True)
