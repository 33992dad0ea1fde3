"""Several candidates for a position: the rule of the papers by enumeration, ours beside it, and the bytes."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import chdtrc

from airdraft.core import schemes
from airdraft.core.bits import BitWriter
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray
from airdraft.core.sampling import SamplingParams, draw
from airdraft.core.schemes import DEVICE, EDGE, Drafted, Drafts
from airdraft.core.schemes.candidates import MOST, replaced, without_replacement
from airdraft.errors import BadParameterError, RemoteProtocolError

from ..suites import examples
from .tables import table

VOCAB = 5


def judged(target: FloatArray, draft: FloatArray, tried: tuple[int, ...]) -> FloatArray:
    """The law of the token that recursive rejection sampling makes of candidates, written out (Jeon et al. 2024).

    The last entry is the chance that it is one of them.
    """
    law, left, kept, rest = target, draft, np.zeros(target.size + 1), 1.0
    for token in tried:
        chance = min(1.0, law[token] / left[token])
        kept[token] += rest * chance
        kept[-1] += rest * chance
        rest *= 1 - chance
        residual = np.maximum(law - left, 0)
        if rest and residual.sum() > 1e-15:
            law = residual / residual.sum()
        left = np.where(np.arange(left.size) == token, 0, left)
        left = left / left.sum() if left.any() else left
    kept[:-1] += rest * law
    return kept


def expected(target: FloatArray, draft: FloatArray, count: int) -> FloatArray:
    """The same over all candidates that `draft` may give, drawn without replacement."""
    support = np.flatnonzero(draft).tolist()
    found = np.zeros(target.size + 1)
    for tried in permutations(support, min(count, len(support))):
        chance, left = 1.0, 1.0
        for token in tried:
            chance, left = chance * draft[token] / left, left - draft[token]
        found += chance * judged(target, draft, tried)
    return found


@st.composite
def distributions(drawn: st.DrawFn) -> FloatArray:
    weights = np.array(drawn(st.lists(st.sampled_from([0, 0, 1, 2, 5, 20]), min_size=VOCAB, max_size=VOCAB)), float)
    weights[drawn(st.integers(0, VOCAB - 1))] += 1
    return weights / weights.sum()


@given(distributions(), distributions(), st.integers(1, 3))
@examples(100)
def test_the_rule_is_exact_and_more_candidates_are_accepted_more_often(
    target: FloatArray, draft: FloatArray, count: int
) -> None:
    found = expected(target, draft, count)
    assert np.allclose(found[:-1], target, atol=1e-9)
    assert expected(target, draft, count + 1)[-1] >= found[-1] - 1e-9


@pytest.mark.parametrize("spec", [SchemeSpec("dense"), SchemeSpec("topk", k=3, bits=6)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_ours_is_that_rule(spec: SchemeSpec, count: int) -> None:
    """Drawn and judged 3,000 times, for the draft's distribution under schemes whose edge knows it."""
    device = schemes.make(spec, Law(SamplingParams(), 1, VOCAB), DEVICE)
    known = device.draw(table(1).row((0,)), Place(1))
    draft, target = np.zeros(VOCAB), Law(SamplingParams(), 1, VOCAB).probs(table(2).row((0,)), Place(1))
    draft[known.row()[0]] = known.probs()
    want, seen, taken, rng = expected(target, draft, count), Counter[int](), 0, np.random.default_rng(3)
    for _ in range(texts := 3000):
        at = without_replacement(known.probs(), count, rng)
        token, *others = known.row()[0][at].tolist()
        assert len({token, *others}) == min(count, np.count_nonzero(draft))
        if rng.random() * draft[token] < target[token]:
            number: int | None = -1
        else:
            token, number = replaced(target, Drafted(token, *known.row(), known.total, tuple(others)), rng)
            assert number is None or token == others[number]
        seen[token] += 1
        taken += number is not None
    statistic = sum((seen[token] - texts * chance) ** 2 / (texts * chance) for token, chance in enumerate(want[:-1]))
    assert chdtrc(VOCAB - 1, statistic) > 1e-4
    error = (want[-1] * (1 - want[-1]) / texts) ** 0.5
    assert abs(taken / texts - want[-1]) < 4.5 * error


# ---- The rule of SpecInfer, to compare with --------------------------------------------------------------------------


def specinfer(target: FloatArray, draft: FloatArray, count: int, rng: np.random.Generator) -> tuple[int, bool]:
    """A token by SpecInfer's multi-step speculative sampling (Miao et al. 2024), and whether it is a candidate.

    Candidates are drawn from the same distribution, each by itself, so they may be equal.
    """
    for _ in range(count):
        token = draw(draft, rng)
        if rng.random() * draft[token] < target[token]:
            return token, True
        target = np.maximum(target - draft, 0)
        target = target / target.sum()
    return draw(target, rng), False


def of_specinfer(target: FloatArray, draft: FloatArray, count: int) -> FloatArray:
    """The law of that token. The last entry is the chance that it is a candidate."""
    left, found, rest = target, np.zeros(target.size + 1), 1.0
    for _ in range(count):
        shared = np.minimum(left, draft)
        found[:-1] += rest * shared
        found[-1] += rest * shared.sum()
        rest *= max(0.0, 1 - shared.sum())
        residual = left - shared
        if rest < 1e-12:
            return found
        left = residual / residual.sum()
    found[:-1] += rest * left
    return found


