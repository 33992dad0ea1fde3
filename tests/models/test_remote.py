"""What engines behind HTTP share, tried with a small server that speaks vLLM's format: the shipped target's rows."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, Part, TargetEngine
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.engines.vllm import VllmTarget
from airdraft.models.files.folder import shipped

from .http_engine import Answer, Engine, like_vllm, log_softmax, serve, served

TEXT = [0, 300, 17, 2049, 900, 31, 4000, 300, 300, 77, 1234, 5]
TOLERANCE = 1e-4
"""Rounding between one wide forward and several; see test_onnx."""

FAILED = r"^the engine of target failed; try again later, or see the edge's log$"


@pytest.fixture
def engine(target: OnnxModel) -> Iterator[Engine]:
    with serve(like_vllm(target)) as found:
        yield found


def remote(*engines: Engine, folder: Path | None = None, **options: Any) -> VllmTarget:
    return VllmTarget(folder or shipped("target"), [engine.url for engine in engines], **options)


def forward(model: TargetEngine, cache: Any, keep: int, tokens: list[int], rows: int) -> FloatArray:
    (found,) = model.verify([Part(cache, keep, tokens, rows)])
    if isinstance(found, Exception):
        raise found
    return found


def is_top(rows: FloatArray, model: OnnxModel, tokens: list[int], k: int) -> None:
    """Each row holds the k best log-probabilities of the model's own row, and nothing else."""
    own = log_softmax(model.forward(model.new_cache(), 0, tokens, len(rows)))
    assert (np.isfinite(rows).sum(axis=1) == k).all()
    np.testing.assert_allclose(np.sort(rows)[:, -k:], np.sort(own)[:, -k:], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(rows, np.where(np.isfinite(rows), own, -np.inf), rtol=0, atol=TOLERANCE)


def test_facts(engine: Engine) -> None:
    model: TargetEngine = remote(engine)
    info = model.info
    assert (info.name, info.vocab_size, info.eos_ids, info.top_k) == ("target", 4096, (0,), 20)
    assert info.max_context == 1023  # one is left for the token that is drawn
    assert (info.max_rollback, info.max_batch, info.max_calls, info.max_caches) == (None, 1, 64, None)
    assert remote(engine, name="mine", top_k=3).info.name == "mine"


def test_a_server_may_allow_less_than_the_model(target: OnnxModel) -> None:
    with serve(like_vllm(target, max_model_len=20)) as engine:
        model = remote(engine)
        assert model.info.max_context == 19
        assert forward(model, model.new_cache(), 0, [1] * 19, 1).shape == (1, 4096)
        with pytest.raises(ModelError, match="20 positions exceed the 19 of target; shorten"):
            forward(model, model.new_cache(), 0, [1] * 20, 1)


def test_a_server_that_does_not_say_how_much_it_allows(target: OnnxModel) -> None:
    good = like_vllm(target)
    with serve(lambda path, body: (200, served("target")) if path == "/v1/models" else good(path, body)) as engine:
        assert remote(engine).info.max_context == 1024


def test_rows_are_the_last_ones(engine: Engine, target: OnnxModel) -> None:
    model = remote(engine, top_k=5)
    for rows in range(len(TEXT) + 1):
        found = forward(model, model.new_cache(), 0, TEXT, rows)
        assert (found.shape, found.dtype) == ((rows, 4096), np.float32)
        is_top(found, target, TEXT, 5)


def test_any_rollback(engine: Engine, target: OnnxModel) -> None:
    model = remote(engine)
    for keep in range(len(TEXT) + 1):
        cache = model.new_cache()
        forward(model, cache, 0, TEXT, 0)
        is_top(forward(model, cache, keep, [8, 9, 10], 3), target, [*TEXT[:keep], 8, 9, 10], 20)


def test_a_prefill_warms_the_engine(engine: Engine) -> None:
    model = remote(engine)
    forward(model, model.new_cache(), 0, TEXT, 0)
    asked = engine.asked[-1][1]
    assert (asked["prompt"], asked["logprobs"], asked["max_tokens"]) == ([TEXT], None, 1)


def test_sequences_in_threads_do_not_disturb_each_other(engine: Engine, target: OnnxModel) -> None:
    model = remote(engine)

    def write(first: int) -> list[FloatArray]:
        cache = model.new_cache()
        return [forward(model, cache, i - i // 3, [first + i], 1) for i in range(9)]

    starts = [10, 500, 900, 1300]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(write, starts))
    for first, found in zip(starts, together, strict=True):
        held = list[int]()
        for i, row in enumerate(found):
            held = [*held[: i - i // 3], first + i]
            is_top(row, target, held, 20)


def test_one_part_that_fails_is_no_other_parts_failure(engine: Engine, target: OnnxModel) -> None:
    model = remote(engine)
    one, two = model.new_cache(), model.new_cache()
    bad, good = model.verify([Part(one, 1, [5], 1), Part(two, 0, TEXT, 2)])
    assert isinstance(bad, ModelError)
    assert "cannot keep 1 positions of a cache of 0" in str(bad)
    assert isinstance(good, np.ndarray)
    is_top(good, target, TEXT, 20)


def test_a_failure_leaves_the_cache(target: OnnxModel, caplog: pytest.LogCaptureFixture) -> None:
    with serve(like_vllm(target)) as engine:
        model = remote(engine)
        cache = model.new_cache()
        forward(model, cache, 0, TEXT[:6], 0)
        good, engine.answer = engine.answer, lambda *_: (400, {"error": {"message": "no"}})
        # Who asks for a text learns nothing of the servers behind the edge; who runs the edge does.
        with pytest.raises(ModelError, match=FAILED):
            forward(model, cache, 2, [7], 1)
        assert "refused /v1/completions (400: no)" in caplog.text
        engine.answer = good
        is_top(forward(model, cache, 6, TEXT[6:], 1), target, TEXT, 20)


def test_sequences_are_spread_and_stay(target: OnnxModel) -> None:
    with serve(like_vllm(target)) as first, serve(like_vllm(target)) as second:
        model = remote(first, second)
        for engine in (first, second):
            engine.asked.clear()  # of what was asked at the start
        caches = [model.new_cache() for _ in range(4)]
        for i in range(3):
            for which, cache in enumerate(caches):
                forward(model, cache, i, [100 * which + i], 1)
        for engine, starts in ((first, {0, 200}), (second, {100, 300})):
            prompts = [body["prompt"][0] for path, body in engine.asked if path == "/v1/completions"]
            assert {prompt[0] for prompt in prompts} == starts


def test_an_engine_killed_in_the_middle_of_a_text(target: OnnxModel, caplog: pytest.LogCaptureFixture) -> None:
    with serve(like_vllm(target)) as first, serve(like_vllm(target)) as second:
        model = remote(first, second)
        here, there = model.new_cache(), model.new_cache()
        for cache in (here, there):
            forward(model, cache, 0, TEXT[:6], 0)
        first.stop()
        for cache in (here, there):
            is_top(forward(model, cache, 6, TEXT[6:], 3), target, TEXT, 20)
            assert cache.replica == 1  # whose prefix cache has the text now
        second.stop()
        with pytest.raises(ModelError, match=FAILED):
            forward(model, there, 12, [5], 1)
        assert re.search(rf"{second.url} cannot.*; {first.url} cannot be reached .*; start it", caplog.text)


class Tuned:
    """The target, trained a little further."""

    def __init__(self, model: OnnxModel, by: float) -> None:
        self._model, self._by = model, by
        self.new_cache = model.new_cache

    def forward(self, cache: Any, keep: int, tokens: list[int], rows: int) -> Any:
        found = self._model.forward(cache, keep, tokens, rows)
        return found + np.random.default_rng(0).normal(0, self._by, found.shape[1]).astype(np.float32)


def test_replicas_of_other_weights_under_one_name(target: OnnxModel) -> None:
    with (
        serve(like_vllm(target)) as one,
        serve(like_vllm(Tuned(target, 0.3))) as two,  # type: ignore[arg-type]
        pytest.raises(ModelError, match=rf"{two.url} serves other weights as target than the first; serve one model"),
    ):
        remote(one, two)


def test_a_replica_started_again_with_other_weights_is_left(
    target: OnnxModel, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(like_vllm(target)) as first, serve(like_vllm(target)) as second:
        both, alone = remote(first, second), remote(first)
        here, lone = both.new_cache(), alone.new_cache()
        for model, cache in ((both, here), (alone, lone)):
            is_top(forward(model, cache, 0, TEXT[:6], 2), target, TEXT[:6], 20)
        first.stop()
        with serve(like_vllm(Tuned(target, 0.3)), first.server_port):  # type: ignore[arg-type]
            is_top(forward(both, here, 6, TEXT[6:], 3), target, TEXT, 20)
            assert here.replica == 1
            with pytest.raises(ModelError, match=FAILED):
                forward(alone, lone, 6, TEXT[6:], 3)
            assert f"{first.url} serves other weights as target than when this edge was started" in caplog.text
        # The same weights again: rounding does not count.
        with serve(like_vllm(Tuned(target, 0.003)), first.server_port):  # type: ignore[arg-type]
            rows = forward(alone, lone, 6, TEXT[6:], 3)
        assert np.isfinite(rows).sum() == 3 * 20


def test_nobody_serves(target: OnnxModel) -> None:
    with serve(like_vllm(target)) as good, serve(like_vllm(target)) as down:
        down.stop()
        with pytest.raises(ModelError, match=rf"{down.url} cannot be reached .*; start vLLM there, or mend the add"):
            remote(good, down)


def test_replicas_of_two_models(target: OnnxModel) -> None:
    with (
        serve(like_vllm(target)) as one,
        serve(like_vllm(target, name="other")) as two,
        pytest.raises(ModelError, match=rf"{two.url} serves other, not target like the first; serve one model"),
    ):
        remote(one, two)


def test_more_tokens_than_the_server_returns(engine: Engine) -> None:
    with pytest.raises(ModelError, match=r"logprobs of 21, .*max allowed: 20\).*with --max-logprobs 21 or more"):
        remote(engine, top_k=21)


@pytest.mark.parametrize("top_k", [0, -1, 4097])
def test_impossible_top_k(engine: Engine, top_k: int) -> None:
    with pytest.raises(ModelError, match=rf"rows of {top_k} tokens are not to be had; give a top_k from 1 to 4096"):
        remote(engine, top_k=top_k)


def test_a_folder_without_a_config(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        remote(engine, folder=tmp_path)


def test_the_folder_of_another_model(engine: Engine, tmp_path: Path) -> None:
    config = json.loads((shipped("target") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 500}))
    with pytest.raises(ModelError, match=r"returned token \d+, outside 0 to 499.*must serve the model of this folder"):
        remote(engine, folder=tmp_path)


def test_the_weights_need_not_be_there(engine: Engine, target: OnnxModel, tmp_path: Path) -> None:
    shutil.copy(shipped("target") / "config.json", tmp_path)
    model = remote(engine, folder=tmp_path)
    is_top(forward(model, model.new_cache(), 0, TEXT, 2), target, TEXT, 20)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"<html>", r"/v1/models replied with something else \(JSON is malformed.*may not fit airdraft's"),
        ({"data": [{"name": "x"}]}, r"replied with something else \(Object missing required field `id`"),
        ({"data": []}, "serves no model; start it with one"),
    ],
)
def test_what_is_no_list_of_models(reply: Any, message: str) -> None:
    with serve(lambda *_: (200, reply)) as engine, pytest.raises(ModelError, match=message) as raised:
        remote(engine)
    assert "\n" not in str(raised.value)


def spoiled(answer: Answer, spoil: Any) -> Answer:
    """As `answer`, but with `spoil` done to each completion after the two at the start."""
    first = iter([True, True])

    def changed(path: str, body: Any) -> tuple[int, Any]:
        status, reply = answer(path, body)
        return (status, reply) if path == "/v1/models" or next(first, False) else (status, spoil(reply))

    return changed


def without(token_of: int) -> Any:
    """Leaves out one token of the row of the prompt `token_of`."""

    def spoil(reply: Any) -> Any:
        reply["choices"][token_of]["logprobs"]["top_logprobs"][0].popitem()
        return reply

    return spoil


def with_keys(change: Any) -> Any:
    """Renames the tokens of all rows."""

    def spoil(reply: Any) -> Any:
        for choice in reply["choices"]:
            logprobs = choice["logprobs"]
            logprobs["top_logprobs"] = [{change(k): v for k, v in logprobs["top_logprobs"][0].items()}]
        return reply

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda reply: b"{", "vLLM replied with something else"),
        (lambda reply: b'{"choices": "\xff"}', "vLLM replied with something else"),
        (lambda reply: {"choices": [{"index": 0, "logprobs": None}]}, "vLLM replied with something else"),
        (lambda reply: {"choices": reply["choices"][:1]}, "returned 1 rows, not 2; its version may"),
        (lambda reply: {"choices": reply["choices"][1:]}, "did not continue every prompt once"),
        (lambda reply: {"choices": reply["choices"][:1] * 2}, "did not continue every prompt once"),
        (without(1), "returned a row of 19 tokens, not 20"),
        (with_keys(lambda key: key.removeprefix("token_id:")), r"names a token '\d+', not token_id: and a number"),
        (with_keys(lambda key: "token_id:-7"), "names a token 'token_id:-7', not token_id: and a number"),
        (with_keys(lambda key: key + "000"), r"returned token \d+000, outside 0 to 4095"),
        (lambda reply: {"choices": [{"index": 0, "logprobs": {"top_logprobs": []}}]}, "scored 0 positions of a prompt"),
    ],
)
def test_malformed_replies(target: OnnxModel, spoil: Any, message: str) -> None:
    with serve(spoiled(like_vllm(target), spoil)) as engine:
        model = remote(engine)
        with pytest.raises(ModelError, match=message) as raised:
            forward(model, model.new_cache(), 0, TEXT, 2)
    assert "\n" not in str(raised.value)


def test_the_token_drawn_comes_besides(target: OnnxModel) -> None:
    def besides(reply: Any) -> Any:
        for choice in reply["choices"]:
            choice["logprobs"]["top_logprobs"][0] = {"token_id:4095": -99.0, **choice["logprobs"]["top_logprobs"][0]}
        return reply

    with serve(spoiled(like_vllm(target), besides)) as engine:
        model = remote(engine)
        is_top(forward(model, model.new_cache(), 0, TEXT, 3), target, TEXT, 20)
