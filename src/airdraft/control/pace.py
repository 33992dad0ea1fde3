"""The measured pace of a way to write."""

from __future__ import annotations

import math

ENOUGH = 32
"""Tokens after which a pace is known: fewer say more of the text than of the way."""
_FADING = 2 * ENOUGH
"""Tokens after which evidence counts 1/e."""
FORGOTTEN = 1024
"""Tokens written in another way, after which a pace says nothing of today and is measured again."""


class TokenPace:
    """Seconds a token in one way to write, as it was lately."""

    def __init__(self) -> None:
        self._evidence = self._sum_s = 0.0  # of 1, and seconds a token times it
        self._elsewhere = 0

    def wrote(self, tokens: int, seconds: float) -> None:
        """Learn that so many tokens took so long."""
        new = -math.expm1(-tokens / _FADING)  # the rest is left of what was before
        self._evidence += new * (1 - self._evidence)
        self._sum_s += new * (seconds / max(1, tokens) - self._sum_s)
        self._elsewhere = 0

    def missed(self, tokens: int) -> None:
        """Learn that so many tokens were written in another way."""
        self._elsewhere += tokens
        if self._elsewhere >= FORGOTTEN:
            self._evidence = self._sum_s = 0.0

    @property
    def token_s(self) -> float | None:
        """Seconds a token; None: not known."""
        return self._sum_s / self._evidence if self._evidence >= _KNOWN else None


_KNOWN = -math.expm1(-ENOUGH / _FADING) * (1 - 1e-9)
"""Evidence from `ENOUGH` tokens, but for rounding."""
