"""Many sequences in one call: the rows that each has alone, whoever comes, goes, or runs alone in between."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, Part, TargetEngine
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.engines.onnx_batch import OnnxCache, Rule
from airdraft.models.files.folder import shipped

from ..suites import examples

TOLERANCE = 1e-4
"""Between rows of a batch and of forwards alone: rounding, 2e-5 as a rule."""


def text(seed: int, length: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, 4096, length)]


def alone(model: OnnxModel, tokens: Sequence[int], rows: int) -> FloatArray:
    return model.forward(model.new_cache(), 0, tokens, rows)


def fed(model: OnnxModel, tokens: Sequence[int]) -> OnnxCache:
    """A cache that holds `tokens`."""
    cache = model.new_cache()
    model.forward(cache, 0, tokens, 0)
    return cache


def rows(model: OnnxModel, batch: Sequence[Part]) -> list[FloatArray]:
    """Of a call in which all goes well."""
    found = model.verify(batch)
    for one in found:
        if isinstance(one, Exception):
            raise one
    return [one for one in found if isinstance(one, np.ndarray)]


def close(found: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_it_is_a_target_engine(target: OnnxModel, draft: OnnxModel) -> None:
    for model in (target, draft):
        engine: TargetEngine = model
        info = engine.info
        assert (info.top_k, info.max_rollback, info.max_caches, info.max_positions) == (None,) * 4
        assert (info.max_batch, info.max_calls) == (64, 1)
        cache = model.new_cache()
        model.forward(cache, 0, text(1, 7), 0)
        assert info.position_bytes == sum(tensor.nbytes for tensor in cache.tensors) / 7


def test_nothing_to_do(draft: OnnxModel) -> None:
    assert draft.verify([]) == []


@pytest.mark.parametrize("which", ["target", "draft"])
def test_lengths_widths_and_rows_may_all_differ(which: str, request: pytest.FixtureRequest) -> None:
    model: OnnxModel = request.getfixturevalue(which)
    shapes = [(0, 5, 5), (100, 1, 1), (7, 6, 0), (300, 6, 6), (31, 3, 2), (0, 1, 1), (299, 128, 1)]
    texts = [text(seed, held + n) for seed, (held, n, _) in enumerate(shapes)]
    batch = [
        Part(fed(model, tokens[:held]) if held else model.new_cache(), held, tokens[held:], wanted)
        for tokens, (held, _, wanted) in zip(texts, shapes, strict=True)
    ]
    found = rows(model, batch)
    assert [one.shape for one in found] == [(wanted, 4096) for _, _, wanted in shapes]
    assert {one.dtype for one in found} == {np.dtype(np.float32)}
    for one, tokens in zip(found, texts, strict=True):
        close(one, alone(model, tokens, len(one)))
    for part, tokens in zip(batch, texts, strict=True):
        close(model.forward(part.cache, len(tokens), [9], 1), alone(model, [*tokens, 9], 1))


_opened: list[OnnxModel] = []


def _draft() -> OnnxModel:
    """Hypothesis and fixtures of a function do not mix."""
    if not _opened:
        _opened.append(OnnxModel(shipped("draft")))
    return _opened[0]


_step = st.tuples(
    st.integers(0, 4),  # which sequence
    st.one_of(st.just(0), st.integers(0, 9), st.integers(0, 200)),  # positions rolled back
    st.lists(st.integers(0, 4095), min_size=1, max_size=12),
    st.booleans(),  # drop the sequence and start another in its place
)


@examples(40)
@given(st.lists(st.tuples(st.booleans(), st.lists(_step, min_size=1, max_size=5, unique_by=lambda step: step[0]))))
def test_any_history_of_batches_rollbacks_and_forwards_alone(
    calls: list[tuple[bool, list[tuple[int, int, list[int], bool]]]],
) -> None:
    model = _draft()
    held = [text(seed, length) for seed, length in enumerate((0, 3, 40, 41, 120))]
    caches = [fed(model, tokens) if tokens else model.new_cache() for tokens in held]
    for together, steps in calls:
        batch = []
        for which, back, tokens, anew in steps:
            if anew:
                caches[which], held[which] = model.new_cache(), []
            keep = max(len(held[which]) - back, 0)
            held[which] = held[which][:keep] + tokens
            batch.append(Part(caches[which], keep, tokens, len(tokens)))
        found = rows(model, batch) if together else [model.forward(p.cache, p.keep, p.tokens, p.rows) for p in batch]
        for (which, *_), part, one in zip(steps, batch, found, strict=True):
            close(one, alone(model, held[which], part.rows))


def test_sequences_change_company(draft: OnnxModel) -> None:
    random = np.random.default_rng(0)
    held = [text(seed, 20 + seed) for seed in range(6)]
    caches = [fed(draft, tokens) for tokens in held]
    for _ in range(30):
        wide = random.permutation(6)[: random.integers(2, 5)]  # these feed 20 tokens, too many to go with the others
        batch = []
        for i in range(6):
            keep = max(len(held[i]) - int(random.integers(0, 8)), 0)
            new = text(int(random.integers(99)), 20 if i in wide else 1)
            held[i] = held[i][:keep] + new
            batch.append(Part(caches[i], keep, new, 1))
        assert len(draft._rule.groups([(len(part.tokens), part.keep) for part in batch])) == 2
        for tokens, found in zip(held, rows(draft, batch), strict=True):
            close(found, alone(draft, tokens, 1))


def test_one_parts_error_is_no_others(draft: OnnxModel) -> None:
    texts = [text(seed, 20) for seed in range(4)]
    caches = [fed(draft, tokens) for tokens in texts]
    found = draft.verify(
        [
            Part(caches[0], 20, [1, 2], 2),
            Part(caches[1], 21, [1, 2], 2),
            Part(caches[2], 20, [4096], 1),
            Part(caches[3], 18, [1, 2], 1),
        ]
    )
    assert [type(one) for one in found] == [np.ndarray, ModelError, ModelError, np.ndarray]
    assert str(found[1]) == "cannot keep 21 positions of a cache of 20; feed the tokens again"
    assert "outside 0 to 4095" in str(found[2])
    for which, keep, tokens in ((0, 22, texts[0] + [1, 2]), (1, 20, texts[1]), (2, 20, texts[2])):
        close(draft.forward(caches[which], keep, [3], 1), alone(draft, [*tokens, 3], 1))
    close(draft.forward(caches[3], 20, [3], 1), alone(draft, [*texts[3][:18], 1, 2, 3], 1))


def test_the_last_position_can_be_used_beside_wider_parts(draft: OnnxModel) -> None:
    tokens, other = text(0, 1024), text(1, 1000)
    caches = [fed(draft, tokens[:1023]), fed(draft, other[:990])]
    found = rows(draft, [Part(caches[0], 1023, tokens[1023:], 1), Part(caches[1], 990, other[990:], 10)])
    close(found[0], alone(draft, tokens, 1))
    close(found[1], alone(draft, other, 10))


def test_a_sequence_that_broke_spoils_no_other(draft: OnnxModel) -> None:
    texts = [text(seed, 50) for seed in range(2)]
    caches = [fed(draft, tokens) for tokens in texts]
    for tensor in caches[0].tensors:
        tensor[:] = np.nan
    found = rows(draft, [Part(cache, 50, [1], 1) for cache in caches])
    assert np.isnan(found[0]).all()
    close(found[1], alone(draft, [*texts[1], 1], 1))
    young = fed(draft, texts[0][:10])  # takes the row that the broken one had
    found = rows(draft, [Part(caches[1], 50, [1], 1), Part(young, 10, [1], 1)])
    close(found[0], alone(draft, [*texts[1], 1], 1))
    close(found[1], alone(draft, [*texts[0][:10], 1], 1))


def test_the_rows_are_the_callers(draft: OnnxModel) -> None:
    caches = [fed(draft, text(seed, 20)) for seed in range(2)]
    batch = [Part(cache, 19, [5], 1) for cache in caches]
    first = rows(draft, batch)
    before = [one.copy() for one in first]
    for one in first:
        np.add(one, 1, out=one)  # samplers work in place
    np.testing.assert_array_equal(rows(draft, batch), before)


def test_a_forward_beside_a_batch(draft: OnnxModel) -> None:
    texts = [text(seed, 60) for seed in range(5)]

    def single() -> list[FloatArray]:
        cache = draft.new_cache()
        return [draft.forward(cache, i, [token], 1) for i, token in enumerate(texts[0])]

    def batched() -> list[list[FloatArray]]:
        caches = [draft.new_cache() for _ in texts]
        return [
            rows(draft, [Part(cache, i, [t[i]], 1) for cache, t in zip(caches, texts, strict=True)]) for i in range(60)
        ]

    with ThreadPoolExecutor(2) as pool:
        one, many = pool.submit(single), pool.submit(batched)
    for i, (mine, theirs) in enumerate(zip(one.result(), many.result(), strict=True)):
        close(mine, alone(draft, texts[0][: i + 1], 1))
        for which, row in enumerate(theirs):
            close(row, alone(draft, texts[which][: i + 1], 1))


def test_dropped_caches_are_freed(draft: OnnxModel) -> None:
    caches = [fed(draft, text(seed, 30)) for seed in range(4)]
    draft.verify([Part(cache, 30, [1], 1) for cache in caches] + [Part(draft.new_cache(), 3, [1], 1)])
    gone = [weakref.ref(cache) for cache in caches]
    gone += [weakref.ref(cache.tensors[0]) for cache in caches]
    gc.disable()  # at once, not when the collector comes round
    try:
        del caches
        assert [one() for one in gone] == [None] * 8
    finally:
        gc.enable()


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_batch_does_not_outlive_its_sequences(left: int) -> None:
    model = OnnxModel(shipped("draft"))
    tracemalloc.start()
    try:
        caches = [fed(model, text(seed, 500)) for seed in range(16)]
        rows(model, [Part(cache, 500, [1], 1) for cache in caches])
        own = sum(tensor.nbytes for tensor in caches[0].tensors)
        assert tracemalloc.get_traced_memory()[0] > 1.5 * 16 * own  # their own and the batch's
        del caches[left:]
        rows(model, [Part(cache, 501, [1], 1) for cache in caches])
        # One that runs alone keeps nothing else; two keep at most four times what is theirs in the batch.
        assert tracemalloc.get_traced_memory()[0] < (0.2, 1.2, 2 * 1.2 + 4 * 2)[left] * own
    finally:
        tracemalloc.stop()


def test_a_call_saved_is_worth_some_padding() -> None:
    rule = Rule.of(weight_bytes=21_000_000, position_bytes=8192)
    assert rule.groups([]) == []
    assert rule.groups([(1, 300)]) == [[0]]
    assert [sorted(group) for group in rule.groups([(6, 300)] * 16)] == [list(range(16))]
    assert [sorted(group) for group in rule.groups([(2, 200), (6, 400), (3, 250), (2, 500)])] == [[1, 3], [0, 2]]


def test_long_ones_do_not_make_all_others_wait() -> None:
    rule = Rule.of(weight_bytes=21_000_000, position_bytes=8192)
    assert [sorted(g) for g in rule.groups([(1, 300), (128, 128), (3, 310), (6, 290)])] == [[1], [0, 2, 3]]
    assert [sorted(g) for g in rule.groups([(1, 20), (1, 1000), (2, 30)])] == [[1], [0, 2]]
    assert [sorted(g) for g in rule.groups([(128, 0), (1, 10), (128, 128), (1, 12)])] == [[0, 2], [1, 3]]


def test_weights_that_take_long_to_read_are_read_once() -> None:
    large = Rule.of(weight_bytes=4_000_000_000, position_bytes=100_000)
    assert [sorted(group) for group in large.groups([(1, 20), (1, 1000), (2, 30)])] == [[0, 1, 2]]


def test_a_call_has_bounded_memory() -> None:
    rule = Rule.of(weight_bytes=4_000_000_000, position_bytes=1 << 20)
    assert [len(group) for group in rule.groups([(1, 256)] * 10)] == [4, 4, 2]


class OneIsOther(OnnxModel):
    """The shipped target as if it were quantised: a token that is fed alone has another row."""

    def forward(self, cache: OnnxCache, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        found = super().forward(cache, keep, tokens, rows)
        return found + np.float32(len(tokens) == 1)


def test_a_graph_that_rounds_one_token_otherwise_is_batched() -> None:
    """Nobody feeds it one token alone, see `steady`."""
    assert OneIsOther(shipped("target")).info.max_batch == 64
