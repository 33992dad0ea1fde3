"""The draft model's writing while no edge answers, or a forecast says that the link is down.

It is shown, but not part of the text until an edge confirms it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from airdraft.core.connection import known_rows
from airdraft.core.events import Committed, Finished, Forward
from airdraft.core.law import Law, Place
from airdraft.core.request import Request
from airdraft.core.text import agreeing
from airdraft.errors import RefusedError
from airdraft.scheduler import Owner, Scheduler

LOOK_S = 0.05
"""Seconds between looks at a link that is silent."""


@dataclass(frozen=True)
class Unverified:
    """Tokens that the draft model wrote alone. `Committed` tokens at the same positions confirm them; a `Corrected`
    takes them back.
    """

    position: int
    """Position of the first token, counted from the start of the prompt."""
    tokens: tuple[int, ...]
    ended: Literal["stop", "length"] | None = None
    """Why the draft model has nothing to add; `tokens` is empty then. Sent again after an edge has come and gone."""


@dataclass(frozen=True)
class Corrected:
    """The unverified tokens from `position` on were wrong. The next event has the right ones."""

    position: int
    """Position of the first wrong token, counted from the start of the prompt."""
    tokens: tuple[int, ...]
    """The tokens that are taken back."""


class Guess:
    """The part of one text that was shown beyond what is committed."""

    def __init__(self, request: Request, scheduler: Scheduler, vocab_size: int, eos_ids: Collection[int]) -> None:
        """`scheduler` runs the draft model; `eos_ids` are its end tokens."""
        self.tokens: list[int] = []
        self._request = request
        self._scheduler = scheduler
        self._law = Law(request.params, request.seed, vocab_size)
        self._eos = frozenset(eos_ids)
        self._most = min(len(request.prompt) + request.max_tokens, scheduler.engine.info.max_context)
        self._text = scheduler.open(Owner(), request.private)
        self._fed: list[int] = []

    async def more(self, committed: Sequence[int]) -> Unverified | None:
        """Return one token more after `committed` and what is shown, or the reason why the draft model adds none. None
        once the writer is closed.

        The token is drawn with the noise of its position, so under `coupled`, `stream`, `server` or greedy sampling it
        is the target's own as often as any draft is. Raises: `ModelError`.
        """
        tokens = [*self._request.prompt, *committed, *self.tokens]
        if self.tokens and self.tokens[-1] in self._eos:
            return Unverified(len(tokens), (), "stop")
        if len(tokens) >= self._most:
            return Unverified(len(tokens), (), "length")
        keep = min(agreeing(self._fed, tokens), len(tokens) - 1)
        forward = Forward(0, keep, tuple(tokens[keep:]), 1)
        try:
            rows = await self._scheduler.run(self._text, lambda: forward)
        except RefusedError:  # the writer is closed: the wait for an edge ends with the error
            return None
        row = known_rows(rows, 1, self._law.vocab_size)[0]
        self._fed = tokens
        self.tokens.append(self._law.choose(row, Place(len(tokens))))
        return Unverified(len(tokens), (self.tokens[-1],))

    def judge(self, event: Committed | Finished, length: int) -> Corrected | None:
        """Compare with the next event of a text whose committed part, prompt included, was `length` tokens long."""
        tokens = event.tokens if isinstance(event, Committed) else ()
        right = agreeing(self.tokens, tokens)
        wrong = right < min(len(self.tokens), len(tokens)) or isinstance(event, Finished)
        rest = self.tokens[right:]
        self.tokens = [] if wrong else rest
        return Corrected(length + right, tuple(rest)) if wrong and rest else None

    def close(self) -> None:
        """Free the draft model's cache."""
        self._scheduler.drop(self._text)


async def meanwhile(
    events: AsyncGenerator[Committed | Finished, None],
    guess: Guess,
    committed: Callable[[], Sequence[int]],
    is_down: Callable[[], bool],
) -> AsyncGenerator[Committed | Finished | Unverified, None]:
    """Yield a session's events, and while its link is down what the draft model would write.

    committed: returns the text's tokens, which grow as the reader takes events. Raises: as `events` does.
    """
    arriving, ended = asyncio.create_task(_next(events)), False
    try:
        while True:
            await asyncio.wait({arriving}, timeout=LOOK_S)
            if arriving.done():
                event = arriving.result()
                if event is None:
                    return
                yield event
                arriving, ended = asyncio.create_task(_next(events)), False
            while not arriving.done() and not ended and is_down():
                unverified = await guess.more(committed())
                ended = unverified is None or unverified.ended is not None
                if unverified is not None:
                    yield unverified
    finally:
        arriving.cancel()
        await asyncio.gather(arriving, return_exceptions=True)


async def _next(events: AsyncGenerator[Committed | Finished, None]) -> Committed | Finished | None:
    return await anext(events, None)
