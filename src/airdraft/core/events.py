"""Events, by which the machines ask things of the shell that drives them, and report to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from airdraft.core.law import Needs
from airdraft.core.logprobs import Logprob
from airdraft.core.messages import GuideSpec, Message, Welcome
from airdraft.core.sampling import SamplingParams


@dataclass(frozen=True)
class Forward:
    """A request to run the model. Answer with the machine's `forwarded`, or `failed` if the engine cannot."""

    session: int
    keep: int
    """Number of cached positions to keep; roll back the rest."""
    tokens: tuple[int, ...]
    """Ids to feed after those."""
    rows: int
    """Number of rows of logits to return, from the end; 0 is a prefill."""
    spare: bool = False
    """Edge: run only while the engine has nothing else to do."""
    proposed: int = 0
    """Edge: number of the last tokens that it proposes itself. No quota pays for them."""
    parents: tuple[int, ...] | None = None
    """For each token the index of the one that it follows; below 0 a position that stays, counted from their end: -1
    is the last. None: a chain that follows the last."""
    picks: tuple[int, ...] = ()
    """Cached positions that stay besides the first `keep`, counted from there, upwards. They move up to `keep`."""
    draft: bool = False
    """Edge: run its own draft model and not the target. Answer with `unhelped` if that fails; nobody pays."""
    needs: Needs | None = field(default=None, compare=False, repr=False)
    """Edge: what is needed of the rows: the answer may be objects [rows], each that or a row. None: rows."""

    @property
    def due(self) -> int:
        """Tokens to feed that are paid for, whatever comes of them."""
        return len(self.tokens) - self.proposed


@dataclass(frozen=True)
class Compile:
    """Edge: a request to read the grammar of a text. Answer with the machine's `guided`, or `failed`."""

    session: int
    spec: GuideSpec
    eos_ids: tuple[int, ...]
    """The tokens that end the text."""
    params: SamplingParams


@dataclass(frozen=True)
class Begun:
    """A new text is open."""

    session: int
    prompt_length: int
    length: int
    """Tokens in the text; more than `prompt_length` when it is resumed."""
    max_tokens: int
    scheme: str
    private: int | None = None
    """As in `Open`."""


@dataclass(frozen=True)
class Taken:
    """The edge's acceptance of a text or a switch."""

    session: int
    length: int


@dataclass(frozen=True)
class Offered:
    """Drafts that left the device, or arrived at the edge."""

    session: int
    start: int
    drafted: int
    nbytes: int
    """Size of the encoded drafts, without headers."""


@dataclass(frozen=True)
class Progress:
    """Edge: the commit of a target forward."""

    session: int
    start: int
    """Length of the text before the commit."""
    accepted: int
    """Number of the device's drafts that are committed; they come first."""
    written: int
    """Tokens after these, including one that the device draws after a rejection."""
    verified: int
    """The device's drafts in the forward."""
    raced: bool
    """Whether the edge wrote on its own, without the device's drafts or rounds."""
    proposer: str = ""
    """Name of the `Proposer` whose tokens were in the forward; empty: there was none."""
    proposed: int = 0
    """Number of its tokens in the forward."""
    taken: int = 0
    """How many of these are committed; `written` includes them."""


@dataclass(frozen=True)
class Turning:
    """A request to switch to another scheme."""

    session: int
    scheme: str


@dataclass(frozen=True)
class Recovering:
    """`split`: a rejection that needs more candidates."""

    session: int
    answered: bool
    """False: the device asks for more. True: they were sent, or have arrived."""


@dataclass(frozen=True)
class Declined:
    """Edge: the refusal to open a text."""

    session: int
    code: str


@dataclass(frozen=True)
class Ready:
    """Device: the edge's welcome, after which sessions may open."""

    welcome: Welcome


@dataclass(frozen=True)
class Committed:
    """Device: tokens that are now part of the text for good."""

    session: int
    tokens: tuple[int, ...]
    accepted: int
    """Number of the device's own drafts, which come first."""
    kind: str
    """Kind of the last token if it was not drafted: `recovered`, `bonus` or `target` (written without any draft)."""
    logprobs: tuple[Logprob, ...] = ()
    """One for each token, if the request asks for them."""
    copied: frozenset[int] = frozenset()
    """Which of the accepted drafts, counted from 0, are no draft model's, but copies."""

    @property
    def proposed(self) -> int:
        """Number of tokens after the accepted drafts that the edge proposed to its target."""
        return max(0, len(self.tokens) - self.accepted - 1)


@dataclass(frozen=True)
class Echo:
    """The answer to a ping."""

    seconds: float
    """Round trip, including the transmission of both messages."""
    bytes_out: int
    """Size of the ping's frame, without transport headers."""
    bytes_in: int


@dataclass(frozen=True)
class Finished:
    """The end of a session. `reason`: `stop` (an end-of-text token), `length`, or the peer's own reason."""

    session: int
    reason: str


@dataclass(frozen=True)
class Failed:
    """The end of a session, or of the connection if `session` is None, after an error."""

    session: int | None
    code: str
    message: str
    ours: bool
    """True: we found the error and told the peer. False: the peer told us."""


Note = Begun | Taken | Offered | Progress | Turning | Recovering | Declined
"""A report about a text, for metrics and traces. It needs no action."""

Event = Forward | Compile | Note | Ready | Committed | Echo | Finished | Failed

Out = Message | Event
"""An output of a session: a message for the peer, or an event for the shell."""
