"""The conformance test has fair p-values and complete expectations, and detects a small bias."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams, distribution
from airdraft.errors import RefusedError
from airdraft.models.base import FloatArray
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel, _texts, chi_squared, conformance, remembered
from airdraft.sim.pair import Pair, PairText


def table(seed: int, vocab: int = 4, eos_ids: tuple[int, ...] = ()) -> TableModel:
    def row(prefix: tuple[int, ...]) -> FloatArray:
        return np.random.default_rng([seed, *prefix]).normal(size=vocab).astype(np.float32)

    return TableModel(row, vocab, eos_ids=eos_ids)


class Alone(Pair):
    """Run the target without a draft, which is exact and quick."""

    def write(self, request: Request) -> PairText:
        wanted = tuple(request.prompt), request.params, request.seed, request.max_tokens
        return PairText(list(alone.write(self._target, *wanted)))


def test_p_values_of_exact_texts_are_uniform() -> None:
    """This would show a test that always fails, or never does."""
    from scipy import stats

    draft, target, spec = table(1), table(2), SchemeSpec("server")
    values = [
        conformance(draft, target, spec, SamplingParams(), depth=2, trials=250, seed=s, pair=Alone).p_value
        for s in range(40)
    ]
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert min(values) > 1e-4


@pytest.mark.parametrize("eos_ids", [(), (1,)])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(0.7, top_k=2)], ids=str)
def test_the_expected_texts_are_all_there_are(params: SamplingParams, eos_ids: tuple[int, ...]) -> None:
    expected = dict(_texts(table(2, eos_ids=eos_ids), (0,), params, 3))
    assert sum(expected.values()) == pytest.approx(1.0)
    assert all(len(text) == 3 or text[-1] in eos_ids for text in expected)
    assert not any(set(text[:-1]) & set(eos_ids) for text in expected)


def test_the_statistic_is_pearsons() -> None:
    from scipy import stats

    expected = {(v,): p for v, p in enumerate((0.5, 0.3, 0.2))}
    counts = Counter({(0,): 60, (1,): 25, (2,): 15})
    result = chi_squared(counts, expected, 100)
    right = stats.chisquare([60, 25, 15], [50, 30, 20])
    assert (result.statistic, result.p_value) == (pytest.approx(right.statistic), pytest.approx(right.pvalue))
    assert result.cells == 3


def test_rare_texts_are_counted_together() -> None:
    expected = {(0,): 0.9, (1,): 0.04, (2,): 0.03, (3,): 0.03}
    result = chi_squared(Counter({(0,): 90, (1,): 4, (2,): 3, (3,): 3}), expected, 100)
    assert (result.cells, result.statistic) == (2, pytest.approx(0.0))


def test_a_text_that_cannot_occur_decides_at_once() -> None:
    assert chi_squared(Counter({(0,): 99, (7,): 1}), {(0,): 1.0}, 100).p_value == 0


def test_a_bias_of_a_few_percent_is_seen() -> None:
    """Draw counts from a target with one logit off by 0.3."""
    target = table(2)
    bent = target.row((0,)).copy()
    bent[1] += 0.3
    rng = np.random.default_rng(1)
    drawn = rng.choice(4, size=5000, p=distribution(bent, SamplingParams()))
    expected = dict(_texts(target, (0,), SamplingParams(), 1))
    assert chi_squared(Counter((int(v),) for v in drawn), expected, 5000).p_value < 1e-6


def test_a_remembered_model_is_the_model() -> None:
    target = table(2)
    copy = remembered(target)
    for model in (target, copy):
        assert list(alone.write(model, (0, 1), SamplingParams(), 5, 6)) == list(
            alone.write(target, (0, 1), SamplingParams(), 5, 6)
        )
    assert np.array_equal(copy.row((0, 3)), target.row((0, 3)))


def test_a_model_alone_stops_where_it_should() -> None:
    target = table(2, eos_ids=(1,))
    for seed in range(20):
        text = list(alone.write(target, (0,), SamplingParams(), seed, 6))
        assert 1 not in text[:-1]
        assert len(text) == 6 or text[-1] == 1
    target.max_context = 4
    assert len(list(alone.write(table(2), (0, 0, 0), SamplingParams(), 1, 0))) == 0
    assert len(list(alone.write(target, (0, 0, 0), SamplingParams(), 1, 9))) == 1


def test_a_pair_serves_text_after_text_and_says_why_one_failed() -> None:
    pair = Pair(table(1), table(2))
    request = [Request((0,), SchemeSpec("coupled"), SamplingParams(), seed, 5) for seed in range(3)]
    texts = [pair.write(one) for one in request]
    assert [text.reason for text in texts] == ["length"] * 3
    assert [len(text.tokens) for text in texts] == [5] * 3
    assert sum((commit.tokens for commit in texts[0].commits), ()) == tuple(texts[0].tokens)
    with pytest.raises(RefusedError) as refused:
        Pair(table(1, vocab=5), table(2))
    assert refused.value.code == "vocabulary"
