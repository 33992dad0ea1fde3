"""`coupled`: both sides draw with the same noise and send no probabilities; without rounds, `stream` and `server`.

At position t both sides add the same Gumbel noise G_t to their own log-probabilities and take the argmax. The edge
commits its own choice, and accepts a draft iff it equals that choice. So the text is the target's own sample for the
seed, whatever the device sends. Acceptance is close to the optimum 1 - TV, and at least (1 - TV)/(1 + TV) (Daliri,
Musco, Suresh 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from airdraft.core.bits import id_width, pack, unpack
from airdraft.core.law import Needs, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.schemes.base import Context, Drafted, Drafts, EdgeDraws, Guess, Ruling, Traits
from airdraft.errors import BadParameterError

RACES = ("off", "idle", "always")
BELIEVED = math.log(0.8)
"""Log of the chance of a token that a drafter believes in without a model."""


class Coupled(EdgeDraws):
    """Body: the ids, `id_width` bits each."""

    traits: ClassVar = Traits(
        rounds=True, drafts=True, exact="text", recovers_on=None, takes_ids=True, races=False, published=False
    )
    race = "off"

    def __init__(self, context: Context) -> None:
        self._law = context.law
        self._id_width = self.draft_bits = id_width(context.law.vocab_size)

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """See `Scheme.check`. This scheme has no options."""

    def draw(self, guess: Guess, at: Place) -> Drafted:
        """See `Scheme.draw`. A believed token is sent as it is."""
        return Drafted(self._law.choose(guess, at) if isinstance(guess, np.ndarray) else guess)

    def likely(self, guess: Guess, at: Place, most: int) -> Sequence[tuple[int, float]]:
        """See `Scheme.likely` and `Law.likely`."""
        if isinstance(guess, np.ndarray):
            return self._law.likely(guess, at, most)
        return [(guess, 0.0 if guess == at.forced else BELIEVED)]

    def encode(self, drafts: Drafts) -> bytes:
        """See `Scheme.encode`."""
        return pack(drafts.tokens, self._law.vocab_size)

    def decode(self, count: int, body: bytes) -> Drafts:
        """See `Scheme.decode`."""
        return Drafts.of_tokens(unpack(body, count, self._law.vocab_size))

    def needs(self, drafts: Drafts, at: Place) -> Needs | None:
        """See `Scheme.needs`. A doubt on branches needs their rows."""
        return None if self._law.doubt and drafts.parents is not None else Needs(self._law, at)

    def verify(self, drafts: Drafts, rows: np.ndarray, at: Place) -> Ruling:
        """See `Scheme.verify`. It follows the target's own choices through the drafts, which may be a tree.

        On another branch than the first, rows are those of a chain but for rounding: where that might decide, it ends.
        """
        path: list[int] = []
        node, is_first = -1, True
        while True:
            row = rows[node + 1]  # or the token that the engine chose
            token = row if isinstance(row, int) and at.forced is None else self._law.choose(row, at)
            if not is_first and not self._law.is_sure(row, at, token):
                return Ruling(tuple(path), None)
            child = drafts.child(node, token)
            if child is None:
                return Ruling(tuple(path), token)
            path.append(child)
            is_first = is_first and child == drafts.child(node)
            node, at = child, at.then(token)


class Stream(Coupled):
    """`stream`: the same choices without rounds. Drafts leave as they are made, and the edge takes those at hand."""

    traits: ClassVar = replace(Coupled.traits, rounds=False, races=True, options=("race",))

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.race = context.spec.race

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """See `Scheme.check`."""
        if spec.race not in RACES:
            raise BadParameterError(f"race is {spec.race!r}; choose one of {', '.join(RACES)}", field="race")


class Server(Coupled):
    """`server`: plain streaming without drafts, at one target forward a token, or fewer if the edge proposes some."""

    traits: ClassVar = replace(Coupled.traits, rounds=False, drafts=False, takes_ids=False)
    race = "always"
