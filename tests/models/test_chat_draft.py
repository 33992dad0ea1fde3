"""The draft of the chat pair that ships: small, known by name, and what it is made of is stored once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from airdraft.api.template import ChatTemplate
from airdraft.models.base import Part
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load, resolve
from airdraft.models.text import Tokenizer

FOLDER = shipped("chat-draft")
PROMPT = "<|im_start|>user\nName the capital of France.<|im_end|>\n<|im_start|>assistant\n"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return OnnxModel(FOLDER)


def test_it_is_small_and_known_by_name(model: OnnxModel) -> None:
    assert resolve("chat-draft") == FOLDER
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 24_000_000
    loaded, tokenizer = load("chat-draft")
    assert (loaded.name, loaded.vocab_size, tokenizer.vocab_size) == ("chat-draft", 49152, 49152)
    assert tokenizer.encode(PROMPT)[0] == 1
    assert model.info.eos_ids == (tokenizer.encode("<|im_end|>")[0],)


def test_it_writes_english(model: OnnxModel) -> None:
    tokenizer = Tokenizer(FOLDER)
    prompt, answer = tokenizer.encode(PROMPT), tokenizer.encode("The capital of France is Paris", special=False)
    rows = model.forward(model.new_cache(), 0, [*prompt, *answer[:-1]], len(answer))
    ranks = [int((row > row[token]).sum()) for row, token in zip(rows, answer, strict=True)]
    assert max(ranks) < 5, ranks  # of 49,152; another CPU rounds activations elsewhere, and no more


def test_its_chat_template() -> None:
    template = ChatTemplate.of(FOLDER)
    assert template is not None
    said = template.render([{"role": "user", "content": "Hello"}], {"add_generation_prompt": True})
    assert said.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert said.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")


def test_rolled_back_and_batched_it_says_the_same(model: OnnxModel) -> None:
    ids = Tokenizer(FOLDER).encode(PROMPT)
    cache = model.new_cache()
    whole = model.forward(cache, 0, ids, len(ids))
    again = model.forward(cache, 4, ids[4:], len(ids) - 4)
    assert np.abs(again - whole[4:]).max() < 0.05 * whole.std()
    assert model.info.max_batch > 1
    caches = [model.new_cache() for _ in range(2)]
    parts = [Part(caches[0], 0, ids, 1), Part(caches[1], 0, ids[:7], 1)]
    for row, end in zip(model.verify(parts), (len(ids), 7), strict=True):
        assert isinstance(row, np.ndarray)
        assert np.abs(row[0] - whole[end - 1]).max() < 0.05 * whole.std()


def test_head_and_lookup_share_their_bytes() -> None:
    graph = onnx.load(str(FOLDER / "model.onnx"), load_external_data=False).graph
    stored = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer if EMBEDDING in tensor.name}
    readers = {name: {node.op_type for node in graph.node if name in node.input} for name in stored if "codes" in name}
    assert len(readers) == 2
    assert all(kinds == {"Gather", "MatMulNBits"} for kinds in readers.values())
    assert sum(stored[name] for name in readers) < 0.8 * 49152 * 320


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_device_with_it_fits_into_little_memory() -> None:
    import subprocess

    words = [sys.executable, "-m", "airdraft.lab.wall.memory", "onnx", str(FOLDER)]
    source = Path(__file__).parents[2] / "src"
    grown = int(subprocess.run(words, capture_output=True, check=True, env={"PYTHONPATH": str(source)}).stdout)
    assert grown < 200_000_000
