"""One suite for all engines: rows as the oracle's, rollback, sessions side by side, the oracle's texts over the wire.

The oracle is ONNX Runtime running one sequence at a time, which writes what the target alone would write. Rows of two
engines differ by rounding, so two candidates that lie closer than that may change places: such positions of a text are
counted, and the oracle's own row is asked how close they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from airdraft.core.choosing import choose
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import gumbel
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams, candidates
from airdraft.device.client import EdgeConnection
from airdraft.edge.server import EdgeServer
from airdraft.errors import ModelError, RefusedError
from airdraft.models.base import Copier, Part, TargetEngine
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.text import Tokenizer
from airdraft.sim import alone

from ..models.http_engine import log_softmax

pytestmark = pytest.mark.timeout(600)  # a server may have to start

TOLERANCE = 5e-4
"""Between log-probabilities of two engines in fp32; 7e-5 as a rule. Two tokens swapped far back make whole numbers."""
HOST = "127.0.0.1"
PROMPTS = ('def parse(text):\n    """Parse a line."""\n', "import os\n\nclass Tree:\n", "for line in lines:\n")
TEXT = [0, 300, 17, 2049, 900, 31, 4000, 300, 300, 77, 1234, 5, 18, 700, 42, 3999]
GREEDY = SamplingParams(0.0)
WARM = SamplingParams(0.7, top_k=20)
Model = tuple[Any, Tokenizer]


def agree(engine: TargetEngine, found: Any, oracle: OnnxModel, tokens: Sequence[int]) -> None:
    """Each row has the oracle's log-probabilities: of every token, or of the engine's most likely ones."""
    if isinstance(found, Exception):
        raise found
    wanted = log_softmax(oracle.forward(oracle.new_cache(), 0, tokens, max(len(found), 1)))[: len(found)]
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    kept = np.isfinite(found)
    assert kept.sum(-1).tolist() == [engine.info.top_k or engine.info.vocab_size] * len(found)
    own = found if engine.info.top_k else log_softmax(found)
    np.testing.assert_allclose(own[kept], wanted[kept], rtol=0, atol=TOLERANCE)
    if engine.info.top_k:
        weakest = np.where(kept, wanted, np.inf).min(-1)
        strongest = np.where(kept, -np.inf, wanted).max(-1)
        assert (strongest <= weakest + TOLERANCE).all()


def run(engine: TargetEngine, *parts: tuple[Any, int, Sequence[int], int]) -> list[Any]:
    return list(engine.verify([Part(*part) for part in parts]))


def test_rows_are_the_oracles(engine: TargetEngine, oracle: OnnxModel) -> None:
    for rows in (0, 1, 5, len(TEXT)):
        [found] = run(engine, (engine.new_cache(), 0, TEXT, rows))
        agree(engine, found, oracle, TEXT)


def test_what_it_declares_holds(engine: TargetEngine) -> None:
    info = engine.info
    assert info.max_batch >= 1
    assert info.max_calls >= 1
    assert (info.vocab_size, info.eos_ids) == (4096, (0,))
    assert 1000 <= info.max_context <= 1024
    assert info.max_rollback is None or info.max_rollback >= 32
    assert info.position_bytes in (None, 2 * 4 * 4 * 64 * 4)  # keys, values; layers, heads, sizes, fp32


def test_it_rolls_back_to_every_depth(engine: TargetEngine, oracle: OnnxModel) -> None:
    cache = engine.new_cache()
    for keep in (*range(len(TEXT), 0, -1), *range(1, len(TEXT))):
        run(engine, (cache, 0, TEXT, 0))
        branch = [*TEXT[:keep], 7, 8, 9]
        [found] = run(engine, (cache, keep, branch[keep:], 3))
        agree(engine, found, oracle, branch)


def test_copies_go_their_own_ways(engine: TargetEngine, oracle: OnnxModel) -> None:
    if not isinstance(engine, Copier):
        assert engine.info.max_calls > 1  # a server elsewhere, which keeps prefixes by itself
        return
    first = engine.new_cache()
    run(engine, (first, 0, TEXT, 0))
    for length in (len(TEXT), 5, 1):
        copy = engine.copy(first, length)
        assert (copy.length, first.length) == (length, len(TEXT))
        branch, trunk = [*TEXT[:length], 7, 8, 9], [*TEXT, 77]
        for _ in range(2):
            [found] = run(engine, (copy, length, branch[length:], 3))
            agree(engine, found, oracle, branch)
            [found] = run(engine, (first, len(TEXT), [77], 1))
            agree(engine, found, oracle, trunk)
            run(engine, (first, len(TEXT) - 1, TEXT[-1:], 0))
        copies = engine.copy(copy, copy.length)
        del copy
        run(engine, (engine.new_cache(), 0, [5, 6, 7], 0))
        [found] = run(engine, (copies, len(branch), [3], 1))
        agree(engine, found, oracle, [*branch, 3])
    with pytest.raises(ModelError, match="cannot be copied"):
        engine.copy(first, first.length + 1)


TREE = [700, 31, 4000, 5, 12, 2049, 77]
PARENTS = (-1, -1, 0, 1, 1, 2, 4)
"""After the text 700 4000 2049, and 31 with 5 and with 12 77."""


def branch(at: int) -> list[int]:
    """The tokens of the tree that lead to one of them, itself included."""
    return [*(branch(PARENTS[at]) if PARENTS[at] >= 0 else []), TREE[at]]


def grown(engine: TargetEngine, cache: Any) -> Any:
    run(engine, (cache, 0, TEXT, 0))
    [found] = engine.verify([Part(cache, len(TEXT), TREE, len(TREE), PARENTS)])
    return found


def test_the_rows_of_a_tree_are_those_of_each_branch(engine: TargetEngine, oracle: OnnxModel) -> None:
    cache = engine.new_cache()
    found = grown(engine, cache)
    if not engine.info.trees:
        assert isinstance(found, ModelError)
        assert "chains only" in str(found)
        assert cache.length == len(TEXT)
        return
    assert not isinstance(found, Exception), found
    assert cache.length == len(TEXT) + len(TREE)
    for at in range(len(TREE)):
        agree(engine, found[at : at + 1], oracle, [*TEXT, *branch(at)])
    with pytest.raises(AssertionError):  # it would notice a branch that sees another
        agree(engine, found[2:3], oracle, [*TEXT, 700, 31, 4000])


@pytest.mark.parametrize("picks", [(0, 2), (1, 4, 6), (1, 3), (0,), ()], ids=str)
def test_a_branch_of_a_tree_stays_and_the_text_goes_on(
    engine: TargetEngine, oracle: OnnxModel, picks: tuple[int, ...]
) -> None:
    if not engine.info.trees:
        return
    cache, text = engine.new_cache(), [*TEXT, *(TREE[pick] for pick in picks)]
    grown(engine, cache)
    for new in ([3, 5, 8], [1], [9, 9]):
        [found] = engine.verify([Part(cache, len(TEXT), new, len(new), None, picks)])
        assert cache.length == len(text) + len(new)
        agree(engine, found, oracle, [*text, *new])
        run(engine, (cache, len(text), [7], 0))  # what stayed is text by now
        grown(engine, cache)


def test_branches_grow_side_by_side_and_share_calls(engine: TargetEngine, oracle: OnnxModel) -> None:
    """One text's tree goes on from the ends of its branches, while others are fed chains and trees of their own."""
    if not engine.info.trees:
        return
    first, second, other = engine.new_cache(), engine.new_cache(), engine.new_cache()
    grown(engine, first)
    for cache, length in ((second, 5), (other, 9)):
        run(engine, (cache, 0, TEXT[:length], 0))
    kept = (0, 1, 2, 4)  # 700 4000, and 31 12
    parts = [
        Part(first, len(TEXT), [8, 9, 10], 3, (-2, -1, -4), kept),  # after 4000, after 12, after 700
        Part(second, 5, [1, 2], 2, (-1, -1)),
        Part(other, 9, [6, 7, 5], 2),
    ]
    found = engine.verify(parts) if engine.info.max_batch > 1 else [engine.verify([part])[0] for part in parts]
    assert not any(isinstance(each, Exception) for each in found), found
    for rows, tokens in zip(found[0], ([700, 4000, 8], [31, 12, 9], [700, 10]), strict=True):  # type: ignore[arg-type]
        agree(engine, rows[None], oracle, [*TEXT, *tokens])
    for rows, token in zip(found[1], (1, 2), strict=True):  # type: ignore[arg-type]
        agree(engine, rows[None], oracle, [*TEXT[:5], token])
    agree(engine, found[2], oracle, [*TEXT[:9], 6, 7, 5])


