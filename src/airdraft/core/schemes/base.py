"""The work of every scheme on both sides of the link, and the traits it declares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

import numpy as np

from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray, IntArray
from airdraft.errors import BadParameterError, LocalProtocolError

DEVICE, EDGE = 1, 2
"""The two sides, which draw from independent streams of one seed."""

Guess = np.ndarray | int
"""The source of a draft: the draft model's row of logits [vocab], or a token simply believed (a point mass)."""


@dataclass(frozen=True)
class Traits:
    """Declarations of a scheme, by which others tell schemes apart without their names."""

    rounds: bool
    """True: one draft is in flight at a time, and waits for its verdict. False: drafts and tokens flow freely."""
    drafts: bool
    """Whether the device drafts at all."""
    exact: Literal["text", "distribution"]
    """`text`: token for token what the target alone writes for the seed. `distribution`: distributed as that is."""
    recovers_on: int | None
    """The side that draws the token after a rejection, `DEVICE` or `EDGE`. None: no such draw, the edge chooses."""
    takes_ids: bool
    """Whether a believed token costs little more than its id on the link, and not a row of probabilities."""
    races: bool
    """Whether it takes a race policy."""
    published: bool
    """Whether it is a method of the literature, kept to compare with."""
    options: tuple[str, ...] = ()
    """The fields of `SchemeSpec` that are its own."""


@dataclass(frozen=True)
class Context:
    """The makings of a scheme. One scheme object serves one session on one side."""

    spec: SchemeSpec
    law: Law
    side: int
    """`DEVICE` or `EDGE`. Their coins are independent."""

    def coins(self, at: Place, use: int = 0) -> np.random.Generator:
        """This side's coins. See `Law.coins`."""
        return self.law.coins(self.side, at, use)


@dataclass(frozen=True)
class Drafted:
    """One drafted token, and the distribution it was drawn from as far as known: integer weights over `ids`."""

    token: int
    ids: IntArray | None = None
    """Support, ascending. int64 [m]. None: nothing is known (`coupled`)."""
    weights: IntArray | FloatArray | None = None
    """The numbers that travel. [m], positive on the token."""
    total: float = 0.0
    """The weights' sum over the whole vocabulary; probability = weight / total."""

    def row(self) -> tuple[IntArray, IntArray | FloatArray]:
        """(ids, weights), for the schemes that have them."""
        if self.ids is None or self.weights is None:
            raise LocalProtocolError("a draft without a distribution was given to a scheme that needs one")
        return self.ids, self.weights

    def probs(self) -> FloatArray:
        """The draft's probabilities over `ids`. float64 [m]."""
        return np.asarray(self.row()[1] / self.total)

    def prob(self) -> float:
        """The draft's probability of its token."""
        ids, weights = self.row()
        return float(weights[np.searchsorted(ids, self.token)] / self.total)


@dataclass(frozen=True)
class Drafts:
    """Drafts after a text: a chain, or a tree if `parents` says so."""

    said: tuple[Drafted, ...] = ()
    parents: tuple[int, ...] | None = None
    """For each draft the one it follows: an earlier one, or -1, the text. None: each follows the one before it."""

    def __post_init__(self) -> None:
        parents = self.parents
        if parents is not None and not (
            len(parents) == len(self.said) and all(-1 <= parent < node for node, parent in enumerate(parents))
        ):
            raise LocalProtocolError(f"{len(self.said)} drafts have the parents {parents}; give each an earlier one")

    @classmethod
    def of_tokens(cls, tokens: Iterable[int]) -> Self:
        """A chain of tokens of which nothing else is known."""
        return cls(tuple(Drafted(token) for token in tokens))

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids, in order."""
        return tuple(draft.token for draft in self.said)

    def __len__(self) -> int:
        return len(self.said)

    def child(self, node: int, token: int) -> int | None:
        """The draft of `token` that follows the draft `node` (-1: the text). None: there is none."""
        if self.parents is None:
            node += 1
            return node if node < len(self.said) and self.said[node].token == token else None
        found = (at for at, parent in enumerate(self.parents) if parent == node and self.said[at].token == token)
        return next(found, None)


@dataclass(frozen=True)
class Ruling:
    """The edge's verdict on drafts."""

    path: tuple[int, ...]
    """The accepted drafts, by their number, from the text on. In a chain 0, 1, …"""
    token: int | None
    """Recovered or bonus token, after them; None if the device draws it from `extra`."""
    extra: bytes = b""

    @property
    def accepted(self) -> int:
        """The number of accepted drafts."""
        return len(self.path)


class Scheme(Protocol):
    """How drafts are drawn, sent, verified and, after a rejection, recovered."""

    traits: ClassVar[Traits]
    race: str
    """Without rounds, whether the edge writes on while no draft is at hand: `off`, `idle` or `always`."""
    draft_bits: int
    """Most bits that one draft takes in a body."""

    def __init__(self, context: Context) -> None: ...

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """Raise `BadParameterError` if one of this scheme's own options is out of range."""
        ...

    def draw(self, guess: Guess, at: Place) -> Drafted:
        """Device: draw the draft token for a place."""
        ...

    def encode(self, drafts: Drafts) -> bytes:
        """Device: the body of a `Draft` message. The parents of a tree are no part of it."""
        ...

    def decode(self, count: int, body: bytes) -> Drafts:
        """Edge: the inverse of `encode`, to the bit, as a chain. Raises `RemoteProtocolError` on a malformed body."""
        ...

    def verify(self, drafts: Drafts, rows: np.ndarray, at: Place) -> Ruling:
        """Edge: rule on drafts that begin at a place, given the target's logits [len(drafts) + 1, vocab].

        rows[0] follows the text, rows[1 + i] follows draft i. Raises `LocalProtocolError` for a tree where the scheme
        verifies chains only.
        """
        ...

    def recover(self, draft: Drafted, extra: bytes, at: Place) -> int | None:
        """Device: draw the token that replaces a draft rejected at a place. None: `extra` did not suffice, ask for
        more."""
        ...

    def more(self) -> bytes:
        """Edge: further material for `recover` about the last rejection."""
        ...


def check_bits(spec: SchemeSpec) -> None:
    """Raise `BadParameterError` if a lattice of `spec.bits` bits cannot be made."""
    if not 1 <= spec.bits <= 24:
        raise BadParameterError(f"bits is {spec.bits}; give 1 to 24 bits a probability", field="bits")
