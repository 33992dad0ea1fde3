"""Pairs of models, recorded once for all experiments: the target's texts, and what became of drafts at each position.

The chance of a draft depends on how its distribution is cut and rounded to be sent. Each way that an experiment needs
is computed from the same rows, so texts, prompts and luck are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs

from airdraft.core.bits import lattice
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.lab.record import RecordedText, Recording, record, rows_along
from airdraft.lab.virtual.luck import Lucks, lucks
from airdraft.models.base import LanguageModel
from airdraft.models.registry import load

TEXTS, TOKENS, SEED = 12, 96, 1
"""Texts of a pair at each sampling, the longest of those recorded; most tokens of each; seed of the first."""

SAMPLED, GREEDY, FILTERED = "T = 1", "T = 0", "T = 1, top-k 10, top-p 0.9"
SAMPLINGS = {
    SAMPLED: SamplingParams(1.0),
    GREEDY: SamplingParams(0.0),
    FILTERED: SamplingParams(1.0, top_k=10, top_p=0.9),
}
"""The samplings of the papers; the last is that of QS's public code."""
RESOLUTIONS = (240, 720)
"""QS's lattices: the sums of the integer weights."""


@dataclass(frozen=True)
class Sparse:
    """A way to make the draft's distribution short: cut, renormalised, rounded."""

    k: int
    """Most likely tokens that stay; the vocabulary's size leaves all."""
    resolution: int = 0
    """Sum of the integer weights. 0: not rounded."""

    def __call__(self, ordered: FloatArray) -> FloatArray:
        """Cut probabilities [vocab] that fall. Returns as many as stay."""
        kept = ordered[: self.k] / ordered[: self.k].sum()
        return lattice(kept, self.resolution) / self.resolution if self.resolution else kept


@dataclass(frozen=True)
class RecordedPair:
    """A draft and a target."""

    name: str
    recordings: dict[str, Recording]
    """By sampling, see `SAMPLINGS`."""
    chances: dict[tuple[str, Sparse], list[list[float]]]
    """By sampling and cut: for each text, the chance that a draft is accepted at each position."""
    lucks: Lucks
    """What drafts meet at `SAMPLED` under schemes with more options."""

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.recordings[SAMPLED].vocab_size

    @property
    def whole(self) -> Sparse:
        """The draft's distribution as it is."""
        return Sparse(self.vocab_size)

    @property
    def percent(self) -> Sparse:
        """The likeliest 1 % of the vocabulary, the best K of TK-SLT's table."""
        return Sparse(self.vocab_size // 100)

    def acceptance(self, cut: Sparse, sampling: str = SAMPLED) -> float:
        """α: the mean chance of a draft."""
        return float(np.mean([chance for text in self.chances[sampling, cut] for chance in text]))

    def recording(self, cut: Sparse, sampling: str = SAMPLED) -> Recording:
        """The recording for a replay in which distributions are sent with this cut."""
        recorded = self.recordings[sampling]
        texts = [
            structs.replace(text, accept_topk=chances, accept_lattice=chances)
            for text, chances in zip(recorded.texts, self.chances[sampling, cut], strict=True)
        ]
        return structs.replace(recorded, texts=texts)


def ks(vocab_size: int) -> list[int]:
    """The numbers of tokens that TK-SLT's experiment sends: some powers of two, 1 %, 10 % and all of the vocabulary."""
    few = [1, 2, 4, 8, 16, 32, 64, vocab_size // 100, vocab_size // 10, vocab_size]
    return sorted({k for k in few if 1 <= k <= vocab_size})


def cuts(vocab_size: int) -> list[Sparse]:
    """All cuts that the experiments need."""
    sparse = min(64, vocab_size)
    rounded = [Sparse(k, resolution) for resolution in RESOLUTIONS for k in sorted({sparse, vocab_size})]
    return [*map(Sparse, ks(vocab_size)), *rounded]


def measured(
    name: str,
    draft_name: str,
    target_name: str,
    prompts: Sequence[Sequence[int]],
    specs: Callable[[int], Iterable[SchemeSpec]],
    on_step: Callable[[], None],
) -> RecordedPair:
    """Record a pair at every sampling. `on_step` is called after each. Raises: `ModelError`, `BadParameterError`.

    specs: the options whose luck is needed, given the vocabulary's size.
    """
    (draft, _), (target, tokenizer) = load(draft_name), load(target_name)
    vocab_size = tokenizer.vocab_size
    return recorded(name, draft, target, prompts, vocab_size, specs(vocab_size), on_step)


def recorded(
    name: str,
    draft: LanguageModel,
    target: LanguageModel,
    prompts: Sequence[Sequence[int]],
    vocab_size: int,
    specs: Iterable[SchemeSpec] = (),
    on_step: Callable[[], None] = lambda: None,
) -> RecordedPair:
    """Record two models at every sampling. `specs`: the options whose luck is needed."""
    if vocab_size < 100:
        raise BadParameterError(f"the pair {name} has {vocab_size} tokens; the experiments need 100 or more")
    recordings: dict[str, Recording] = {}
    chances: dict[tuple[str, Sparse], list[list[float]]] = {}
    for sampling, params in SAMPLINGS.items():
        found = record(draft, target, prompts, params, TOKENS, SEED, vocab_size, name)
        recordings[sampling] = found.longest(TEXTS)
        for text in recordings[sampling].texts:
            for cut, along in _along(draft, target, text, params, vocab_size).items():
                chances.setdefault((sampling, cut), []).append(along)
        on_step()
    return RecordedPair(name, recordings, chances, lucks(recordings[SAMPLED], draft, target, specs))


def _along(
    draft: LanguageModel, target: LanguageModel, text: RecordedText, params: SamplingParams, vocab_size: int
) -> dict[Sparse, list[float]]:
    """1 - TV(draft, target) at each position of a text, for every cut."""
    law = Law(params, SEED, vocab_size)
    draft_rows, target_rows = rows_along(draft, target, text.prompt, text.tokens, vocab_size)
    found: dict[Sparse, list[float]] = {cut: [] for cut in cuts(vocab_size)}
    for at, (draft_row, target_row) in enumerate(zip(draft_rows, target_rows, strict=True), start=len(text.prompt)):
        draft_probs, target_probs = law.probs(draft_row, Place(at)), law.probs(target_row, Place(at))
        order = np.argsort(-draft_probs, kind="stable")
        ordered, wanted = draft_probs[order], target_probs[order]
        for cut, along in found.items():
            sent = cut(ordered)
            along.append(float(np.minimum(sent, wanted[: sent.size]).sum()))
    return found
