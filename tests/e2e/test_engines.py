"""`airdraft edge` in front of a real vLLM, and a GGUF draft: the commands as a user runs them, real processes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from airdraft.core.sampling import SamplingParams
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load
from airdraft.sim import alone

from ..models.vllm_server import relayed
from .processes import airdraft, announced, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = 'def parse(text):\n    """Parse a line."""\n'


@contextlib.contextmanager
def edge_before(engine: str) -> Iterator[str]:
    folder = str(shipped("target"))
    words = ("edge", "--target", folder, "--engine", "vllm", "--url", engine, "--port", "0", "--json")
    with started(*words) as process:
        yield announced(process)["url"]


@pytest.fixture(scope="module")
def edge(vllm_url: str) -> Iterator[str]:
    with edge_before(vllm_url) as url:
        yield url


def written(edge: str, *options: str) -> list[int]:
    code, out, errors = airdraft("run", PROMPT, "--edge", edge, "--json", "--max-tokens", "40", *options)
    assert (code, errors) == (0, "")
    return list(json.loads(out)["ids"])


def truth(params: SamplingParams, seed: int) -> list[int]:
    """What the onnx engine writes alone."""
    target, tokenizer = load("target")
    return list(alone.write(target, tokenizer.encode(PROMPT), params, seed, 40, vocab_size=tokenizer.vocab_size))


def test_a_greedy_text_is_vllms_own_and_the_onnx_engines(vllm_url: str, edge: str) -> None:
    ids = written(edge, "--temperature", "0")
    assert ids == truth(SamplingParams(0.0), 0)
    prompt = load("target")[1].encode(PROMPT)
    body = {"model": "target", "prompt": prompt, "max_tokens": 40, "temperature": 0, "return_token_ids": True}
    reply = urllib3.request("POST", f"{vllm_url}/v1/completions", json=body).json()
    own = reply["choices"][0]["token_ids"]
    assert own == ids[: len(own)]
    assert len(own) >= len(ids) - 1  # vLLM may leave out the token that ends the text


@pytest.mark.parametrize("scheme", ["auto", "coupled", "server"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_sampled_text_is_the_onnx_engines_with_the_same_seed(edge: str, scheme: str, seed: int) -> None:
    options = ("--temperature", "0.7", "--top-k", "20", "--seed", str(seed), "--scheme", scheme)
    assert written(edge, *options) == truth(SamplingParams(0.7, top_k=20), seed)


def test_what_cannot_be_exact_is_refused_in_one_line(edge: str) -> None:
    code, _, errors = airdraft("run", PROMPT, "--edge", edge, "--scheme", "dense")
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "gives only its 20 most likely tokens" in errors
    assert "give top-k 1 to 20, or temperature 0" in errors


def test_an_engine_that_dies_ends_its_texts_in_one_line_and_the_edge_lives(vllm_url: str) -> None:
    with relayed(vllm_url) as engine, edge_before(engine.url) as edge:
        engine.kill()
        for _ in range(2):  # it lives
            code, _, errors = airdraft("run", PROMPT, "--edge", edge, "--temperature", "0")
            assert (code, len(errors.splitlines())) == (2, 1)
            assert "failed; try again later, or see the edge's log" in errors
            assert engine.url not in errors  # where the edge has its engine from is no business of a device's


def test_a_gguf_draft_writes_the_targets_text(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    code, out, errors = airdraft("gguf", "draft", str(tmp_path / "draft.gguf"), "--type", "q8_0")
    assert (code, errors) == (0, "")
    options = ("--draft", str(tmp_path), "--json", "--max-tokens", "40", "--temperature", "0", "--scheme", "coupled")
    code, out, errors = airdraft("run", PROMPT, *options)
    assert code == 0, errors  # llama-cpp-python leaves /dev/null open, and here warnings are shown
    record = json.loads(out)
    assert record["ids"] == truth(SamplingParams(0.0), 0)
    assert record["accepted"] > 0
