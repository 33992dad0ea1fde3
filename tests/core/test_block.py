"""Block verification by enumeration: every draft, every verdict, each with its probability. Nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod

import numpy as np
import pytest

from airdraft.core import schemes
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Drafted, Drafts
from airdraft.core.schemes.block import prefixes
from airdraft.errors import BadParameterError
from airdraft.sim.conformance import TableModel

from .tables import alike, table

VOCAB, START = 4, (0,)
LAW = Law(SamplingParams(), 0, VOCAB)


def probs(model: TableModel, prefix: tuple[int, ...], law: Law = LAW) -> FloatArray:
    return law.probs(model.row(prefix), Place(len(prefix)))


def drafted(model: TableModel, tokens: tuple[int, ...], law: Law = LAW) -> Drafts:
    said = [
        Drafted(token, np.arange(VOCAB), probs(model, START + tokens[:at], law), 1.0) for at, token in enumerate(tokens)
    ]
    return Drafts(tuple(said))


def rounds(draft: TableModel, length: int, law: Law = LAW, stop: int | None = None) -> list[tuple[float, Drafts]]:
    """Every round with its probability: `length` drafts, or fewer up to the token `stop`."""
    every = product(range(VOCAB), repeat=length)
    cut = {tokens[: tokens.index(stop) + 1] if stop in tokens else tokens for tokens in every}
    found = [drafted(draft, tokens, law) for tokens in sorted(cut)]
    weights = [prod(each.prob() for each in drafts.said) for drafts in found]
    return [(weight, drafts) for weight, drafts in zip(weights, found, strict=True) if weight]


def verdicts(drafts: Drafts, target: TableModel, law: Law = LAW) -> list[tuple[float, FloatArray]]:
    """For each number of accepted drafts its probability, and the distribution of the next token."""
    rows = np.array([target.row(START + drafts.tokens[:at]) for at in range(len(drafts) + 1)])
    found = list(prefixes(law, drafts, rows, Place(len(START))))
    fails = [1 - chance for chance, _ in found]
    return [
        (chance * prod(fails[at + 1 :]), after / after.sum()) for at, (chance, after) in enumerate(found)
    ]  # the longest that passes


Verdicts = Callable[[Drafts, TableModel, Law], list[tuple[float, FloatArray]]]


def worst(draft: TableModel, target: TableModel, law: Law, stop: int | None, judged: Verdicts = verdicts) -> float:
    """The largest error of the probability of what a round of three drafts writes.

    It is about all of the round's tokens together; what a shorter verdict leaves open, the target would write.
    """
    length = 3
    found: dict[tuple[int, ...], float] = {}
    expected: dict[tuple[int, ...], float] = {}

    def written(prefix: tuple[int, ...], chance: float, into: dict[tuple[int, ...], float]) -> None:
        if chance and len(prefix) == length + 1:
            into[prefix] = into.get(prefix, 0.0) + chance
        elif chance:
            for token, more in enumerate(probs(target, START + prefix, law)):
                written((*prefix, token), chance * more, into)

    written((), 1.0, expected)
    for weight, drafts in rounds(draft, length, law, stop):
        for accepted, (chance, after) in enumerate(judged(drafts, target, law)):
            for token, more in enumerate(after):
                written((*drafts.tokens[:accepted], token), weight * chance * more, found)
    assert sum(found.values()) == pytest.approx(1)
    return max(abs(found.get(text, 0.0) - expected.get(text, 0.0)) for text in found.keys() | expected.keys())


@pytest.mark.parametrize("stop", [None, 2])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(1.0, top_k=2), SamplingParams(0.0)], ids=str)
@pytest.mark.parametrize("noise", [0.0, 0.4, 3.0])
def test_whole_blocks_have_the_targets_probabilities(noise: float, params: SamplingParams, stop: int | None) -> None:
    """A rule that ends some rounds early, by what it has drafted, changes nothing."""
    target = table(2, VOCAB)
    assert worst(alike(target, 5, noise), target, Law(params, 0, VOCAB), stop) < 1e-12


def forgetful(drafts: Drafts, target: TableModel, law: Law) -> list[tuple[float, FloatArray]]:
    """Verdicts that go on with max(0, target - draft), as token by token."""
    found = verdicts(drafts, target, law)
    for at, draft in enumerate(drafts.said[: len(found)]):
        residual = np.maximum(probs(target, START + drafts.tokens[:at], law) - draft.probs(), 0.0)
        found[at] = found[at][0], residual / residual.sum()
    return found


def test_a_residual_that_forgets_what_was_kept_is_caught() -> None:
    target = table(2, VOCAB)
    assert worst(alike(target, 5, 1.0), target, LAW, None, forgetful) > 1e-4  # a sound one is below 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_a_block_accepts_no_fewer_than_token_by_token(seed: int) -> None:
    gains = []
    for noise, length in product((0.3, 1.0, 3.0), (1, 2, 4)):
        target = table(seed, VOCAB)
        draft = alike(target, seed + 100, noise)
        block = tokens = 0.0
        for weight, drafts in rounds(draft, length):
            ratios = [
                min(1.0, float(probs(target, START + drafts.tokens[:at])[each.token]) / each.prob())
                for at, each in enumerate(drafts.said)
            ]
            tokens += weight * sum(prod(ratios[: at + 1]) for at in range(length))
            block += weight * sum(at * chance for at, (chance, _) in enumerate(verdicts(drafts, target)))
        assert block >= tokens - 1e-12
        assert length > 1 or block == pytest.approx(tokens, abs=1e-12)  # of one draft there is one way to judge
        gains.append(block / tokens)
    assert max(gains) > 1.01


def test_equal_models_accept_everything() -> None:
    target = table(3, VOCAB)
    for _, drafts in rounds(target, 2):
        assert [chance for chance, _ in verdicts(drafts, target)] == [0.0, 0.0, 1.0]


def test_no_other_way_to_judge_is_taken() -> None:
    with pytest.raises(BadParameterError, match="verify is 'blocks'; choose token or block"):
        schemes.make(SchemeSpec("coupled", verify="blocks"), LAW, schemes.EDGE)
