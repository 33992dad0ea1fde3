"""Protocols by which a session learns and decides: a learner, a policy, a rule; and the values they exchange.

A learner hears of events and estimates facts; a policy chooses a mode by them, and a rule ends a round.
`airdraft.control` has some of each. Nothing here reads a clock or draws a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from airdraft.core import schemes
from airdraft.errors import BadParameterError


@dataclass(frozen=True)
class Facts:
    """The durations, rates and chances that are known, or assumed, about one session."""

    draft_s: float
    """A forward of the draft model, in seconds, above 0."""
    verify_s: float
    """A forward of the target, for one token or a few drafts alike, above 0."""
    rtt_s: float
    """Round trip of an empty packet; half of it is spent in each direction."""
    uplink_bps: float
    """Device to edge, bits a second; inf for no limit."""
    downlink_bps: float
    """Edge to device."""
    acceptance: float
    """α, the chance that a drafted token which is judged is accepted; taken as the same and independent for all."""
    streamed: float | None = None
    """Tokens that a forward of the target gave lately while drafts were streamed and the edge raced: 1 if the drafts
    gained nothing. None: not known."""

    def __post_init__(self) -> None:
        for name in ("draft_s", "verify_s"):
            value = getattr(self, name)
            if not 0 < value < math.inf:  # NaN lands here too
                raise BadParameterError(f"{name} is {value:g}; give a finite time above 0 s")
        if not 0 <= self.rtt_s < math.inf:
            raise BadParameterError(f"rtt_s is {self.rtt_s:g}; give a finite round trip of 0 s or more")
        for name in ("uplink_bps", "downlink_bps"):
            value = getattr(self, name)
            if not value > 0:
                raise BadParameterError(f"{name} is {value:g}; give a rate above 0 in bits a second, or inf")
        if not 0 <= self.acceptance <= 1:
            raise BadParameterError(f"acceptance is {self.acceptance:g}; give a probability, 0 to 1")

    def rounded(self) -> Facts:
        """The facts that predictions rest on, to two digits, acceptance to 0.02: near enough, and a prediction made
        once may serve again."""
        return Facts(
            draft_s=_two_digits(self.draft_s),
            verify_s=_two_digits(self.verify_s),
            rtt_s=_two_digits(self.rtt_s),
            uplink_bps=_two_digits(self.uplink_bps),
            downlink_bps=_two_digits(self.downlink_bps),
            acceptance=round(50 * self.acceptance) / 50,
        )


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


@dataclass(frozen=True)
class Mode:
    """A way to write. `server` needs no more than its name."""

    scheme: str
    length: int = 0
    """Rounds: tokens drafted before the edge is asked (γ). Without: the window, how many tokens beyond the committed
    length it knows of the device may draft. 0: not decided yet."""
    race: str = "always"
    """`stream`: whether the edge decodes a token itself while no draft is at hand: `off`, `idle` or `always`."""
    first: int = 1
    """`stream`: tokens in the first packet after a mismatch."""
    then: int = 1
    """`stream`: tokens in each packet that follows."""

    def __post_init__(self) -> None:
        if self.length < 0:
            raise BadParameterError(f"the draft length of {self.scheme} is {self.length}; give 0 or more")
        if self.race not in schemes.RACES:
            raise BadParameterError(f"race is {self.race!r}; choose one of {', '.join(schemes.RACES)}")
        if min(self.first, self.then) < 1:
            raise BadParameterError(f"packets of {self.first} and {self.then} tokens; give at least 1 each")

    @property
    def traits(self) -> schemes.Traits:
        """The traits of its scheme. Raises: `BadParameterError` if that is unknown."""
        return schemes.traits(self.scheme)

    @property
    def races(self) -> bool:
        """Whether the edge writes on between drafts."""
        return self.traits.races and self.race != "off"

    def __str__(self) -> str:
        if not self.traits.drafts:
            return self.scheme
        if self.traits.rounds:
            return f"{self.scheme}, draft length {self.length}"
        return f"{self.scheme}, race {self.race}, window {self.length}, packets of {self.first} then {self.then}"


@dataclass(frozen=True)
class Judged:
    """The outcome of one forward of the target for the drafts."""

    accepted: int
    """Drafts that it accepted."""
    rejected: int
    """Drafts that it refused: 0 or 1, for nothing after a refused one is judged."""
    agreeing: int
    """Tokens it committed that the device had drafted, whether they had arrived or not."""
    tokens: int
    """Tokens that it committed."""
    drafts: int
    """Drafts that the device had for the positions of these tokens."""
    raced: bool
    """Whether a stream with a race policy other than `off` is under way."""
    rounds: bool
    """Whether it judged a round. In one only the drafts it was asked about count."""
    probs: tuple[float, ...] = ()
    """The draft model's probabilities of the drafts of a round, if a rule asks for chances."""


class Learner(Protocol):
    """Learns the facts of a connection from what happens on it. Durations in seconds, 0 or more."""

    def drafted(self, seconds: float) -> None:
        """Learn how long a forward of the draft model took."""
        ...

    def judged(self, verdict: Judged) -> None:
        """Learn from one forward of the target."""
        ...

    def verified(self, seconds: float) -> None:
        """Learn how long a forward of the target takes, as the edge says."""
        ...

    def exchanged(self, seconds: float, up_bytes: int, down_bytes: int, held_s: float) -> None:
        """Learn from an exchange that took `seconds`, from handing over `up_bytes` to having `down_bytes`.

        For `held_s` of it the answer waited for other things than the link: a forward, say.
        """
        ...

    def sent(self, now: float, nbytes: int) -> None:
        """Note that so many bytes were put on the uplink, headers included."""
        ...

    def queued_s(self, now: float) -> float:
        """How long what is sent now waits behind what was sent before."""
        ...

    def chance(self, prob: float) -> float:
        """The chance that a token is accepted which the draft model drew at this probability."""
        ...

    def facts(self) -> Facts:
        """The best guess now."""
        ...


class Policy(Protocol):
    """Chooses the way to write."""

    def choose(self, facts: Facts, now: float) -> Mode:
        """The mode for the time being. `now` in seconds of any clock; it must not go back."""
        ...

    def why(self) -> str:
        """The last choice, in a line for people."""
        ...


class Given:
    """Always the same mode."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode

    def choose(self, facts: Facts, now: float) -> Mode:
        """See `Policy.choose`."""
        return self._mode

    def why(self) -> str:
        """See `Policy.why`."""
        return f"{self._mode}: as asked for"


class Length(Protocol):
    """A rule for the draft length."""

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """Whether to draft another token. `chances[i]`: the estimated acceptance of the i-th drafted in this round.

        A round has one token at least, and what the edge allows at most; the caller sees to that.
        """
        ...