def test_sessions_take_turns_and_share_calls(engine: TargetEngine, oracle: OnnxModel) -> None:
    rng = np.random.default_rng(3)
    count = min(engine.info.max_batch, 4)
    caches = [engine.new_cache() for _ in range(count)]
    texts: list[list[int]] = [[] for _ in range(count)]
    for step in range(12):
        parts, which = [], []
        for at in range(count):
            if step and rng.random() < 0.3:  # not ready this time
                continue
            keep = max(0, len(texts[at]) - int(rng.integers(0, 5)))
            new = rng.integers(4096, size=int(rng.integers(1, 9))).tolist()
            texts[at] = [*texts[at][:keep], *new]
            parts.append((caches[at], keep, new, int(rng.integers(0, len(new) + 1))))
            which.append(at)
        for at, found in zip(which, run(engine, *parts) if parts else [], strict=True):
            agree(engine, found, oracle, texts[at])


def test_a_wrong_part_ends_no_other(engine: TargetEngine, oracle: OnnxModel) -> None:
    good, bad = engine.new_cache(), engine.new_cache()
    parts = [(bad, 0, [5, engine.info.vocab_size], 1), (good, 0, TEXT, 2)]
    found = run(engine, *parts) if engine.info.max_batch > 1 else [run(engine, part)[0] for part in parts]
    assert isinstance(found[0], ModelError)
    agree(engine, found[1], oracle, TEXT)
    [again] = run(engine, (bad, 0, TEXT, 1))  # and its cache is as it was
    agree(engine, again, oracle, TEXT)


