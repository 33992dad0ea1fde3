"""Rounds on the device: the drafts not judged yet, and the effect of a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.law import Place
from airdraft.core.messages import Verdict
from airdraft.core.schemes import Drafted, Drafts, Scheme
from airdraft.errors import Code, RemoteProtocolError


@dataclass(frozen=True)
class Ruled:
    """The tokens that a verdict commits."""

    tokens: list[int]
    kind: str
    """As in `Committed`."""
    accepted: int
    """How many of them are drafts; these come first."""
    failed: int
    """Drafts rejected on the way: 0 or 1, as a further candidate counts as a draft of its own if it is accepted."""
    rejected: Drafted | None
    """The draft that the device must replace."""


class DeviceRounds:
    """The round under way, and the rejection that may follow it."""

    def __init__(self) -> None:
        self.drafts: list[Drafted] = []
        self.probs: list[float] = []
        """The draft model's probabilities of the drafts, if a rule needs them."""
        self.sent_s = 0.0
        self.sent_bytes = 0
        self.recovered: int | None = None
        """The last token drawn after a rejection, until it is sent to the edge."""
        self._rejected: Drafted | None = None

    def take(self) -> Drafts:
        """Return the round's drafts, to send them."""
        return Drafts(tuple(self.drafts))

    def ruled(self, verdict: Verdict, eos_ids: frozenset[int], most: int) -> Ruled:
        """Act on a verdict. Raises: `RemoteProtocolError` if it does not fit the round.

        `most`: the edge's `max_draft`.
        """
        drafts, last = self.take().spread(most), verdict.accepted
        if last > len(drafts):
            raise RemoteProtocolError(Code.STATE, f"draft {last} of {len(drafts)} was accepted")
        tokens = [drafts.tokens[node] for node in drafts.path(last - 1)]
        accepted = len(tokens)
        rejected = self.drafts[last] if last < len(self.drafts) else None
        ended = bool(tokens) and tokens[-1] in eos_ids
        to_recover = rejected is not None and bool(verdict.extra) and not ended
        if (verdict.token is None) != (ended or to_recover) or (verdict.extra and not to_recover):
            raise RemoteProtocolError(Code.STATE, "a verdict must hold one of a token and the means to draw one")
        if verdict.token is not None:
            tokens.append(verdict.token)
        self.drafts, self.probs = [], []
        self._rejected = rejected if to_recover else None
        kind = "bonus" if rejected is None else "recovered"
        return Ruled(tokens, kind, accepted, int(accepted != last or rejected is not None), self._rejected)

    def recover(self, scheme: Scheme, extra: bytes, at: Place) -> int | None:
        """Draw the token that replaces the rejected draft. None: `extra` did not suffice."""
        if self._rejected is None:
            raise RemoteProtocolError(Code.STATE, "there is no token to recover")
        token = scheme.recover(self._rejected, extra, at)
        if token is not None:
            self._rejected, self.recovered = None, token
        return token
