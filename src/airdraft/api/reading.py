"""What a reader sees of a text: its events turned into characters, cut at stop strings, corrected if need be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from airdraft.api.errors import ApiError
from airdraft.api.stops import Stops
from airdraft.core.events import Committed, Finished
from airdraft.core.logprobs import Logprob
from airdraft.core.request import Request
from airdraft.device.offline import Corrected, Unverified
from airdraft.models.text import TextStream, Tokenizer

ALONE_S = 5.0
"""Seconds to wait for an edge after the draft model alone has brought a text to its end."""


class TextWriter(Protocol):
    """Writes texts, with or without drafts."""

    def write(self, request: Request) -> AsyncGenerator[Committed | Unverified | Corrected | Finished, None]:
        """Yield the events of one text. Closing the generator gives the text up."""
        ...


@dataclass(frozen=True)
class Placed:
    """A token's log-probability under the target, and the character of the text at which the token begins."""

    start: int
    logprob: Logprob


@dataclass(frozen=True)
class Piece:
    """A new piece of a text."""

    text: str
    verified: bool = True
    """False: the draft model alone wrote it, and it may yet be taken back."""
    replaces: int | None = None
    """Set in a correction: `text` takes the place of everything from this character on."""
    logprobs: tuple[Placed, ...] = ()
    """Log-probabilities, if asked for, of verified tokens that begin in what is shown by now. None is taken back."""


@dataclass(frozen=True)
class End:
    """The end of a text."""

    reason: Literal["stop", "length"]
    tokens: int
    """Tokens written, those of a stop string included."""
    unverified: int
    """How many of the last tokens were never verified."""


class Decoding:
    """Turns tokens into the text that is certain to be part of the answer."""

    def __init__(self, stream: TextStream, stops: Sequence[str], stop_ids: Collection[int] = ()) -> None:
        self._stream = stream
        self._stops = Stops(stops)
        self._stop_ids = stop_ids
        self._ended = False
        self.text = ""
        self.starts: list[int] = []
        """Character at which each token's text begins. Tokens after a stop are not taken."""
        self._decoded = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string, or a token that stops, has ended the text."""
        return self._stops.found or self._ended

    @property
    def tokens(self) -> int:
        """How many tokens were taken."""
        return len(self.starts)

    def push(self, tokens: Sequence[int]) -> None:
        """Take the next tokens."""
        for token in tokens:
            if self.stopped:
                return
            self.starts.append(self._decoded)
            if token in self._stop_ids:
                self._ended = True
                self.flush()
                return
            certain = self._stream.push(token)
            self._decoded += len(certain)
            self.text += self._stops.push(certain)

    def flush(self) -> None:
        """Take what is left: the text is complete."""
        self.text += self._stops.push(self._stream.flush()) + self._stops.flush()


class Reader:
    """Compares what one reader has been shown with what is true."""

    def __init__(self, decoding: Callable[[], Decoding], start: int) -> None:
        """`start`: how many tokens the prompt has."""
        self._decoding, self._start = decoding, start
        self._true = decoding()
        self._committed: list[int] = []
        self._logprobs: list[Logprob] = []  # of committed tokens; those not shown yet
        self._told = 0
        self._guess: list[int] = []
        self._alone: Decoding | None = None
        """The committed text with the guess after it, until more is committed."""
        self._shown = ""
        self._contradicted = False
        """Whether some of what is shown is known to be wrong."""

    @property
    def stopped(self) -> bool:
        """Whether a stop completes the text."""
        return self._true.stopped

    @property
    def guessed(self) -> bool:
        """Whether a stop completes the guess."""
        return self._alone is not None and self._alone.stopped

    def take(self, event: Committed | Unverified | Corrected) -> Piece | None:
        """Take an event and return what it changes for the reader."""
        if isinstance(event, Committed):
            self._alone = None
            self._committed += event.tokens
            self._guess = self._guess[len(event.tokens) :]
            self._logprobs += event.logprobs
            self._true.push(event.tokens)
            return self._with_logprobs(self._show(self._true.text), self._true)
        ahead = event.position - self._start - len(self._committed)
        if isinstance(event, Corrected):  # what is right comes next
            self._guess, self._alone = self._guess[:ahead], None
            self._contradicted = True
            return None
        self._guess = [*self._guess[:ahead], *event.tokens]
        if self._alone is None:
            self._alone = self._decoding()
            self._alone.push([*self._committed, *self._guess])
        else:
            self._alone.push(event.tokens)
        return self._show(self._alone.text, verified=False)

    def end(self, reason: Literal["stop", "length"]) -> tuple[Piece | None, End]:
        """End the text, whether all of it is verified or not."""
        text = self._alone or self._true
        text.flush()
        unverified = text.tokens - self._true.tokens
        piece = self._show(text.text, verified=not unverified, complete=True)
        piece = self._with_logprobs(piece, text)
        return piece, End("stop" if text.stopped else reason, text.tokens, unverified)

    def _with_logprobs(self, piece: Piece | None, text: Decoding) -> Piece | None:
        """Add the log-probabilities of the tokens that have begun by now to what is shown."""
        ready = []
        for start, logprob in zip(text.starts[self._told :], self._logprobs, strict=False):
            if start >= len(text.text):
                break
            ready.append(Placed(start, logprob))
        if not ready:
            return piece
        self._told += len(ready)
        del self._logprobs[: len(ready)]
        return replace(piece or Piece(""), logprobs=tuple(ready))

    def _show(self, text: str, *, verified: bool = True, complete: bool = False) -> Piece | None:
        shown = self._shown
        # The committed text may lag behind what is shown, unless it is known to differ.
        if shown.startswith(text) and not (complete or self._contradicted):
            return None
        if text.startswith(shown):  # always so without a guess; comparing characters would take long in a long text
            same = len(shown)
        else:
            same = next((at for at, (a, b) in enumerate(zip(shown, text, strict=False)) if a != b), len(text))
        self._shown, self._contradicted = text, False
        if same < len(shown) or len(text) < len(shown):
            return Piece(text[same:], verified, min(same, len(text)))
        return Piece(text[same:], verified) if len(text) > same else None


async def read(
    writer: TextWriter,
    request: Request,
    tokenizer: Tokenizer,
    stops: Sequence[str],
    stop_ids: Collection[int] = (),
) -> AsyncGenerator[Piece | End, None]:
    """Yield one text as it is written; `End` comes last. Raises: as `writer.write`.

    stops, stop_ids: the text ends before the first of these strings, and before the first of these tokens.
    """
    now = asyncio.get_running_loop().time
    reader = Reader(lambda: Decoding(tokenizer.stream(), stops, stop_ids), len(request.prompt))
    reason: Literal["stop", "length"] = "stop"
    deadline: float | None = None
    async with contextlib.aclosing(writer.write(request)) as events:
        while not reader.stopped:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(events)
            except TimeoutError:
                break
            if isinstance(event, Finished):
                if event.reason not in ("stop", "length"):
                    raise ApiError(502, f"the edge ended the text: {event.reason}", kind="server_error")
                reason = "stop" if event.reason == "stop" else "length"
                break
            if piece := reader.take(event):
                yield piece
            if isinstance(event, Unverified) and (event.ended or reader.guessed):
                reason = event.ended or "stop"
                deadline = now() + ALONE_S if event.ended or deadline is None else deadline
            else:
                deadline = None
    last, end = reader.end(reason)
    if last:
        yield last
    yield end
