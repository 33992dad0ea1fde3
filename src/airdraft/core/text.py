"""A text's tokens, length limit and end. Device, edge and `resume` all use it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from airdraft.core.law import Guide, Place
from airdraft.core.messages import Digest

Over = Literal["stop", "length"]
"""Reason for a text's end: an end-of-text token, or its full length."""


def agreeing(some: Sequence[int], others: Sequence[int]) -> int:
    """Count the first tokens that two runs share."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(some), len(others)))


class Prefix:
    """The prompt and committed tokens, which only grow."""

    def __init__(
        self, tokens: Iterable[int], end: float, eos_ids: Iterable[int] = (), begin: int | None = None
    ) -> None:
        """
        Args:
            tokens: the committed tokens so far, prompt included.
            end: most tokens that the text may hold.
            eos_ids: tokens that end it.
            begin: where writing begins; None: after `tokens`. An end-of-text token before it has no effect, since many
                models begin and end a text with the same token.
        """
        self.tokens = list(tokens)
        self.end = end
        self.begin = len(self.tokens) if begin is None else begin
        self.place = Place(len(self.tokens))
        """The place of the next token."""
        self.unguided: int | None = None
        """Where a guide begins that is still being read; None: none is."""
        self._state = Digest()
        self._digests: list[int] = []  # of the text up to each position from `begin` on, as far as asked for
        self.eos_ids = frozenset[int]()
        self.ends_with(eos_ids)

    def ends_with(self, eos_ids: Iterable[int]) -> None:
        """Set the tokens that end the text."""
        self.eos_ids = frozenset(eos_ids)
        self._stopped = not self.eos_ids.isdisjoint(self.tokens[self.begin :])

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def digest(self) -> int:
        """`Digest` of all tokens."""
        return self._hashed()[-1]

    def digest_after(self, tokens: Sequence[int] = ()) -> Digest:
        """Return a running digest of the text followed by `tokens`."""
        self._hashed()
        digest = self._state.copy()
        digest.extend(tokens)
        return digest

    @property
    def over(self) -> Over | None:
        """Reason for the text's end; None while it is not complete."""
        return "stop" if self._stopped else "length" if len(self.tokens) >= self.end else None

    def append(self, tokens: Sequence[int]) -> Over | None:
        """Commit `tokens`. Returns `over` afterwards."""
        self.tokens += tokens
        for token in tokens:
            self.place = self.place.then(token)
        self._stopped |= not self.eos_ids.isdisjoint(tokens)
        return self.over

    def guided(self, guide: Guide | None, begin: int) -> None:
        """Let the text keep to a grammar from position `begin` on. Raises: `RemoteProtocolError` if it has not."""
        place = Place(begin, None if guide is None else guide.within(self.tokens[:begin]))
        for token in self.tokens[begin:]:
            place = place.then(token)
        self.place, self.unguided = place, None

    def follows(self, start: int, digest: int) -> bool:
        """Whether the text up to `start` has this digest; False if `start` is before `begin` or beyond the end."""
        return self.begin <= start <= len(self.tokens) and self._hashed()[start - self.begin] == digest

    def _hashed(self) -> list[int]:
        """The digests, after hashing what was appended since the last call."""
        if not self._digests:
            self._state.extend(self.tokens[: self.begin])
            self._digests.append(self._state.value)
        for token in self.tokens[self.begin + len(self._digests) - 1 :]:
            self._state.extend([token])
            self._digests.append(self._state.value)
        return self._digests
