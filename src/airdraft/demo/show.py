"""A text in the terminal while it is written, each token in the colour of its origin."""

from __future__ import annotations

from typing import Protocol

from rich.text import Text

from airdraft.core.events import Committed
from airdraft.device.offline import Corrected, Unverified
from airdraft.models.text import Tokenizer
from airdraft.telemetry.winners import DEVICE, MEANINGS, NAMES, winner

UNVERIFIED = "dim italic"
STYLES = {
    "accepted": "green", "copied": "bold blue", "proposed": "magenta", "recovered": "bold yellow", "bonus": "bold cyan",
    "target": "default",
}  # fmt: skip

CONTEXT = 8
"""Earlier tokens that can affect how the next one is spelt."""


def legend() -> Text:
    """The legend: one line for each colour."""
    lines = [
        Text.assemble("  ", (f"{NAMES.get(kind, kind):<10}", STYLES[kind]), meaning)
        for kind, meaning in MEANINGS.items()
    ]
    return Text("\n").join(lines)


BY_NAME = {NAMES.get(kind, kind): style for kind, style in STYLES.items()}
"""The style of each winner's name. An edge's proposers look alike."""


def style_of(by: str) -> str:
    """The style of a winner's name in a trace."""
    return BY_NAME["model"] if by == DEVICE else BY_NAME.get(by, STYLES["proposed"])


def played(token: str | None, by: str) -> Text:
    """A token of a trace in the colour of who found it; a block where the trace holds no words."""
    return Text("▪" if token is None else token, style_of(by))


class Prints(Protocol):
    """A console, or what stands in its place."""

    def print(self, what: Text, /, *, end: str, soft_wrap: bool) -> None:
        """Print text where the last one ended."""
        ...


class TokenPrinter:
    """Prints tokens as they are committed; characters appear when all of their bytes are there."""

    def __init__(self, console: Prints, tokenizer: Tokenizer) -> None:
        self._console = console
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream()
        self._style = STYLES["target"]
        self._shown: list[int] = []
        self._ahead = 0  # the last so many of these are not verified

    def committed(self, event: Committed) -> None:
        """Print the tokens of one commit, except those on the screen already."""
        known, self._ahead = self._ahead, max(0, self._ahead - len(event.tokens))
        for at, token in enumerate(event.tokens[known:], known):
            self._style = STYLES[winner(event, at)]
            self._push(token)

    def unverified(self, event: Unverified) -> None:
        """Print tokens that may yet be taken back."""
        self._style = UNVERIFIED
        for token in event.tokens:
            self._push(token)
        self._ahead += len(event.tokens)

    def corrected(self, event: Corrected) -> None:
        """Say which unverified tokens were wrong. The text goes on in a new line."""
        del self._shown[-len(event.tokens) :]
        self._ahead -= len(event.tokens)
        wrong = self._tokenizer.decode(event.tokens)
        said = Text(f"\n⟲ the edge takes back {wrong!r}, and goes on:", UNVERIFIED)
        self._console.print(said, end="\n", soft_wrap=True)
        self._stream = self._tokenizer.stream()
        for token in self._shown[-CONTEXT:]:
            self._stream.push(token)

    def _push(self, token: int) -> None:
        self._shown.append(token)
        self._print(self._stream.push(token))

    def end(self) -> None:
        """Print the rest, and end the line."""
        self._print(self._stream.flush())
        self._console.print(Text(), end="\n", soft_wrap=True)

    def _print(self, piece: str) -> None:
        if piece:
            self._console.print(Text(piece, self._style), end="", soft_wrap=True)
