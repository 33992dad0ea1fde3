"""Proposals at the edge: tokens that may follow a text, from whoever at the edge has an idea.

Under shared noise the target's own choice is committed whatever was proposed, so a wrong proposal costs a row of a
forward and never the text. Proposals join forwards that run anyway; none runs for their sake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from airdraft.core.events import Forward, Progress
from airdraft.core.schemes import Drafts, Ruling
from airdraft.core.text import Prefix


class Proposer(Protocol):
    """Proposes tokens for one text. It sees the text grow, and so learns by itself how often it is right."""

    name: str
    """For metrics and traces."""

    def propose(self, text: Sequence[int], drafts: Sequence[int], most: int) -> Sequence[int]:
        """Propose what follows `text` and then the device's `drafts`: at most `most` tokens, or none.

        It may be asked again before the text has grown, with other drafts. Only the last answer counts.
        """
        ...

    def dropped(self, start: int, drafts: Sequence[int]) -> None:
        """Take note of the device's drafts from position `start` on, which follow the text no longer."""
        ...


Propose = Callable[[Sequence[int]], Sequence[Proposer]]
"""Makes the proposers of a text, in the order in which they are asked, given the tokens that the client predicts."""


def nobody(prediction: Sequence[int]) -> Sequence[Proposer]:
    """Make no proposers."""
    return ()


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
        """Say what stays of the forward's tokens, unless it is the first of them. See `Forward.picks`."""
        stay = (0, *(node + 1 for node in ruling.path))
        return () if stay[-1] == len(ruling.path) else stay

    def forward(self, number: int, text: Prefix, picks: tuple[int, ...], spare: bool = False) -> Forward:
        """Make a forward of the last committed token and the drafts, with a row for each draft and the next token."""
        tokens, above = (text.tokens[-1], *self.drafts.tokens), self.drafts.parents
        parents = None if above is None else (-1, *(node + 1 for node in above))
        keep, proposed = text.length - 1 - len(picks), len(self.drafts) - self.device
        return Forward(number, keep, tokens, len(tokens), spare, proposed, parents, picks)

    def progress(self, number: int, start: int, ruling: Ruling, committed: int, rounds: bool) -> Progress:
        """Say what came of it: `committed` tokens from position `start` on."""
        accepted, raced, proposed = self.accepted(ruling), not (rounds or self.device), len(self.drafts) - self.device
        return Progress(
            number, start, accepted, committed - accepted, self.device, raced, self.proposer, proposed,
            ruling.accepted - accepted,
        )  # fmt: skip
