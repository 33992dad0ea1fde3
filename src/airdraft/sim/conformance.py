"""The conformance test of whether a scheme's texts are distributed as the target's own.

It writes many short texts through both machines, each with its own seed, and counts equal ones. The target's exact
probability of each text is the product of its rows, so Pearson's χ² applies. A small p-value means that the scheme is
not exact. The p-values of an exact one are uniform in (0, 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtrc

from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.models.base import FloatArray, LanguageModel, Part
from airdraft.sim.pair import Pair

MIN_EXPECTED = 5.0
"""Least expected count of a cell. Rarer texts are counted together (Cochran's rule)."""
BRANCHES = 2
"""Branches of a stream's tree, where trees are taken."""


class TableCache(list[int]):
    """The tokens at all positions."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, ...]] = []
        """After a tree, what leads to each position, that one included."""


class TableModel:
    """A language model made from a function of a prefix to a row of logits. Each row is computed once."""

    def __init__(
        self,
        row: Callable[[tuple[int, ...]], FloatArray],
        vocab_size: int,
        max_context: int = 4096,
        eos_ids: tuple[int, ...] = (),
    ) -> None:
        self.name = "table"
        self.vocab_size = vocab_size
        self.max_context = max_context
        self.eos_ids = eos_ids
        self._row = row
        self._rows: dict[tuple[int, ...], FloatArray] = {}

    def new_cache(self) -> TableCache:
        """Make a cache, which is the prefix itself."""
        return TableCache()

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`."""
        del cache[keep:]
        cache += tokens
        if isinstance(cache, TableCache):
            cache.lines = []
        return np.array([self.row(tuple(cache[: len(cache) - rows + 1 + i])) for i in range(rows)], np.float32)

    def verify(self, batch: Sequence[Part]) -> list[FloatArray]:
        """See `TargetEngine.verify`. Parts may be trees."""
        found = []
        for part in batch:
            cache, held = part.cache, part.cache.lines or [tuple(part.cache[: at + 1]) for at in range(len(part.cache))]
            held = [held[at] for at in (*range(part.keep), *(part.keep + pick for pick in part.picks))]
            grown = list[tuple[int, ...]]()
            parents = range(-1, len(part.tokens) - 1) if part.parents is None else part.parents
            for token, parent in zip(part.tokens, parents, strict=True):
                grown.append((*(grown[parent] if parent >= 0 else held[parent] if held else ()), token))
            cache.lines = [*held, *grown]
            cache[:] = [line[-1] for line in cache.lines]
            found.append(np.array([self.row(line) for line in grown[len(grown) - part.rows :]], np.float32))
        return found

    def row(self, prefix: tuple[int, ...]) -> FloatArray:
        """Return the logits [vocab] that follow `prefix`."""
        if prefix not in self._rows:
            self._rows[prefix] = self._row(prefix)
        return self._rows[prefix]


def remembered(model: LanguageModel) -> TableModel:
    """Wrap a real model to compute each row once, so that thousands of short texts cost few forwards."""

    def row(prefix: tuple[int, ...]) -> FloatArray:
        return np.asarray(model.forward(model.new_cache(), 0, prefix, 1)[0])

    return TableModel(row, model.vocab_size, model.max_context)


@dataclass(frozen=True)
class Conformance:
    """The outcome of one test."""

    trials: int
    cells: int
    statistic: float
    p_value: float

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the χ²."""
        return max(1, self.cells - 1)


def conformance(
    draft: TableModel,
    target: TableModel,
    scheme: SchemeSpec,
    params: SamplingParams,
    *,
    prompt: Sequence[int] = (0,),
    depth: int = 3,
    draft_length: int = 2,
    trials: int = 5000,
    seed: int = 0,
    pair: Callable[[LanguageModel, LanguageModel], Pair] = Pair,
) -> Conformance:
    """Compare `trials` texts of `depth` tokens with the target's own distribution."""
    asked = Request(prompt, scheme, params, 0, depth, draft_length, branches=BRANCHES)
    counts = written(pair(draft, target), asked, trials, seed)
    expected = dict(_texts(target, tuple(prompt), params, depth))
    return chi_squared(counts, expected, trials)


def written(pair: Pair, asked: Request, trials: int, seed: int) -> Counter[tuple[int, ...]]:
    """Write a text `trials` times, each with its own seed, and count equal ones."""
    each = (replace(asked, seed=seed * trials + trial, counts=Counts()) for trial in range(trials))
    return Counter(tuple(pair.write(request).tokens) for request in each)


def chi_squared(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float], trials: int) -> Conformance:
    """Compute Pearson's χ² of `counts` against probabilities `expected`. One impossible text fails the test."""
    if any(text not in expected for text in counts):
        return Conformance(trials, len(expected), float("inf"), 0.0)
    common = [text for text, probability in expected.items() if probability * trials >= MIN_EXPECTED]
    observed = [counts[text] for text in common]
    wanted = [expected[text] * trials for text in common]
    rest = trials - sum(wanted)
    if rest >= MIN_EXPECTED:
        observed.append(trials - sum(observed))
        wanted.append(rest)
    else:  # too rare for a cell of its own
        wanted = [value * sum(observed) / sum(wanted) for value in wanted]
    statistic = float(sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True)))
    freedom = max(1, len(wanted) - 1)
    return Conformance(trials, len(wanted), statistic, float(chdtrc(freedom, statistic)))


def _texts(
    target: TableModel, prefix: tuple[int, ...], params: SamplingParams, depth: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield every text after `prefix`, with its probability: `depth` tokens, or fewer up to an end-of-text token."""
    if depth == 0:
        yield (), 1.0
        return
    probs = Law(params, 0, target.vocab_size).probs(target.row(prefix), Place(len(prefix)))
    for token in np.flatnonzero(probs).tolist():
        left = 0 if token in target.eos_ids else depth - 1
        for rest, probability in _texts(target, (*prefix, token), params, left):
            yield (token, *rest), float(probs[token]) * probability
