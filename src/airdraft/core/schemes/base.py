"""The interface of all schemes, on both sides of the link, and their traits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

import numpy as np

from airdraft.core.law import Law, Needs, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray
from airdraft.errors import BadParameterError, Code, LocalProtocolError, RemoteProtocolError

DEVICE, EDGE = 1, 2
"""The two sides, which draw from independent streams of one seed."""

Guess = np.ndarray | int
"""The source of a draft: the draft model's row of logits [vocab], or a token taken as certain (a point mass)."""


@dataclass(frozen=True)
class Traits:
    """The properties of a scheme, so that other code need not compare names."""

    rounds: bool
    """True: one draft at a time is in flight, and waits for its verdict. False: drafts and tokens flow freely."""
    drafts: bool
    """Whether the device drafts at all."""
    exact: Literal["text", "distribution"]
    """`text`: the target's own text for the seed, token for token. `distribution`: the same distribution of texts."""
    recovers_on: int | None
    """The side that draws the token after a rejection, `DEVICE` or `EDGE`. None: the edge chooses without a draw."""
    takes_ids: bool
    """Whether a believed token costs about its id on the link, rather than a row of probabilities."""
    races: bool
    """Whether it has a race policy."""
    published: bool
    """Whether it is a method from the literature, kept for comparison."""
    options: tuple[str, ...] = ()
    """The fields of `SchemeSpec` that it uses."""
    body_bits: float = math.inf
    """Most bits of a body, where decoding takes so long that a frame's length would not bound it."""


@dataclass(frozen=True)
class Context:
    """The arguments of a scheme. Each scheme object serves one session on one side."""

    spec: SchemeSpec
    law: Law
    side: int
    """`DEVICE` or `EDGE`. Their random numbers are independent."""

    def coins(self, at: Place, use: int = 0) -> np.random.Generator:
        """Return this side's random numbers. See `Law.coins`."""
        return self.law.coins(self.side, at, use)


@dataclass(frozen=True)
class Drafted:
    """One drafted token, and the known part of its distribution as integer weights over `ids`."""

    token: int
    ids: np.ndarray | None = None
    """Support, ascending. Integers [m]. None: not known (`coupled`)."""
    weights: np.ndarray | None = None
    """The numbers sent, [m], as wide as they are on the wire, positive at the token."""
    total: float = 0.0
    """The weights' sum over the whole vocabulary; probability = weight / total."""
    others: tuple[int, ...] = ()
    """Further candidates for its position, in the order drawn, each with its weight. See `candidates.py`."""

    def row(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids, weights), for the schemes that have them."""
        if self.ids is None or self.weights is None:
            raise LocalProtocolError("a draft without a distribution was given to a scheme that needs one")
        return self.ids, self.weights

    def probs(self) -> FloatArray:
        """Return the draft's probabilities over `ids`. float64 [m]."""
        return self.row()[1].astype(np.float64) / self.total

    def prob(self) -> float:
        """Return the draft's probability of its token."""
        ids, weights = self.row()
        return float(weights[np.searchsorted(ids, self.token)]) / self.total


@dataclass(frozen=True)
class Drafts:
    """Drafts after a text: a chain, or a tree if `parents` is given."""

    said: tuple[Drafted, ...] = ()
    parents: tuple[int, ...] | None = None
    """For each draft the number of the earlier one it follows, or -1 for the text. None: a chain."""

    def __post_init__(self) -> None:
        parents = self.parents
        if parents is not None and not (
            len(parents) == len(self.said) and all(-1 <= parent < node for node, parent in enumerate(parents))
        ):
            raise LocalProtocolError(f"{len(self.said)} drafts have the parents {parents}; give each an earlier one")

    @classmethod
    def of_tokens(cls, tokens: Iterable[int], parents: Sequence[int] | None = None) -> Self:
        """Make a chain of tokens without distributions, or a tree if one has another parent than the one before it."""
        is_chain = parents is None or all(parent == at - 1 for at, parent in enumerate(parents))
        return cls(tuple(Drafted(token) for token in tokens), None if parents is None or is_chain else tuple(parents))

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids, in order."""
        return tuple(draft.token for draft in self.said)

    def __len__(self) -> int:
        return len(self.said)

    @property
    def trunk(self) -> int:
        """Number of drafts in the chain that they begin with."""
        parents = () if self.parents is None else self.parents
        return next((node for node, parent in enumerate(parents) if parent != node - 1), len(self))

    def spread(self, most: int) -> Drafts:
        """Return a tree of this chain and, behind it, of the further candidates as leaves: of the first that fit, if
        there may be `most` drafts."""
        every = [(at - 1, token) for at, draft in enumerate(self.said) for token in draft.others]
        leaves = every[: max(0, most - len(self))]
        if not leaves:
            return self
        said = (*self.said, *(Drafted(token) for _, token in leaves))
        return Drafts(said, (*range(-1, len(self) - 1), *(parent for parent, _ in leaves)))

    def path(self, node: int) -> tuple[int, ...]:
        """Return the numbers of the drafts from the text to `node`; none for -1."""
        found: list[int] = []
        while node >= 0:
            found.append(node)
            node = node - 1 if self.parents is None else self.parents[node]
        return tuple(reversed(found))

    def child(self, node: int, token: int | None = None) -> int | None:
        """Find the draft of `token` that follows the draft `node` (-1: the text), or the first. None: there is none."""
        if self.parents is None:
            node += 1
            return node if node < len(self.said) and token in (None, self.said[node].token) else None
        nodes = (at for at, parent in enumerate(self.parents) if parent == node)
        found = (at for at in nodes if token in (None, self.said[at].token))
        return next(found, None)


@dataclass(frozen=True)
class Ruling:
    """The edge's verdict on drafts."""

    path: tuple[int, ...]
    """The numbers of the accepted drafts, from the text on. In a chain 0, 1, …"""
    token: int | None
    """The recovered or bonus token after them; None if the device draws it from `extra`, or the next forward will."""
    extra: bytes = b""

    @property
    def accepted(self) -> int:
        """The number of accepted drafts."""
        return len(self.path)


