"""Protocols by which a session learns and decides: a learner, a policy and a rule, with the values they exchange.

A learner estimates facts from events, a policy chooses a mode from the facts, and a rule ends a round.
`airdraft.control` implements each. Nothing here reads a clock or draws a random number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from msgspec import structs

from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.errors import BadParameterError


@dataclass(frozen=True)
class Facts:
    """The measured or assumed durations, rates and chances of one session."""

    draft_s: float
    """Duration of a draft forward in seconds, above 0."""
    verify_s: float
    """Duration of a target forward in seconds, above 0, for one token or a few drafts alike."""
    rtt_s: float
    """Round trip of an empty packet in seconds, half of it in each direction."""
    uplink_bps: float
    """Rate from device to edge in bits a second; inf for no limit."""
    downlink_bps: float
    """Rate from edge to device in bits a second."""
    acceptance: float
    """α, the chance that a judged draft is accepted; assumed equal and independent for all."""
    streamed: float | None = None
    """Recent tokens per target forward in a raced stream: 1 if the drafts gain nothing. None: not known."""
    widening: float | None = None
    """Duration of a draft forward at several places of a tree, in those at one. None: not known."""
    drafted: bool = True
    """Whether `draft_s` was measured; else it is assumed."""
    beside: float = 0.0
    """Share of the device's wrong drafts beside which it has the right one, in a tree; 0: its drafts are chains."""
    edge_draft_s: float = 0.0
    """Duration of a forward of the edge's own draft model in seconds; 0: it has none. It is taken to be right as often
    as the device's."""
    raced_s: float | None = None
    """Measured seconds between a raced stream's tokens of late. None: not known."""
    silent_s: float | None = None
    """The same while the device drafts nothing (`server`)."""

    def __post_init__(self) -> None:
        for name in ("draft_s", "verify_s"):
            value = getattr(self, name)
            if not 0 < value < math.inf:  # NaN lands here too
                raise BadParameterError(f"{name} is {value:g}; give a finite time above 0 s")
        for name, what in (("rtt_s", "round trip"), ("edge_draft_s", "time")):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise BadParameterError(f"{name} is {value:g}; give a finite {what} of 0 s or more")
        for name in ("uplink_bps", "downlink_bps"):
            value = getattr(self, name)
            if not value > 0:
                raise BadParameterError(f"{name} is {value:g}; give a rate above 0 in bits a second, or inf")
        if not 0 <= self.acceptance <= 1:
            raise BadParameterError(f"acceptance is {self.acceptance:g}; give a probability, 0 to 1")

    def rounded(self) -> Facts:
        """Round to two digits, and acceptance to 0.02, so that predictions can be reused."""
        scales = ("draft_s", "verify_s", "rtt_s", "uplink_bps", "downlink_bps", "edge_draft_s")
        rounded: dict[str, Any] = {name: _two_digits(getattr(self, name)) for name in scales}
        acceptance, beside = round(50 * self.acceptance) / 50, round(10 * self.beside) / 10
        rounded |= dict.fromkeys(("streamed", "widening", "raced_s", "silent_s"))
        return replace(self, acceptance=acceptance, beside=beside, **rounded)


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


