"""llama-server's format, spoken by a small server with the shipped target's rows; tests/engines has a real one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.base import Part
from airdraft.models.engines.llamaserver import LlamaServerTarget
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped

from .http_engine import Answer, log_softmax, serve, served

TEXT = [0, 300, 17, 2049, 900, 31]
K = 4


def like_llama_server(model: OnnxModel, *, change: Any = None) -> Answer:
    """Answers as the server in xllamacpp 2026.10 does: one prompt without a list, and the context only in /props."""

    def answer(path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, served("target")
        if path == "/props":
            return 200, {"default_generation_settings": {"n_ctx": 512}, "total_slots": 4}
        if path != "/completion":
            return 404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}
        assert body["logit_bias"] == [["a", 1e6]]  # else half a character may be drawn, and nothing told
        assert (body["n_cache_reuse"], body["n_predict"]) == (0, 1)
        results = []
        for index, prompt in enumerate(body["prompt"]):
            row = log_softmax(model.forward(model.new_cache(), 0, prompt, 1))[0]
            top = [{"id": int(i), "logprob": float(row[i])} for i in np.argsort(-row)[: body["n_probs"]]]
            result: dict[str, Any] = {"index": index}
            if body["n_probs"]:
                result["completion_probabilities"] = [{"id": 65, "logprob": -9.0, "top_logprobs": top}]
            results.append(result)
        if change and len(results) == 3:
            change(results)
        return 200, results if len(results) > 1 else results[0]

    return answer


def rows_of(target: OnnxModel, rows: int, change: Any = None) -> Any:
    with serve(like_llama_server(target, change=change)) as engine:
        model = LlamaServerTarget(shipped("target"), [engine.url], top_k=K)
        assert (model.info.max_context, model.info.top_k, model.info.vocab_size) == (511, K, 4096)
        [found] = model.verify([Part(model.new_cache(), 0, TEXT, rows)])
    return found


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows(target: OnnxModel, rows: int) -> None:
    found = rows_of(target, rows)
    own = log_softmax(target.forward(target.new_cache(), 0, TEXT, max(rows, 1)))[:rows]
    assert found.shape == own.shape
    for row, mine in zip(found, own, strict=True):
        best = np.argsort(-mine)[:K]
        assert set(np.flatnonzero(np.isfinite(row))) == set(best)
        np.testing.assert_allclose(row[best], mine[best], rtol=0, atol=1e-4)


def test_a_probability_too_small_for_fp32(target: OnnxModel) -> None:
    """It is told as the lowest number of fp32, which no arithmetic would survive."""

    def vanish(results: list[Any]) -> None:
        results[0]["completion_probabilities"][0]["top_logprobs"][-1]["logprob"] = float(np.finfo(np.float32).min)

    found = rows_of(target, 3, vanish)
    assert np.isfinite(found[-1]).sum() == K
    assert found[-1][np.isfinite(found[-1])].min() == -104


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: results.pop(), "returned 2 rows, not 3"),
        (lambda results: results[0].update(index=1), "did not continue every prompt once"),
        (lambda results: results[0].pop("completion_probabilities"), "scored 0 positions of a prompt, not one"),
        (lambda results: results[0].update(completion_probabilities=3), "replied with something else"),
        (lambda results: results[1]["completion_probabilities"][0]["top_logprobs"].pop(), "a row of 3 tokens, not 4"),
        (
            lambda results: results[1]["completion_probabilities"][0]["top_logprobs"][0].update(id=4096),
            "returned token 4096",
        ),
    ],
)
def test_malformed_replies(target: OnnxModel, change: Any, message: str) -> None:
    found = rows_of(target, 3, change)
    assert isinstance(found, ModelError)
    assert message in str(found)


def test_a_server_that_fails_to_tell_its_context(target: OnnxModel) -> None:
    """What went wrong, and what to do."""
    answer = like_llama_server(target)
    with (
        serve(lambda path, body: (500, {}) if path == "/props" else answer(path, body)) as engine,
        pytest.raises(ModelError, match=r"failed \(500: .*\); start llama-server there, or mend the address"),
    ):
        LlamaServerTarget(shipped("target"), [engine.url], top_k=K)