class Scheme(Protocol):
    """A way to draw, send and verify drafts, and to recover after a rejection."""

    traits: ClassVar[Traits]
    race: str
    """Without rounds, whether the edge writes on while it has no draft: `off`, `idle` or `always`."""
    draft_bits: int
    """Most bits that one draft takes in a body. A longer body is refused before it is decoded."""

    def __init__(self, context: Context) -> None: ...

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """Raise `BadParameterError` if an option of this scheme is out of range."""
        ...

    def draw(self, guess: Guess, at: Place) -> Drafted:
        """On the device, draw the draft token for a place."""
        ...

    def likely(self, guess: Guess, at: Place, most: int) -> Sequence[tuple[int, float]]:
        """On the device, under shared noise, list at most `most` tokens for a place that the edge may choose there.

        Returns: each with the log of its chance, likeliest first. But for the rarest noise, `draw` draws the first.
        """
        ...

    def encode(self, drafts: Drafts) -> bytes:
        """On the device, encode the body of a `Draft` message, without the parents of a tree."""
        ...

    def decode(self, count: int, body: bytes) -> Drafts:
        """At the edge, invert `encode` to the bit, as a chain. Raises: `RemoteProtocolError` on a malformed body.

        The caller bounds `count`, and the body by `draft_bits`.
        """
        ...

    def needs(self, drafts: Drafts, at: Place) -> Needs | None:
        """At the edge, say what `verify` needs of its rows. None: all of them."""
        ...

    def verify(self, drafts: Drafts, rows: np.ndarray, at: Place) -> Ruling:
        """At the edge, rule on drafts that begin at a place, given the target's logits [len(drafts) + 1, vocab].

        rows[0] follows the text, rows[1 + i] follows draft i. A token may stand for a row, see `Needs`.
        Raises: `LocalProtocolError` for a tree, if the scheme verifies only chains.
        """
        ...

    def recover(self, draft: Drafted, extra: bytes, at: Place) -> int | None:
        """On the device, draw the token that replaces a draft rejected at a place. None: `extra` was not enough."""
        ...

    def more(self) -> bytes:
        """At the edge, make another `extra` for `recover` about the last rejection."""
        ...


class EdgeDraws:
    """Base of schemes whose edge draws every token itself."""

    def recover(self, draft: Drafted, extra: bytes, at: Place) -> int | None:
        """Refuse: nothing is left to the device."""
        raise RemoteProtocolError(Code.STATE, "the edge left a token to the device, which this scheme never does")

    def more(self) -> bytes:
        """Refuse: there is nothing more."""
        raise RemoteProtocolError(Code.STATE, "the device asked for candidates, which this scheme never sends")


def check_length(scheme: Scheme, count: int, body: bytes) -> None:
    """Raise `RemoteProtocolError` if `body` is longer than `count` drafts can be, or than may be decoded at once."""
    if 8 * len(body) >= min(count * scheme.draft_bits, scheme.traits.body_bits) + 8:
        raise RemoteProtocolError(Code.GARBAGE, f"a body of {len(body)} bytes is too long for {count} drafts")


def check_k(spec: SchemeSpec) -> None:
    """Raise `BadParameterError` if `spec.k` is no number of tokens."""
    if not 1 <= spec.k < 1 << 63:
        raise BadParameterError(
            f"k is {spec.k}; give the number of tokens to transmit, at least 1, below 2^63", field="k"
        )


def check_bits(spec: SchemeSpec) -> None:
    """Raise `BadParameterError` if `spec.bits` does not fit a lattice."""
    if not 1 <= spec.bits <= 24:
        raise BadParameterError(f"bits is {spec.bits}; give 1 to 24 bits a probability", field="bits")
