"""Texts that outlive a connection: what is left of a request, and how long to wait before the next attempt.

The edge keeps nothing of a text that its device could not tell it again: prompt and committed tokens are all there is
to go on from, at the same edge or at any other with the same target. Noise belongs to positions, so a text under
`coupled`, `stream`, `server` or greedy sampling goes on to the same token. So do the coins of `dense`, `topk` and
`split`: what is cut off while a rejection is dealt with meets it again, and stays exact in distribution.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import get_args

import numpy as np

from airdraft.core.events import Committed, Finished
from airdraft.core.request import Request
from airdraft.core.text import Over, Prefix
from airdraft.errors import LocalProtocolError


class Resumable:
    """One text, however many sessions it takes."""

    def __init__(self, request: Request, eos_ids: Collection[int] = ()) -> None:
        """`eos_ids`: the target's, where they are known already; see `ends_with`."""
        self._request = request
        prompt, most = tuple(request.prompt), request.max_tokens
        # 0 is no number of tokens, and the machine that opens the text says so.
        self._text = Prefix(
            [*prompt, *request.committed], len(prompt) + most if most > 0 else math.inf, eos_ids, len(prompt)
        )
        self._ended: str | None = None  # what a session said

    @property
    def tokens(self) -> list[int]:
        """Committed tokens so far, those that the request begins with included."""
        return self._text.tokens[self._text.begin :]

    @property
    def finished(self) -> str | None:
        """Why the text is complete, as in `Finished`; None while it is not. The link may have died before anybody said
        so.
        """
        return self._ended or self._text.over

    def ends_with(self, eos_ids: Collection[int]) -> bool:
        """Set the tokens that end a text, as an edge's welcome says. Returns whether the text is complete: it may hold
        one.
        """
        self._text.ends_with(eos_ids)
        return self.finished is not None

    def next_request(self) -> Request:
        """The request for what is left, from what is committed on. Counts, policy and rule are the same objects.

        Raises: `LocalProtocolError` if nothing is left to write.
        """
        if self.finished is not None:
            raise LocalProtocolError(f"the text is complete ({self.finished}); there is nothing to ask for")
        return replace(self._request, committed=tuple(self.tokens))

    def take(self, event: Committed | Finished) -> None:
        """Take a session's event. Raises: `LocalProtocolError` if the text was complete before."""
        if isinstance(event, Finished):
            if event.reason not in get_args(Over):
                raise LocalProtocolError(f"a session ended with {event.reason!r}, which no complete text does")
            self._ended = self.finished or event.reason
            return
        if self.finished is not None or self._text.length + len(event.tokens) > self._text.end:
            raise LocalProtocolError(f"{len(event.tokens)} tokens were committed after the text was complete")
        self._text.append(event.tokens)


class Backoff:
    """How long to wait after a failure: twice as long each time, less a random part, so that devices that lost one edge
    at the same moment do not all come back at the same moment (Brooker 2015, "Exponential Backoff And Jitter").
    """

    def __init__(self, first_s: float = 0.2, most_s: float = 10.0, jitter: float = 0.5, seed: int = 0) -> None:
        """`jitter`: the largest part of a delay, 0 to 1, that may be left off. `seed`: another one for every device."""
        self._first_s, self._most_s, self._jitter = first_s, most_s, jitter
        self._rng = np.random.default_rng(seed)
        self._next_s = first_s

    def failed(self) -> float:
        """Seconds to wait before the next attempt."""
        delay_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        return delay_s * (1 - self._jitter * float(self._rng.random()))

    def succeeded(self) -> None:
        """The next failure is a first one again."""
        self._next_s = self._first_s
