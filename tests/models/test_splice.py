"""The laws of merged attention: it is whole attention, however keys are cut into parts and in whatever order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from airdraft.models.splice import Attended, attend, merge

HEADS, QUERIES, KEYS, DIM = 2, 3, 17, 8
CLOSE = {np.float64: 1e-13, np.float32: 1e-5}


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[NDArray[np.floating]], NDArray[np.bool_], list[NDArray[np.intp]]]:
    """Queries, keys and values; which keys each query sees; and the keys of each part, some of which may have none."""
    kind = draw(st.sampled_from([np.float32, np.float64]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.1, 1.0, 30.0]))  # of scores: flat, usual, and far beyond what exp can take
    arrays = [(scale * random.standard_normal((HEADS, n, DIM))).astype(kind) for n in (QUERIES, KEYS)] + [
        random.standard_normal((HEADS, KEYS, DIM)).astype(kind)
    ]
    seen = random.random((HEADS, QUERIES, KEYS)) < draw(st.sampled_from([0.0, 0.1, 0.7, 1.0]))
    owners = random.integers(0, draw(st.integers(1, 6)), KEYS)
    parts = [np.flatnonzero(owners == each) for each in range(6)]
    random.shuffle(parts)
    return arrays, seen, parts


def whole(queries, keys, values, seen):  # type: ignore[no-untyped-def]
    """Softmax over all keys, written down directly and in double precision."""
    scores = np.where(seen, queries.astype(np.float64) @ keys.astype(np.float64).swapaxes(-1, -2), -np.inf)
    found = np.zeros((HEADS, QUERIES, DIM))
    for place in np.ndindex(HEADS, QUERIES):
        if seen[place].any():
            weights = np.exp(scores[place] - scores[place].max())
            found[place] = weights / weights.sum() @ values[place[0]]
    return found


def closeness(queries: NDArray[np.floating]) -> float:
    """How near two ways of adding up must come: scores round by their size."""
    return CLOSE[queries.dtype.type] * max(1.0, float(np.abs(queries).max() ** 2))


@given(cases())
def test_merged_parts_are_whole_attention(case) -> None:  # type: ignore[no-untyped-def]
    (queries, keys, values), seen, parts = case
    found = merge([attend(queries, keys[:, part], values[:, part], seen[..., part]) for part in parts])
    close = closeness(queries)
    np.testing.assert_allclose(found.output, whole(queries, keys, values, seen), rtol=0, atol=close)
    alone = attend(queries, keys, values, seen)
    np.testing.assert_allclose(found.log_sum, alone.log_sum, rtol=1e-6, atol=close)
    assert np.array_equal(np.isneginf(found.log_sum), ~seen.any(-1))
    assert found.output.dtype == queries.dtype


@given(cases(), st.randoms(use_true_random=False))
def test_order_and_brackets_do_not_matter(case, random) -> None:  # type: ignore[no-untyped-def]
    (queries, keys, values), seen, parts = case
    pieces = [attend(queries, keys[:, part], values[:, part], seen[..., part]) for part in parts]
    found = merge(pieces)
    shuffled = random.sample(pieces, len(pieces))
    nested = merge([merge(shuffled[:2]), *shuffled[2:4], merge(shuffled[4:])])
    for other in (merge(shuffled), nested):
        np.testing.assert_allclose(other.output, found.output, rtol=0, atol=closeness(queries))


@given(cases())
def test_one_part_is_itself_and_an_empty_one_is_nothing(case) -> None:  # type: ignore[no-untyped-def]
    (queries, keys, values), seen, _ = case
    alone = attend(queries, keys, values, seen)
    empty = attend(queries, keys[:, :0], values[:, :0])
    assert not empty.output.any()
    assert np.isneginf(empty.log_sum).all()
    for found in (merge([alone]), merge([alone, empty]), merge([empty, alone])):
        np.testing.assert_array_equal(found.output, alone.output)
        np.testing.assert_array_equal(found.log_sum, alone.log_sum)


def test_a_merge_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no part"):
        merge([])


def test_the_laws_tell_a_wrong_merge() -> None:
    """A mean of outputs that forgets how much each part has seen."""
    random = np.random.default_rng(1)
    queries, keys, values = (random.standard_normal((1, n, DIM)) for n in (2, 6, 6))
    parts = [attend(queries, keys[:, cut], values[:, cut]) for cut in (slice(0, 1), slice(1, 6))]
    flat = merge([Attended(part.output, np.zeros_like(part.log_sum)) for part in parts])
    assert np.abs(flat.output - attend(queries, keys, values).output).max() > 1e-3


@pytest.mark.slow
def test_what_transformers_are_given_is_the_merge() -> None:
    """Heads that share keys, a batch of several texts, a mask, and a beginning of two segments."""
    torch = pytest.importorskip("torch", reason="needs the extra hf")
    from types import SimpleNamespace

    from airdraft.models.engines import hf_spliced

    random, kv_heads, own = np.random.default_rng(2), 2, 5
    queries = random.standard_normal((3, 2 * kv_heads, QUERIES, DIM)).astype(np.float32)
    keys, values = (random.standard_normal((3, kv_heads, own, DIM)).astype(np.float32) for _ in range(2))
    before = [random.standard_normal((2, kv_heads, 64, DIM)).astype(np.float32) for _ in range(2)]
    seen = np.tril(np.ones((QUERIES, own), bool), own - QUERIES)
    mask = torch.zeros(3, 1, QUERIES, own).masked_fill(~torch.from_numpy(seen), torch.finfo(torch.float32).min)
    given = [torch.from_numpy(each) for each in (queries, keys, values)]
    with hf_spliced.behind({4: tuple(map(torch.from_numpy, before))}):
        found, _ = hf_spliced.attend(SimpleNamespace(layer_idx=4), *given, mask, scaling=0.5)
    for text, head in np.ndindex(3, 2 * kv_heads):
        whose = head // 2
        parts = [attend(0.5 * queries[text, head], *(each[at, whose] for each in before)) for at in range(2)]
        parts.append(attend(0.5 * queries[text, head], keys[text, whose], values[text, whose], seen))
        np.testing.assert_allclose(found[text, :, head].numpy(), merge(parts).output, rtol=0, atol=1e-5)
