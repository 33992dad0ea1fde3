"""What every scheme does, on both sides of the link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray, IntArray
from airdraft.core.sampling import SamplingParams
from airdraft.errors import LocalProtocolError


@dataclass(frozen=True)
class Context:
    """What a scheme is made from. One scheme object serves one session on one side."""

    spec: SchemeSpec
    params: SamplingParams
    seed: int
    vocab_size: int
    side: int
    """`DEVICE` or `EDGE`. Their coins are independent."""

    def coins(self, position: int, use: int = 0) -> np.random.Generator:
        """This side's coins for the token at `position`, others for each `use`.

        The same however often they are tossed: a session that takes a text up where another was cut off meets what
        that one met there, so that being cut off, which is likelier while a rejection is dealt with, changes no chance.
        """
        return np.random.Generator(np.random.Philox(key=[self.seed, self.side], counter=[0, use, position, 0]))


@dataclass(frozen=True)
class Drafted:
    """One drafted token, and what is known of the distribution it was drawn from: integer weights over `ids`."""

    token: int
    ids: IntArray | None = None
    """Support, ascending. int64 [m]. None: nothing is known (`coupled`)."""
    weights: IntArray | FloatArray | None = None
    """What travels. [m], positive on the token."""
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
class Ruling:
    """The edge's verdict on a run of drafts."""

    accepted: int
    token: int | None
    """Recovered or bonus token; None if the device is to draw it from `extra`."""
    extra: bytes = b""


class Scheme(Protocol):
    """How drafts are drawn, sent, verified and, after a rejection, recovered."""

    rounds: bool
    """True: one draft is in flight at a time, and waits for its verdict. False: drafts and tokens flow freely."""
    race: str
    """Without rounds, whether the edge writes on while no draft is at hand: `off`, `idle` or `always`."""
    draft_bits: int
    """Most bits that one draft takes in a body."""

    def propose(self, logits: np.ndarray, position: int) -> Drafted:
        """Device: draw the draft token for `position` from the draft model's row [vocab]."""
        ...

    def encode(self, drafts: Sequence[Drafted]) -> bytes:
        """Device: the body of a `Draft` message."""
        ...

    def decode(self, count: int, body: bytes) -> list[Drafted]:
        """Edge: the inverse of `encode`, to the bit. Raises `RemoteProtocolError` on a malformed body."""
        ...

    def verify(self, drafts: Sequence[Drafted], logits: np.ndarray, position: int) -> Ruling:
        """Edge: rule on drafts whose first stands at `position`, given the target's rows [len(drafts) + 1, vocab]."""
        ...

    def recover(self, draft: Drafted, extra: bytes, position: int) -> int | None:
        """Device: draw the token that replaces a draft rejected at `position`. None: `extra` did not suffice, ask for
        more."""
        ...

    def more(self) -> bytes:
        """Edge: further material for `recover` about the last rejection."""
        ...
