"""What a text is asked for with, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Self

from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Length, Policy
from airdraft.core.sampling import SamplingParams


@dataclass
class Counts:
    """What a text has cost so far."""

    rounds: int = 0
    forwards: int = 0
    """Of the target, prefill apart."""
    drafted: int = 0
    """Drafted tokens that were sent."""
    accepted: int = 0
    rejected: int = 0
    """Drafted tokens that were judged and refused: at most one a forward, for nothing after it is judged."""
    raced: int = 0
    """Tokens that the edge wrote while it had no draft."""
    committed: int = 0
    uplink_payload_bytes: int = 0
    """Bodies of drafts: ids and probabilities, without any header."""
    downlink_payload_bytes: int = 0
    """What `split` sends down for the device to recover from."""

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted share of the tokens that were judged, the literature's α; None before the first is."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else None

    @classmethod
    def total(cls, counts: Iterable[Self]) -> Self:
        """The sums."""
        every = list(counts)
        return cls(**{each.name: sum(getattr(one, each.name) for one in every) for each in fields(cls)})


@dataclass(frozen=True)
class Request:
    """One text to be written."""

    prompt: Sequence[int]
    scheme: SchemeSpec
    """The scheme to begin with, and the options of whatever scheme the policy chooses."""
    params: SamplingParams
    seed: int
    max_tokens: int
    draft_length: int | None = None
    """Most tokens drafted in one round (γ), or most drafts of a stream beyond what is committed (its window). None:
    the best by what is measured."""
    committed: Sequence[int] = ()
    """Tokens an earlier session committed, when a text is resumed."""
    counts: Counts = field(default_factory=Counts)
    """Filled while the text is written."""
    policy: Policy | None = None
    """Who chooses scheme, draft length and window; None keeps the scheme."""
    rule: Length | None = None
    """What ends a round, token by token, in place of a draft length; None: nothing."""
    logprobs: int | None = None
    """Whether to be told how likely the target held each token, and so many of the likeliest besides; None: no. The
    edge must know them, so not under `split`, whose recovered tokens are the device's."""
