"""What a guide allows and a row does not tell is asked for: of small servers that speak as vLLM and SGLang do.

No vLLM and no SGLang runs here; a real vLLM and a real llama-server are asked in tests/engines/test_guides.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from airdraft.models.base import FloatArray, Part, Wanted
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.engines.remote import RemoteTarget
from airdraft.models.engines.sglang import SglangTarget
from airdraft.models.engines.telling import Short, shared
from airdraft.models.engines.vllm import VllmTarget
from airdraft.models.files.folder import shipped

from .http_engine import Engine, like_sglang, like_vllm, log_softmax, serve

TEXT = [0, 300, 17, 2049, 900, 31]
TREE = (-1, 0, 1, 1, 0, 4)
K = 20
FEW, SOME, MANY = (np.random.default_rng(size).choice(4096, size, replace=False) for size in (7, 700, 3000))
"""Of many tokens, some likely ones are among them."""


def among(ids: Sequence[int] | np.ndarray, count: int) -> Wanted:
    mask = np.zeros(4096, np.bool_)
    mask[ids] = True
    return Wanted(mask, count)


@contextmanager
def vllm(target: OnnxModel, **options: Any) -> Iterator[tuple[VllmTarget, Engine]]:
    with serve(like_vllm(target, **options)) as engine:
        yield VllmTarget(shipped("target"), [engine.url], top_k=K), engine


@contextmanager
def sglang(target: OnnxModel) -> Iterator[tuple[SglangTarget, Engine]]:
    with serve(like_sglang(target)) as engine:
        yield SglangTarget(shipped("target"), [engine.url], top_k=K), engine


def rows_of(model: RemoteTarget, wanted: Sequence[Wanted | None], parents: tuple[int, ...] | None = None) -> FloatArray:
    [found] = model.verify([Part(model.new_cache(), 0, TEXT, len(wanted), parents, wanted=tuple(wanted))])
    if isinstance(found, Exception):
        raise found
    return found


def branch(at: int, parents: tuple[int, ...] | None) -> list[int]:
    if parents is None:
        return TEXT[: at + 1]
    return [*(branch(parents[at], parents) if parents[at] >= 0 else []), TEXT[at]]


def is_exact(
    target: OnnxModel, rows: FloatArray, wanted: Sequence[Wanted | None], parents: tuple[int, ...] | None = None
) -> None:
    """What is told is the model's own, and the best of what is allowed is told."""
    for i, (row, wish) in enumerate(zip(rows, wanted, strict=True)):
        prompt = branch(len(TEXT) - len(rows) + i, parents)
        own = log_softmax(target.forward(target.new_cache(), 0, prompt, 1))[0]
        told = np.isfinite(row)
        np.testing.assert_allclose(row[told], own[told], rtol=0, atol=1e-4)
        assert set(np.argsort(-own)[:K]) <= set(np.flatnonzero(told))
        if wish is not None:
            best = np.flatnonzero(wish.allowed)
            best = best[np.argsort(-own[best])][: wish.count]
            assert told[best].all()