@given(distributions(), distributions(), st.integers(1, 4))
@examples(100)
def test_without_replacement_accepts_at_least_as_often_as_specinfers_rule(
    target: FloatArray, draft: FloatArray, count: int
) -> None:
    ours, theirs = expected(target, draft, count), of_specinfer(target, draft, count)
    assert np.allclose(ours[:-1], target, atol=1e-9)
    assert np.allclose(theirs[:-1], target, atol=1e-9)
    assert ours[-1] >= theirs[-1] - 1e-9
    if count == 1:
        assert np.isclose(ours[-1], theirs[-1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_specinfers_rule_drawn_beside_ours(count: int) -> None:
    """Both 3,000 times, from one draft for one target."""
    draft, target = (Law(SamplingParams(), 1, VOCAB).probs(table(seed).row((0,)), Place(1)) for seed in (1, 2))
    ids, texts, rng = np.arange(VOCAB), 3000, np.random.default_rng(5)

    def ours() -> tuple[int, bool]:
        token, *others = without_replacement(draft, count, rng)
        if rng.random() * draft[token] < target[token]:
            return token, True
        token, number = replaced(target, Drafted(token, ids, draft, 1.0, tuple(others)), rng)
        return token, number is not None

    rates = []
    for write, law in ((lambda: specinfer(target, draft, count, rng), of_specinfer), (ours, expected)):
        written, want = [write() for _ in range(texts)], law(target, draft, count)
        seen = np.bincount([token for token, _ in written], minlength=VOCAB)
        assert chdtrc(VOCAB - 1, float(((seen - texts * target) ** 2 / (texts * target)).sum())) > 1e-4
        rates.append(sum(taken for _, taken in written) / texts)
        assert abs(rates[-1] - want[-1]) < 4.5 * (want[-1] * (1 - want[-1]) / texts) ** 0.5
    gain = expected(target, draft, count)[-1] - of_specinfer(target, draft, count)[-1]
    assert gain > 0.03 if count > 1 else gain == pytest.approx(0)
    assert rates[1] > rates[0] or count == 1


def test_candidates_travel_in_the_order_drawn() -> None:
    law = Law(SamplingParams(), 1, VOCAB)
    spec = SchemeSpec("topk", k=4, bits=6, candidates=3)
    device, edge = schemes.make(spec, law, DEVICE), schemes.make(spec, law, EDGE)
    rows = [table(1).row((0, at)) for at in range(6)]
    rows.append(np.array([9.0, 0, 0, 0, 0], np.float32) * 9)  # rounded to one token
    drafts = Drafts(tuple(device.draw(row, Place(at)) for at, row in enumerate(rows)))
    assert [len(draft.others) for draft in drafts.said] == [2] * 6 + [0]
    found = edge.decode(len(rows), device.encode(drafts))
    assert [(draft.token, draft.others) for draft in found.said] == [(d.token, d.others) for d in drafts.said]
    assert device.draft_bits == 3 * 3 + 4 * (3 + 6)
    assert len(device.encode(drafts)) == -(-7 * device.draft_bits // 8)


@pytest.mark.parametrize("tokens", [(1, 1, 2), (1, 2, 2), (1, 0, 2), (1, 2, 7), (3, 1, 2)])
def test_candidates_that_could_not_be_drawn_are_refused(tokens: tuple[int, ...]) -> None:
    """A repetition that is followed by others, one of weight 0, none of the vocabulary, none of those that travel."""
    edge = schemes.make(SchemeSpec("topk", k=3, bits=4, candidates=3), Law(SamplingParams(), 1, VOCAB), EDGE)

    def body(tried: tuple[int, ...]) -> bytes:
        out = BitWriter()
        out.write(tried, 3)
        out.write([0, 1, 2], 3)
        out.write([0, 8, 7], 4)
        return out.bytes()

    assert edge.decode(1, body((1, 2, 1))).said[0].others == (2,)
    with pytest.raises(RemoteProtocolError, match="malformed"):
        edge.decode(1, body(tokens))


@pytest.mark.parametrize("count", [0, -1, MOST + 1])
def test_a_number_of_candidates_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(BadParameterError, match=f"candidates is {count}"):
        schemes.make(SchemeSpec("coupled", candidates=count), Law(SamplingParams(), 1, VOCAB), DEVICE)


def test_a_block_has_one_candidate() -> None:
    with pytest.raises(BadParameterError, match="candidates is 2, and a block"):
        schemes.make(SchemeSpec("topk", candidates=2, verify="block"), Law(SamplingParams(), 1, VOCAB), DEVICE)


def test_further_candidates_are_leaves_behind_the_chain() -> None:
    chain = Drafts((Drafted(3, others=(1, 2)), Drafted(4), Drafted(0, others=(2,))))
    tree = chain.spread(32)
    assert tree.tokens == (3, 4, 0, 1, 2, 2)
    assert tree.parents == (-1, 0, 1, -1, -1, 1)
    assert (chain.trunk, tree.trunk) == (3, 3)
    assert [tree.path(node) for node in (-1, 2, 4, 5)] == [(), (0, 1, 2), (4,), (0, 1, 5)]
    assert chain.path(1) == (0, 1)
    assert chain.spread(4).tokens == (3, 4, 0, 1)
    assert chain.spread(3) is chain
    assert chain.spread(0) is chain
