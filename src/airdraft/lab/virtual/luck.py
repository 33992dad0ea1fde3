"""What drafts meet along recorded texts under a scheme with any options, found by the scheme's own code.

A recording holds the chances of a scheme's usual options. Other cuts, lattices and numbers of candidates need the rows
of both models, which are run again along the recorded texts. So texts, prompts and coins stay the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from airdraft.core import schemes
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray
from airdraft.core.schemes import Drafted, Drafts
from airdraft.core.schemes.candidates import replaced, without_replacement
from airdraft.errors import BadParameterError
from airdraft.lab.record import Recording, rows_along
from airdraft.models.base import LanguageModel

TRIALS = 16
"""Draws of the candidates of a position, from which the chance of the further ones is estimated."""


@dataclass(frozen=True)
class Luck:
    """What a draft at each position of one text meets. All lists are as long as the text."""

    accept: list[float]
    """The chance that it is accepted."""
    other: list[float]
    """The chance that a further candidate is accepted if it is not; 0 where there is one candidate."""
    sizes: list[int]
    """Tokens of its distribution that are sent."""
    bits: list[int]
    """Bits that it takes in a body."""


Lucks = dict[SchemeSpec, list[Luck]]
"""For each scheme with its options, the luck of each text."""


def lucks(
    recording: Recording,
    draft: LanguageModel,
    target: LanguageModel,
    specs: Iterable[SchemeSpec],
    on_text: Callable[[int, int], None] = lambda done, of: None,
) -> Lucks:
    """Find the luck of recorded texts. `draft` and `target` are the models with which they were recorded.

    A distribution is the one that the device draws from at that position, given all positions before it. A session
    drafts nothing where a bonus token stands, so a threshold that moves (`cuts.Conformal`) moves there less often.
    Raises: `BadParameterError` if the recording does not hold what its texts were drawn with.
    """
    found: Lucks = {spec: [] for spec in specs}
    for number, text in enumerate(recording.texts, 1):
        if text.seed is None or not text.prompt:
            raise BadParameterError(f"the recording {recording.name} holds no prompts and seeds; record it again")
        law = Law(recording.params, text.seed, recording.vocab_size)
        draft_rows, target_rows = rows_along(draft, target, text.prompt, text.tokens, recording.vocab_size)
        places = [Place(text.prompt_length + at) for at in range(len(text.tokens))]
        wanted = [law.probs(row, at) for row, at in zip(target_rows, places, strict=True)]
        for spec, lucky in found.items():
            scheme = schemes.make(spec, law, schemes.DEVICE)
            drafts = [scheme.draw(row, at) for row, at in zip(draft_rows, places, strict=True)]
            lucky.append(_luck(spec, scheme, drafts, wanted, law.seed))
        on_text(number, len(recording.texts))
    return found


def _luck(spec: SchemeSpec, scheme: schemes.Scheme, drafts: list[Drafted], wanted: list[FloatArray], seed: int) -> Luck:
    accept, other, sizes, rng = [], [], [], np.random.default_rng([seed, 4])
    bits: dict[int, int] = {}
    for draft, target_probs in zip(drafts, wanted, strict=True):
        ids = draft.row()[0]
        accept.append(float(np.minimum(draft.probs(), target_probs[ids]).sum()))
        other.append(_other(target_probs, draft, spec.candidates, rng) if draft.others else 0.0)
        sizes.append(ids.size)
        if ids.size not in bits:
            bits[ids.size] = len(scheme.encode(Drafts((draft,) * 8)))  # the bytes of eight are the bits of one
    return Luck(accept, other, sizes, [bits[size] for size in sizes])


def _other(target_probs: FloatArray, draft: Drafted, count: int, rng: np.random.Generator) -> float:
    """The chance that one of the further candidates is accepted, given that the first is not."""
    ids, probs = draft.row()[0], draft.probs()
    refused = taken = 0.0
    for _ in range(TRIALS):
        token, *others = ids[without_replacement(probs, count, rng)].tolist()
        drawn = replace(draft, token=token, others=tuple(others))
        chance = 1 - min(1.0, float(target_probs[token]) / drawn.prob())
        refused += chance
        if chance and replaced(target_probs, drawn, rng)[1] is not None:
            taken += chance
    return taken / refused if refused else 0.0
