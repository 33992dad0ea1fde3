"""From the events of a text to what a reader sees of it: characters, cut at stop strings, corrected if need be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
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
"""Without an edge, a text that the draft model alone has brought to its end ends so much later, unless one answers."""


class TextWriter(Protocol):
    """Whoever writes texts."""

    def write(self, request: Request) -> AsyncGenerator[Committed | Unverified | Corrected | Finished, None]:
        """The events of one text; closing the generator gives the text up."""
        ...


@dataclass(frozen=True)
class Placed:
    """How likely the target held a token, and the character of the text at which the token begins."""

    start: int
    logprob: Logprob


@dataclass(frozen=True)
class Piece:
    """What is new of a text."""

    text: str
    verified: bool = True
    """False: the draft model's alone, which may yet be taken back."""
    replaces: int | None = None
    """A correction: `text` takes the place of everything from this character on."""
    logprobs: tuple[Placed, ...] = ()
    """Of verified tokens that begin in what is shown by now, where they were asked for. None is ever taken back."""


@dataclass(frozen=True)
class End:
    """A text is complete."""

    reason: Literal["stop", "length"]
    tokens: int
    """Written, those of a stop string included."""
    unverified: int
    """The last so many were never verified."""


class Decoding:
    """Tokens to the text that is certain to be part of the answer."""

    def __init__(self, stream: TextStream, stops: Sequence[str]) -> None:
        self._stream = stream
        self._stops = Stops(stops)
        self.text = ""
        self.starts: list[int] = []
        """Where the text of each token begins that was taken; none is after a stop string."""
        self._decoded = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._stops.found

    @property
    def tokens(self) -> int:
        """Tokens taken."""
        return len(self.starts)

    def push(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        for token in tokens:
            if self.stopped:
                return
            self.starts.append(self._decoded)
            certain = self._stream.push(token)
            self._decoded += len(certain)
            self.text += self._stops.push(certain)

    def flush(self) -> None:
        """The text is complete."""
        self.text += self._stops.push(self._stream.flush()) + self._stops.flush()


class Reader:
    """What one reader has been shown, and what is true."""

    def __init__(self, decoding: Callable[[], Decoding], start: int) -> None:
        """`start`: tokens of the prompt."""
        self._decoding, self._start = decoding, start
        self._true = decoding()
        self._committed: list[int] = []
        self._logprobs: list[Logprob] = []  # of what is committed, as far as they are not told yet
        self._told = 0
        self._guess: list[int] = []
        self._alone: Decoding | None = None
        """What is committed and the guess after it, while nothing is committed."""
        self._shown = ""
        self._contradicted = False
        """Whether some of what is shown is known to be wrong."""

    @property
    def stopped(self) -> bool:
        """Whether the text is complete by a stop string."""
        return self._true.stopped

    @property
    def guessed(self) -> bool:
        """Whether the guess is complete by a stop string."""
        return self._alone is not None and self._alone.stopped

    def take(self, event: Committed | Unverified | Corrected) -> Piece | None:
        """What the event changes for the reader."""
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
        """The text is complete, whether all of it is verified or not."""
        text = self._alone or self._true
        text.flush()
        unverified = text.tokens - self._true.tokens
        piece = self._show(text.text, verified=not unverified, complete=True)
        piece = self._with_logprobs(piece, text)
        return piece, End("stop" if text.stopped else reason, text.tokens, unverified)

    def _with_logprobs(self, piece: Piece | None, text: Decoding) -> Piece | None:
        """What is shown, and the probabilities of the tokens that have begun by now."""
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
        # What is committed may lag behind what is shown, as long as nothing has contradicted that.
        if shown.startswith(text) and not (complete or self._contradicted):
            return None
        if text.startswith(shown):  # as it does without a guess: to compare each character takes long in a long text
            same = len(shown)
        else:
            same = next((at for at, (a, b) in enumerate(zip(shown, text, strict=False)) if a != b), len(text))
        self._shown, self._contradicted = text, False
        if same < len(shown) or len(text) < len(shown):
            return Piece(text[same:], verified, min(same, len(text)))
        return Piece(text[same:], verified) if len(text) > same else None


async def read(
    writer: TextWriter, request: Request, tokenizer: Tokenizer, stops: Sequence[str]
) -> AsyncGenerator[Piece | End, None]:
    """One text as it is written; `End` comes last. Raises: as `writer.write`."""
    now = asyncio.get_running_loop().time
    reader = Reader(lambda: Decoding(tokenizer.stream(), stops), len(request.prompt))
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
