"""A request for a text, and the costs of that text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from airdraft import values
from airdraft.core.messages import GuideSpec, SchemeSpec
from airdraft.core.policy import Length, Policy
from airdraft.core.sampling import SamplingParams


@dataclass
class Counts:
    """The costs of a text so far."""

    rounds: int = 0
    forwards: int = 0
    """Target forwards, without the prefill."""
    cached: int = 0
    """Tokens of the prompt that the target had read already, for another text."""
    draft_rows: int = 0
    """Rows that the device's draft model gave, one for each token that it drafted: what its battery pays."""
    drafted: int = 0
    """Drafted tokens sent."""
    accepted: int = 0
    rejected: int = 0
    """Drafted tokens rejected: at most one a forward, since nothing after it is judged."""
    raced: int = 0
    """Tokens that the edge wrote without a draft."""
    committed: int = 0
    uplink_payload_bytes: int = 0
    """Bytes in the bodies of drafts: ids and probabilities, without headers."""
    downlink_payload_bytes: int = 0
    """Bytes that `split` sends for the device to recover with."""

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted share of the judged tokens, the literature's α. None: no token was judged yet."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else None

    @classmethod
    def total(cls, counts: Iterable[Self]) -> Self:
        """Add up several counts."""
        every = list(counts)
        return cls(**{each.name: sum(getattr(one, each.name) for one in every) for each in fields(cls)})


@dataclass(frozen=True)
class Request:
    """A request to write one text. Raises: `BadParameterError` for a value of the wrong type."""

    prompt: Sequence[int]
    scheme: SchemeSpec
    """The first scheme, and the options for any scheme that the policy chooses later."""
    params: SamplingParams
    seed: int
    max_tokens: int
    draft_length: int | None = None
    """Most tokens in one round (γ), or most drafts of a stream beyond the committed text (its window). None: chosen by
    measurement."""
    committed: Sequence[int] = ()
    """Tokens that an earlier session committed, if the text is resumed."""
    counts: Counts = field(default_factory=Counts)
    """Updated as the text is written."""
    policy: Policy | None = None
    """Chooses scheme, draft length and window. None: keep the scheme."""
    rule: Length | None = None
    """Ends a round token by token, instead of at a draft length. None: no rule."""
    logprobs: int | None = None
    """Number of likely tokens to list with each token's log-probability. None: no log-probabilities. Not available
    under `split`, where the device draws recovered tokens."""
    prediction: Sequence[int] = ()
    """What the text is expected to be, most of it at least. It changes nothing but the speed, and goes with schemes
    without rounds."""
    branches: int | None = None
    """Drafts of a tree behind which each step of a stream runs the draft model. 0: chains only. None: chosen by
    measurement. It matters where the edge takes trees."""
    private: int | None = None
    """Position in the prompt of the first private token. What depends on it, which is all that follows, is in no store,
    no cache of another text, no log and no trace, and only edges that keep to this get it. None: nothing is private."""

    guide: GuideSpec | None = None
    """The grammar that the text keeps to. None: none."""

    _PLAIN: ClassVar[dict[str, Callable[[str, Any], Any]]] = {
        "prompt": values.ids, "scheme": values.instance(SchemeSpec), "params": values.instance(SamplingParams),
        "seed": values.whole, "max_tokens": values.whole, "draft_length": values.optional(values.whole),
        "committed": values.ids, "counts": values.instance(Counts), "logprobs": values.optional(values.whole),
        "policy": values.optional(values.having("choose")), "rule": values.optional(values.having("more", "learn")),
        "prediction": values.ids, "branches": values.optional(values.whole),
        "private": values.optional(values.whole), "guide": values.optional(values.instance(GuideSpec)),
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name, plain in self._PLAIN.items():
            object.__setattr__(self, name, plain(name, getattr(self, name)))