@dataclass(frozen=True)
class Mode:
    """A way to write. `server` needs only its name."""

    scheme: str
    length: int = 0
    """With rounds, tokens in each draft (γ). Without, the window: most drafts beyond the committed text that the device
    has seen. 0: not decided yet."""
    race: str = "always"
    """`stream`: whether the edge writes on its own while it has no draft: `off`, `idle` or `always`."""
    first: int = 1
    """`stream`: tokens in the first packet after a mismatch."""
    then: int = 1
    """`stream`: tokens in each later packet."""
    options: SchemeSpec | None = None
    """With rounds, the scheme's options. None: those of the request."""

    def __post_init__(self) -> None:
        if self.length < 0:
            raise BadParameterError(f"the draft length of {self.scheme} is {self.length}; give 0 or more")
        if self.race not in schemes.RACES:
            raise BadParameterError(f"race is {self.race!r}; choose one of {', '.join(schemes.RACES)}", "race")
        if min(self.first, self.then) < 1:
            raise BadParameterError(f"packets of {self.first} and {self.then} tokens; give at least 1 each")

    @property
    def traits(self) -> schemes.Traits:
        """The scheme's traits. Raises: `BadParameterError` if the scheme is unknown."""
        return schemes.traits(self.scheme)

    @property
    def races(self) -> bool:
        """Whether the edge writes on between drafts."""
        return self.traits.races and self.race != "off"

    def spec(self, given: SchemeSpec) -> SchemeSpec:
        """Return the scheme with its options, which are those of `given` if the mode has none."""
        return structs.replace(self.options or given, name=self.scheme, race=self.race)

    def __str__(self) -> str:
        if not self.traits.drafts:
            return self.scheme
        if self.traits.rounds:
            return f"{self.scheme}, draft length {self.length}"
        return f"{self.scheme}, race {self.race}, window {self.length}, packets of {self.first} then {self.then}"


@dataclass(frozen=True)
class Judged:
    """The drafts' outcome in one target forward."""

    accepted: int
    """Accepted drafts."""
    rejected: int
    """Rejected drafts: 0 or 1, since nothing after a rejected one is judged."""
    agreeing: int
    """Committed tokens that the device had drafted, whether those drafts had arrived or not."""
    tokens: int
    """Committed tokens, without those that the edge proposed."""
    drafts: int
    """The device's drafts at the positions of these tokens."""
    raced: bool
    """Whether this is a stream with a race policy other than `off`."""
    rounds: bool
    """Whether the forward judged a round, in which only its own drafts count."""
    probs: tuple[float, ...] = ()
    """The draft model's probabilities of a round's drafts, if a rule needs them."""
    beside: int = 0
    """Agreeing tokens that the device had drafted only beside a likelier one."""
    written: int = 0
    """All committed tokens."""
    seconds: float | None = None
    """Seconds since the commit before, where both were raced, or both `server`'s. None: there is none."""


class Learner(Protocol):
    """Learns the facts of a connection from its events. Durations are in seconds, 0 or more."""

    def drafted(self, seconds: float, places: int = 1) -> None:
        """Learn the duration of a draft forward, at one place of the text or several."""
        ...

    def judged(self, verdict: Judged) -> None:
        """Learn from one target forward."""
        ...

    def verified(self, seconds: float) -> None:
        """Learn the duration of a target forward, as the edge reports it."""
        ...

    def exchanged(self, seconds: float, up_bytes: int, down_bytes: int, held_s: float) -> None:
        """Learn from an exchange that took `seconds`, from sending `up_bytes` to receiving `down_bytes`.

        For `held_s` of that time it waited for something other than the link, such as a forward.
        """
        ...

    def sent(self, now: float, nbytes: int) -> None:
        """Note `nbytes` sent on the uplink, headers included."""
        ...

    def queued_s(self, now: float) -> float:
        """Seconds that data sent now waits behind earlier data."""
        ...

    def late(self, session: int, now: float, sent: int, heard: int) -> bool:
        """Whether a raced stream's drafts would come too late now. Of its `sent` packets `heard` are confirmed."""
        ...

    def chance(self, prob: float) -> float:
        """Chance that a token is accepted, given its probability under the draft model."""
        ...

    def facts(self) -> Facts:
        """The best current estimate."""
        ...


class Policy(Protocol):
    """Chooses the way to write."""

    def choose(self, facts: Facts, now: float) -> Mode:
        """Choose the mode for now. `now` is in seconds of any clock that does not go back."""
        ...

    def why(self) -> str:
        """One line that explains the last choice to people."""
        ...


class Given:
    """A policy that never changes its mode."""

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
        """Whether to draft another token. `chances[i]` is the estimated acceptance of this round's i-th draft.

        The caller keeps a round between one token and the edge's limit.
        """
        ...

    def learn(self, tokens: int, seconds: float) -> None:
        """Learn from a round that wrote `tokens`, `seconds` after the one before it. Most rules learn nothing."""
        return  # a body, so that rules need none of their own
