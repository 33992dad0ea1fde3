"""Proposals at the edge: tokens that may follow a text, from whoever at the edge has an idea.

Under shared noise the target's own choice is committed whatever was proposed, so a wrong proposal costs a row of a
forward and never the text. Proposals join forwards that run anyway; no forward of the target runs for their sake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from airdraft.core.drafting import Ask
from airdraft.core.events import Forward, Progress
from airdraft.core.schemes import Drafts, Ruling, Scheme
from airdraft.core.text import Prefix

SMOOTHING = 0.2
"""Weight of the last forward in the running mean of durations."""
MOST_TIMED = 8
"""Tokens up to which a forward of the edge's own draft model does not count as reading a prompt."""


class Proposer(Protocol):
    """Proposes tokens for one text. It sees the text grow, and so learns by itself how often it is right."""

    name: str
    """For metrics and traces."""

    @property
    def right(self) -> float:
        """How many tokens of its last answer are right in the mean; one is only if all before it are."""
        ...

    def propose(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Sequence[int]:
        """Propose what follows `text` and then the device's `drafts`: at most `most` tokens, or none.

        It may be asked again before the text has grown, with other drafts. Only the last answer counts.
        """
        ...

    def dropped(self, start: int, drafts: Sequence[int]) -> None:
        """Take note of the device's drafts from position `start` on, which follow the text no longer."""
        ...


Propose = Callable[[Sequence[int], bool], Sequence[Proposer]]
"""Makes the proposers of a text, given what the client predicts and whether it is private: then no text learns from it.
"""


def nobody(prediction: Sequence[int], private: bool) -> Sequence[Proposer]:
    """Make no proposers."""
    return ()


class Helper(Protocol):
    """A draft model at the edge, which drafts for one text between the target's forwards where that saves time."""

    name: str
    """For metrics and traces."""

    def want(self, text: Sequence[int], drafts: Sequence[int], proposed: float, most: int) -> Ask | None:
        """Return the forward of the draft model to run before the target's; None: let the target go on.

        `drafts` follow the text, and so may what is proposed, of which so many tokens are right in the mean. At most
        `most` tokens fit into the target's forward.
        """
        ...

    def told(self, row: np.ndarray) -> None:
        """Take the row [vocab] that `want` asked for."""
        ...

    def instead(self, text: Sequence[int], drafts: Sequence[int], proposed: float, most: int) -> Sequence[int]:
        """Return what to verify after `text` instead of the drafts and what is proposed; nothing to leave it so."""
        ...


@dataclass
class Pace:
    """How long forwards take at an edge, in seconds, from asking for one to its rows; 0: not known."""

    verify_s: float = 0.0
    draft_s: float = 0.0
    """A forward of the edge's own draft model, for one token."""

    def took(self, forward: Forward, seconds: float) -> None:
        """Note how long a forward took. One that reads a prompt says nothing."""
        seconds = min(seconds, 3600.0)  # the longest that messages can say
        if forward.draft and len(forward.tokens) <= MOST_TIMED:
            self.draft_s += (SMOOTHING if self.draft_s else 1) * (seconds - self.draft_s)
        elif forward.rows and not forward.draft:
            self.verify_s += (SMOOTHING if self.verify_s else 1) * (seconds - self.verify_s)


Draw = Callable[[np.ndarray, Sequence[int]], int]
"""Draws the token that a row [vocab] of the edge's draft model stands for, after the text and some drafts."""
Help = Callable[[Draw, Pace], Helper]
"""Makes the helper of a text."""


@dataclass(frozen=True)
class Load:
    """The drafts of one forward: the device's, then those of one proposer."""

    drafts: Drafts = field(default_factory=Drafts)
    device: int = 0
    """Number of the device's drafts."""
    proposer: str = ""
    """Name of the proposer; empty if nobody at the edge proposed anything."""
    numbers: Sequence[int | None] = ()
    """The numbers of the device's drafts, if they came in trees."""

    def accepted(self, ruling: Ruling) -> int:
        """Count the device's drafts that a ruling accepts."""
        return sum(node < self.device for node in ruling.path)

    def picks(self, ruling: Ruling) -> tuple[int, ...]:
        """Say what stays of the forward's tokens, unless it is the first of them. See `Forward.picks`.

        The text's last token is fed again by the next forward, and it is an accepted draft if no token came after it.
        """
        stay = (0, *(node + 1 for node in ruling.path))[: len(ruling.path) + (ruling.token is not None)]
        return () if stay == tuple(range(len(stay))) else stay

    def forward(
        self, number: int, text: Prefix, picks: tuple[int, ...], scheme: Scheme, logprobs: int | None, spare: bool
    ) -> Forward:
        """Make a forward of the last committed token and the drafts, with a row for each draft and the next token."""
        tokens, above = (text.tokens[-1], *self.drafts.tokens), self.drafts.parents
        parents = None if above is None else (-1, *(node + 1 for node in above))
        keep, proposed = text.length - 1 - len(picks), len(self.drafts) - self.device
        needs = scheme.needs(self.drafts, text.place)
        needs = needs and replace(needs, logprobs=logprobs)
        return Forward(number, keep, tokens, len(tokens), spare, proposed, parents, picks, needs=needs)

    def progress(self, number: int, start: int, ruling: Ruling, committed: int, rounds: bool) -> Progress:
        """Say what came of it: `committed` tokens from position `start` on."""
        accepted, raced, proposed = self.accepted(ruling), not (rounds or self.device), len(self.drafts) - self.device
        return Progress(
            number, start, accepted, committed - accepted, self.device, raced, self.proposer, proposed,
            ruling.accepted - accepted,
        )  # fmt: skip
