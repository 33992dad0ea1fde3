"""SGLang's documented format, in exchanges written by hand: no SGLang ran. The numbers are the shipped target's."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, Part, TargetEngine
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.engines.sglang import SglangTarget
from airdraft.models.files.folder import shipped

from .http_engine import Engine, like_sglang, log_softmax, serve

RECORDED = json.loads((Path(__file__).parent / "data" / "sglang_exchanges.json").read_text("utf-8"))
TEXT = [0, 300, 17, 2049, 900, 31]
K = 4


def replay(path: str, body: Any) -> tuple[int, Any]:
    """Answers what is written there, and nothing else."""
    if path == "/v1/models":
        return 200, RECORDED["models"]
    for exchange in RECORDED["exchanges"]:
        if path == "/generate" and body == exchange["request"]:
            return 200, exchange["reply"]
    return 400, {"error": {"message": f"{path} {body} was not recorded"}}


@pytest.fixture
def engine() -> Iterator[Engine]:
    with serve(replay) as found:
        yield found


def sglang(engine: Engine) -> SglangTarget:
    return SglangTarget(shipped("target"), [engine.url], top_k=K)


def forward(model: TargetEngine, cache: Any, keep: int, tokens: list[int], rows: int) -> FloatArray:
    (found,) = model.verify([Part(cache, keep, tokens, rows)])
    if isinstance(found, Exception):
        raise found
    return found


def is_top(rows: FloatArray, model: OnnxModel, tokens: list[int]) -> None:
    own = log_softmax(model.forward(model.new_cache(), 0, tokens, len(rows)))
    for row, mine in zip(rows, own, strict=True):
        best = np.argsort(-mine)[:K]
        assert set(np.flatnonzero(np.isfinite(row))) == set(best)
        np.testing.assert_allclose(row[best], mine[best], rtol=0, atol=1e-4)


def test_facts(engine: Engine) -> None:
    model: TargetEngine = sglang(engine)
    info = model.info
    assert (info.name, info.vocab_size, info.eos_ids, info.top_k) == ("target", 4096, (0,), K)
    assert info.max_context == 1024 - 7


def test_a_text(engine: Engine, target: OnnxModel) -> None:
    model = sglang(engine)
    cache = model.new_cache()
    assert forward(model, cache, 0, TEXT[:3], 0).shape == (0, 4096)
    is_top(forward(model, cache, 3, TEXT[3:], 3), target, TEXT)
    is_top(forward(model, cache, 4, [8], 1), target, [*TEXT[:4], 8])


def test_a_tree(target: OnnxModel) -> None:
    """Each row of a tree is a prompt of its own, and what stays of the tree is text; a row that is not asked for costs
    no prompt."""
    with serve(like_sglang(target)) as engine:
        model = sglang(engine)
        assert model.info.trees
        cache = model.new_cache()
        forward(model, cache, 0, TEXT, 0)
        tree, parents = [7, 8, 9, 10], (-1, -1, 0, 1)
        (rows,) = model.verify([Part(cache, len(TEXT), tree, 3, parents)])
        assert not isinstance(rows, Exception), rows
        for row, path in zip(rows, ([8], [7, 9], [8, 10]), strict=True):
            is_top(row[None], target, [*TEXT, *path])
        assert [len(prompt) for prompt in engine.asked[-1][1]["input_ids"]] == [7, 8, 8]
        (rows,) = model.verify([Part(cache, len(TEXT), [3, 4], 2, None, (1, 3))])
        assert not isinstance(rows, Exception), rows
        is_top(rows, target, [*TEXT, 8, 10, 3, 4])
        assert engine.asked[-1][1]["input_ids"] == [*TEXT, 8, 10, 3, 4]


def spoil(change: Any) -> Any:
    """An engine whose replies with scores of more than one row are changed."""

    def answer(path: str, body: Any) -> tuple[int, Any]:
        status, reply = replay(path, body)
        if path == "/generate" and len(body["input_ids"]) == len(TEXT):
            reply = copy.deepcopy(reply)
            change(reply["meta_info"])
        return status, reply

    return answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta.pop("input_top_logprobs"), "SGLang replied with something else"),
        (lambda meta: meta["output_top_logprobs"][0].append(["x", 1, None]), "SGLang replied with something else"),
        (lambda meta: meta["input_top_logprobs"].pop(), "returned 2 rows, not 3; its version may not fit"),
        (lambda meta: meta["input_top_logprobs"].clear(), "returned 1 rows, not 3; its version may not fit"),
        (lambda meta: meta["input_top_logprobs"].pop(0), "did not score the tokens it was asked to"),
        (lambda meta: meta["output_top_logprobs"].clear(), "did not score the tokens it was asked to"),
        (lambda meta: meta["input_top_logprobs"].insert(1, None), "left a token without scores"),
        (lambda meta: meta["input_top_logprobs"][1].pop(), "returned a row of 3 tokens, not 4"),
    ],
)
def test_malformed_replies(change: Any, message: str) -> None:
    with serve(spoil(change)) as engine:
        model = sglang(engine)
        with pytest.raises(ModelError, match=message) as raised:
            forward(model, model.new_cache(), 0, TEXT, 3)
    assert "\n" not in str(raised.value)


def test_a_refusal(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    model = sglang(engine)
    with pytest.raises(ModelError, match="failed; try again later, or see the edge's log"):
        forward(model, model.new_cache(), 0, [5], 1)
    assert re.search(r"refused /generate \(400: .*was not recorded\); mend that, or its flags", caplog.text)


def test_an_engine_that_is_not_there(engine: Engine) -> None:
    engine.stop()
    with pytest.raises(
        ModelError, match=rf"{engine.url} cannot be reached .*; start SGLang there, or mend the address"
    ):
        sglang(engine)