@pytest.mark.parametrize("parents", [None, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("serving", [vllm, sglang])
def test_rows_tell_what_is_wanted(target: OnnxModel, serving: Any, parents: tuple[int, ...] | None) -> None:
    with serving(target) as (model, _):
        wanted = [among(FEW, K), None, among(FEW + 1, K), among(SOME, K), among([5], 1), among(MANY, 3)]
        assert np.isinf(rows_of(model, [None] * 6, parents)[0, FEW]).any()
        is_exact(target, rows_of(model, wanted, parents), wanted, parents)


def test_a_row_that_tells_enough_costs_nothing(target: OnnxModel) -> None:
    with vllm(target) as (model, engine):
        best = np.flatnonzero(np.isfinite(rows_of(model, [None])[0]))
        engine.asked.clear()
        rows_of(model, [among(best, K)])
        rows_of(model, [among([*best[:2], 5, 6, 7, 8], 2)])
        assert len(engine.asked) == 2


def test_where_the_server_tells_more_of_the_likeliest_they_are_asked_for(target: OnnxModel) -> None:
    wanted = [among(SOME, K), among(MANY, K)]
    with vllm(target, max_logprobs=4000) as (model, engine):
        engine.asked.clear()
        is_exact(target, rows_of(model, wanted), wanted)
        assert [body["logprobs"] for _, body in engine.asked] == [K, 4096, 4000]  # the second was refused
        engine.asked.clear()
        is_exact(target, rows_of(model, wanted), wanted)
        assert [body["logprobs"] for _, body in engine.asked] == [K, 4000]


def test_one_lacking_token_is_drawn(target: OnnxModel) -> None:
    wanted = [among(SOME, 1)]
    with vllm(target) as (model, engine):
        best = np.flatnonzero(np.isfinite(rows_of(model, [None])[0]))
        wanted = [among(np.setdiff1d(SOME, best), 1)]
        engine.asked.clear()
        is_exact(target, rows_of(model, wanted), wanted)
        assert [len(body.get("allowed_token_ids", ())) for _, body in engine.asked] == [
            0,
            len(wanted[0].allowed.nonzero()[0]),
        ]


def test_what_a_server_does_not_say_stays_untold(target: OnnxModel, caplog: pytest.LogCaptureFixture) -> None:
    """One with a bound refuses, and rows are then as they were, and true."""
    caplog.set_level(logging.WARNING)
    wanted = [among(FEW, K), among(MANY, K)]
    with vllm(target, most_allowed=3) as (model, engine):
        plain = rows_of(model, [None, None])
        engine.asked.clear()
        found = rows_of(model, wanted)
        is_exact(target, found, [wanted[0], None])
        np.testing.assert_array_equal(found[1], plain[1])
        assert len(engine.asked) <= 1 + 1 + len(FEW) + 2  # a draw that fails is not tried on and on
    assert "target tells too little of what a guide allows" in caplog.text
    assert "too many tokens" in caplog.text


@pytest.mark.parametrize("value", [0.5, "x", None, float("nan")])
def test_a_malformed_further_reply_changes_no_row(target: OnnxModel, value: Any) -> None:
    with vllm(target) as (model, engine):
        good = engine.answer

        def answer(path: str, body: Any) -> tuple[int, Any]:
            status, reply = good(path, body)
            if "allowed_token_ids" in body:
                reply["choices"][0]["logprobs"]["top_logprobs"][0]["token_id:5"] = value
            return status, reply

        plain = rows_of(model, [None])
        engine.answer = answer
        np.testing.assert_array_equal(rows_of(model, [among([5, 6, 7], K)]), plain)


def test_a_request_that_fails_leaves_the_replies_of_others_where_they_belong(target: OnnxModel) -> None:
    """Both rows ask for some of the same tokens, too many to share requests, and the first row's first fails."""
    wanted = [among([0, *range(50, 61)], K), among([*range(1, 22), *range(50, 61)], K)]
    with vllm(target) as (model, engine):
        good = engine.answer

        def answer(path: str, body: Any) -> tuple[int, Any]:
            return (500, {"error": "busy"}) if body.get("allowed_token_ids") == [0] else good(path, body)

        engine.answer = answer
        is_exact(target, rows_of(model, wanted), [None, wanted[1]])


def test_rows_share_a_request_as_far_as_it_goes() -> None:
    def short(first: int) -> Short:
        return Short([first], np.full(4096, -np.inf, np.float32), among(range(first, first + 50), K))

    rows = [short(first) for first in (0, 25, 200, 210, 400, 60)]
    groups = list(shared(rows, 128))
    assert [each for group, _ in groups for each in group] == rows
    assert [len(ids) for _, ids in groups] == [125, 100, 50]
    assert all(set(each.ids) <= set(ids) for group, ids in groups for each in group)
    assert list(shared([], 128)) == []