async def _events(engine: TargetEngine, model: Model, requests: Sequence[Request]) -> list[list[Committed]]:
    """What is committed of each, all at once, over the wire."""
    draft, tokenizer = model
    async with EdgeServer(engine, tokenizer.digest, tokenizer.vocab_size) as server:
        await server.start(HOST, 0)
        url = f"ws://{HOST}:{server.port}"
        async with await EdgeConnection.connect(url, draft, tokenizer.digest, tokenizer.vocab_size) as client:

            async def one(request: Request) -> list[Committed]:
                return [event async for event in client.write(request) if isinstance(event, Committed)]

            return list(await asyncio.gather(*map(one, requests)))


async def _write(engine: TargetEngine, model: Model, requests: Sequence[Request]) -> list[list[int]]:
    return [[token for event in text for token in event.tokens] for text in await _events(engine, model, requests)]


def near(oracle: OnnxModel, request: Request, tokens: list[int], other: int) -> bool:
    """Whether the last of `tokens` and `other` are too close for rounding to be sure of either."""
    before = [*request.prompt, *tokens[:-1]]
    row = oracle.forward(oracle.new_cache(), 0, before, 1)[0]
    ids, kept = candidates(row, request.params)
    if request.params.temperature == 0:
        ids, kept = np.arange(row.size), row.astype(float)
    else:
        kept = kept + gumbel(request.seed, len(before), row.size, ids)
        kept = kept * request.params.temperature
    score = dict(zip(ids.tolist(), kept.tolist(), strict=True))
    return other not in score or abs(score[tokens[-1]] - score[other]) < 2 * TOLERANCE


