"""What the draft model writes while no edge answers: shown, but not the text until an edge has confirmed it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from airdraft.core.connection import known_rows
from airdraft.core.events import Committed, Finished, Forward
from airdraft.core.request import Request
from airdraft.core.sampling import choose
from airdraft.errors import RefusedError
from airdraft.scheduler import Owner, Scheduler


@dataclass(frozen=True)
class Unverified:
    """Tokens of the draft model's alone, which may yet be taken back. `Committed` tokens at the same positions confirm
    them; a `Corrected` takes them back.
    """

    position: int
    """Of the first, from the start of the prompt."""
    tokens: tuple[int, ...]
    ended: Literal["stop", "length"] | None = None
    """Why the draft model has nothing to add; `tokens` is empty then. Said again if an edge was there meanwhile."""


@dataclass(frozen=True)
class Corrected:
    """The target's text differs from here on: all unverified tokens from `position` on were wrong. What is right
    follows, in the next event.
    """

    position: int
    """From the start of the prompt."""
    tokens: tuple[int, ...]
    """Those that are taken back."""


class Guess:
    """What was shown of one text beyond what is committed."""

    def __init__(self, request: Request, scheduler: Scheduler, vocab_size: int, eos_ids: Collection[int]) -> None:
        """`scheduler` runs the draft model, whose end tokens `eos_ids` are."""
        self.tokens: list[int] = []
        self._request = request
        self._scheduler = scheduler
        self._vocab_size = vocab_size
        self._eos = frozenset(eos_ids)
        self._most = min(len(request.prompt) + request.max_tokens, scheduler.engine.info.max_context)
        self._text = scheduler.open(Owner())
        self._fed: list[int] = []

    async def more(self, committed: Sequence[int]) -> Unverified | None:
        """One token more after `committed` and what is shown, or that the draft model has nothing to add. None once the
        writer is closed.

        It is drawn with the noise of its position, so under `coupled`, `stream`, `server` or greedy sampling it is the
        target's own as often as any draft is. Raises: `ModelError`.
        """
        tokens = [*self._request.prompt, *committed, *self.tokens]
        if self.tokens and self.tokens[-1] in self._eos:
            return Unverified(len(tokens), (), "stop")
        if len(tokens) >= self._most:
            return Unverified(len(tokens), (), "length")
        keep = next((at for at, (a, b) in enumerate(zip(self._fed, tokens, strict=False)) if a != b), len(self._fed))
        keep = min(keep, len(tokens) - 1)
        forward = Forward(0, keep, tuple(tokens[keep:]), 1)
        try:
            rows = await self._scheduler.run(self._text, lambda: forward)
        except RefusedError:  # the writer is closed, which whoever waits for an edge is told
            return None
        row = known_rows(rows, 1, self._vocab_size)[0]
        self._fed = tokens
        self.tokens.append(choose(row, self._request.params, self._request.seed, len(tokens)))
        return Unverified(len(tokens), (self.tokens[-1],))

    def judge(self, event: Committed | Finished, length: int) -> Corrected | None:
        """Compare with what an edge says next of a text whose committed part, prompt included, was `length` long."""
        tokens = event.tokens if isinstance(event, Committed) else ()
        both = list(zip(self.tokens, tokens, strict=False))
        right = next((at for at, (shown, token) in enumerate(both) if shown != token), len(both))
        wrong = right < len(both) or isinstance(event, Finished)
        rest = self.tokens[right:]
        self.tokens = [] if wrong else rest
        return Corrected(length + right, tuple(rest)) if wrong and rest else None

    def close(self) -> None:
        """Free the draft model's cache."""
        self._scheduler.drop(self._text)
