"""Events: what the machines ask of the shell that drives them, and what they report to it."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.logprobs import Logprob
from airdraft.core.messages import Message, Welcome


@dataclass(frozen=True)
class Forward:
    """Run the model. Answer with the machine's `forwarded`, or with `failed` if the engine cannot."""

    session: int
    keep: int
    """Cached positions that stay; roll back everything after them."""
    tokens: tuple[int, ...]
    """Ids to feed after those."""
    rows: int
    """How many of the last rows of logits to return; 0 is a prefill."""
    spare: bool = False
    """Edge: only worth running while the engine has nothing else to do."""


@dataclass(frozen=True)
class Begun:
    """A text was opened."""

    session: int
    prompt_length: int
    length: int
    """Tokens of the text; more than `prompt_length` when it is resumed."""
    max_tokens: int
    scheme: str


@dataclass(frozen=True)
class Taken:
    """The edge has taken the text, or follows a switch."""

    session: int
    length: int


@dataclass(frozen=True)
class Offered:
    """Drafts left the device, or arrived at the edge."""

    session: int
    start: int
    drafted: int
    nbytes: int
    """Size of their encoding, without headers."""


@dataclass(frozen=True)
class Progress:
    """Edge: a forward of the target was committed."""

    session: int
    start: int
    """Length of the text before it."""
    accepted: int
    """The first so many tokens are the device's drafts."""
    written: int
    """Tokens that follow them, one that the device draws after a rejection included."""
    verified: int
    """Drafts in the forward."""
    raced: bool
    """Whether the edge wrote without any draft, and without being asked for a round."""


@dataclass(frozen=True)
class Turning:
    """A switch to another scheme was asked for."""

    session: int
    scheme: str


@dataclass(frozen=True)
class Recovering:
    """`split`: the candidates of a rejection did not suffice."""

    session: int
    answered: bool
    """False: more are asked for. True: they are on their way, or here."""


@dataclass(frozen=True)
class Declined:
    """Edge: a text was refused before it was opened."""

    session: int
    code: str


@dataclass(frozen=True)
class Ready:
    """Device: the edge welcomed us; sessions may be opened."""

    welcome: Welcome


@dataclass(frozen=True)
class Committed:
    """Device: tokens that are now part of the text, for ever."""

    session: int
    tokens: tuple[int, ...]
    accepted: int
    """The first so many were drafted on the device."""
    kind: str
    """What the last token is if it was not drafted: `recovered`, `bonus` or `target` (written without any draft)."""
    logprobs: tuple[Logprob, ...] = ()
    """One for each token, if the request wants them."""


@dataclass(frozen=True)
class Echo:
    """A ping was answered."""

    seconds: float
    """Round trip, the transmission of both messages included."""
    bytes_out: int
    """Size of the ping's frame, without transport headers."""
    bytes_in: int


@dataclass(frozen=True)
class Finished:
    """The session is over. `reason`: `stop` (an end-of-text token), `length`, or what the peer said."""

    session: int
    reason: str


@dataclass(frozen=True)
class Failed:
    """The session (or, with session None, the connection) is over because of an error."""

    session: int | None
    code: str
    message: str
    ours: bool
    """True: we found the fault and told the peer. False: the peer told us."""


Note = Begun | Taken | Offered | Progress | Turning | Recovering | Declined
"""What is reported of texts, for whoever counts and traces them. Nothing has to be done about it."""

Event = Forward | Note | Ready | Committed | Echo | Finished | Failed

Out = Message | Event
"""What a session gives: messages for the peer, and events for the shell, in their order."""