@pytest.mark.parametrize("params", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("scheme", ["server", "coupled", "stream"])
def test_texts_over_the_wire_are_the_oracles(
    engine: TargetEngine, oracle: OnnxModel, draft: Model, scheme: str, params: SamplingParams
) -> None:
    tokenizer = draft[1]
    requests = [
        Request(tokenizer.encode(prompt), SchemeSpec(scheme), params, seed, 48) for seed, prompt in enumerate(PROMPTS)
    ]
    texts = asyncio.run(_write(engine, draft, requests))
    assert sum(map(len, texts)) > 60
    for request, text in zip(requests, texts, strict=True):
        truth = list(alone.write(oracle, request.prompt, params, request.seed, 48))
        if text != truth:
            at = next(at for at, (one, other) in enumerate(zip(truth, text, strict=False)) if one != other)
            assert near(oracle, request, truth[: at + 1], text[at]), f"{scheme} differs at token {at}"


@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_trees_change_no_text(engine: TargetEngine, draft: Model, temperature: float) -> None:
    """Not by a token, where chains do not: the rounding of other branches decides nothing and leaves no trace."""
    if not engine.info.doubt:
        return
    params, texts = SamplingParams(temperature), list[list[list[int]]]()
    for scheme, branches in (("server", None), ("stream", 4)):
        requests = [
            Request(draft[1].encode(prompt), SchemeSpec(scheme), params, seed, 32, branches=branches)
            for seed, prompt in enumerate(PROMPTS[:2])
        ]
        texts.append(asyncio.run(_write(engine, draft, requests)))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("scheme", ["server", "dense", "topk", "lattice", "split", "coupled", "stream"])
@pytest.mark.parametrize("top_k", [0, 20, 21])
def test_what_cannot_be_exact_is_refused(engine: TargetEngine, draft: Model, scheme: str, top_k: int) -> None:
    request = Request([1, 2, 3], SchemeSpec(scheme), SamplingParams(0.7, top_k=top_k), 0, 4)
    if engine.info.top_k is None or 1 <= top_k <= engine.info.top_k:
        [text] = asyncio.run(_write(engine, draft, [request]))
        assert 1 <= len(text) <= 4
        return
    told = f"gives only its {engine.info.top_k} most likely tokens.* top-k 1 to"
    with pytest.raises(RefusedError, match=told) as refused:
        asyncio.run(_write(engine, draft, [request]))
    assert refused.value.code == "scheme"


@pytest.mark.parametrize("scheme", ["server", "topk", "stream"])
def test_log_probabilities_are_the_oracles(engine: TargetEngine, oracle: OnnxModel, draft: Model, scheme: str) -> None:
    """An engine that gives only some knows what these were divided by."""
    prompt = draft[1].encode(PROMPTS[0])
    request = Request(prompt, SchemeSpec(scheme), WARM, 3, 24, logprobs=5)
    [commits] = asyncio.run(_events(engine, draft, [request]))
    tokens = [token for event in commits for token in event.tokens]
    told = [each for event in commits for each in event.logprobs]
    rows = log_softmax(oracle.forward(oracle.new_cache(), 0, [*prompt, *tokens[:-1]], len(tokens)))
    assert [each.token for each in told] == tokens
    for each, row in zip(told, rows, strict=True):
        assert abs(each.logprob - row[each.token]) < 2 * TOLERANCE
        assert len(each.top) == 5
        for token, logprob in each.top:
            assert abs(logprob - row[token]) < 2 * TOLERANCE
        assert each.top[-1][1] >= np.sort(row)[-5] - 2 * TOLERANCE


def test_more_log_probabilities_than_an_engine_tells_are_refused(engine: TargetEngine, draft: Model) -> None:
    request = Request([1, 2, 3], SchemeSpec("server"), SamplingParams(0.0), 0, 2, logprobs=20)
    if engine.info.top_k is None or engine.info.top_k >= 20:
        [[first, *_]] = asyncio.run(_events(engine, draft, [request]))
        assert len(first.logprobs[0].top) == 20
        return
    with pytest.raises(RefusedError, match=f"ask for at most {engine.info.top_k}"):
        asyncio.run(_write(engine, draft, [request]))


def test_the_suite_would_notice(oracle: OnnxModel) -> None:
    """A row of another position, and another token than the oracle's, do not pass."""
    rows = oracle.forward(oracle.new_cache(), 0, TEXT, 2)
    engine: TargetEngine = oracle
    with pytest.raises(AssertionError):
        agree(engine, rows[::-1], oracle, TEXT)
    request = Request(TEXT, SchemeSpec("coupled"), WARM, 5, 4)
    first = choose(rows[-1], WARM, 5, len(TEXT))
    others = [int(token) for token in candidates(rows[-1], WARM)[0] if token != first]
    assert not any(near(oracle, request, [first], token) for token in others)
