"""A payload ladder: how much of the draft's distribution travels, chosen for each round from the measured uplink.

Each rung is a set of options of one scheme, such as K and the resolution of `lattice`. A finer rung is accepted at
least about as often as a coarser one and takes more bits, so the finest is taken that costs next to no time on the link
as it is. The models stay as they are, and the edge is told by a `Switch`, in front of the round's draft, so that no
round waits for it. It is the idea of slimmable encoders, one model whose output is as wide as the channel, for
distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from airdraft.control.facts import wire_of
from airdraft.control.predict import Prediction, best_rounds, rounds
from airdraft.core import schemes
from airdraft.core.law import Law
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts, Mode
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError

RUNGS = ((128, 480, 16), (64, 240, 16), (32, 160, 12), (16, 100, 10), (8, 64, 8), (4, 32, 8), (2, 16, 8))
"""K, resolution and bits, from fine to coarse."""
LOSS, KEEP = 0.02, 0.04
"""Share of the predicted speed of the coarsest rung that another may cost to be taken, and to be kept."""


class Ladder:
    """A policy with one scheme, whose options follow the uplink."""

    def __init__(self, specs: Sequence[SchemeSpec], vocab_size: int, length: int = 0, most: int = 64) -> None:
        """
        Args:
            specs: one scheme, with options from fine to coarse.
            length: tokens in each draft; 0: the best of at most `most`, by what is measured.
        Raises: `BadParameterError` for no rung, several schemes, or one without rounds.
        """
        if len({spec.name for spec in specs}) != 1 or not schemes.traits(specs[0].name).rounds:
            raise BadParameterError(
                "a ladder has rungs of one scheme with rounds; give its options from fine to coarse"
            )
        self._rungs = [(spec, wire_of(spec, vocab_size)) for spec in specs]
        self._length, self._most = length, most
        self._at: int | None = None

    def choose(self, facts: Facts, now: float) -> Mode:
        """See `Policy.choose`."""
        facts = facts.rounded()
        found = [self._predicted(facts, at) for at in range(len(self._rungs))]
        least = [(1 - (KEEP if at == self._at else LOSS)) * found[-1].tokens_per_s for at in range(len(found))]
        enough = [each.tokens_per_s >= bar for each, bar in zip(found, least, strict=True)]
        self._at = enough.index(True)  # the coarsest is as fast as itself
        return replace(found[self._at].mode, options=self._rungs[self._at][0])

    def why(self) -> str:
        """See `Policy.why`."""
        if self._at is None:
            return "nothing chosen yet"
        spec, sent = self._rungs[self._at]
        return f"{spec.name}: rung {self._at + 1} of {len(self._rungs)}, {sent.draft_bits} bits a draft"

    def _predicted(self, facts: Facts, at: int) -> Prediction:
        sent = self._rungs[at][1]
        return rounds(facts, sent, self._length) if self._length else best_rounds(facts, sent, self._most)


def usual(spec: SchemeSpec, vocab_size: int) -> list[SchemeSpec]:
    """List the rungs of `RUNGS` that a scheme can take with a vocabulary, on top of its other options."""
    found = []
    for k, resolution, bits in RUNGS:
        rung = structs.replace(spec, k=k, resolution=resolution, bits=bits)
        try:
            schemes.make(rung, Law(SamplingParams(), 0, vocab_size), schemes.EDGE)
        except BadParameterError as error:
            if error.field != "k":  # too many bits with so large a vocabulary
                raise
        else:
            found.append(rung)
    return found
