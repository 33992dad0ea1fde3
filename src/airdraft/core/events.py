"""What the two machines ask of, and tell, the shell that drives them."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.logprobs import Logprob
from airdraft.core.messages import Welcome


@dataclass(frozen=True)
class Forward:
    """Asked: run the model. Answer with the machine's `forwarded`, or `failed` if the engine cannot."""

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
    """Of the ping, its frame included; headers below are not."""
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


Event = Forward | Ready | Committed | Echo | Finished | Failed
