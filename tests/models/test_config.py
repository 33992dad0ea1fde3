"""config.json and generation_config.json as published models spell them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airdraft.errors import ModelError
from airdraft.models.files.config import ModelConfig, read_config

LLAMA = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "eos_token_id": 2,
}


def read(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return read_config(folder)


def test_llama(tmp_path: Path) -> None:
    found = read(tmp_path, LLAMA)
    assert found == ModelConfig(4096, 1024, (2,), kv_heads=2, head_dim=32, layers=6)
    assert found.kv_numbers == 2 * 6 * 2 * 32


def test_a_head_dim_of_its_own(tmp_path: Path) -> None:
    assert read(tmp_path, LLAMA | {"head_dim": 128}).head_dim == 128


def test_gpt2(tmp_path: Path) -> None:
    gpt2 = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_head": 12, "eos_token_id": 50256}
    assert read(tmp_path, gpt2) == ModelConfig(50257, 1024, (50256,), kv_heads=12, head_dim=64, layers=None)


@pytest.mark.parametrize(
    ("config", "generation", "eos"),
    [
        (2, None, (2,)),
        ([2, 7], None, (2, 7)),
        (None, None, ()),
        (2, {"eos_token_id": [2, 9]}, (2, 9)),
        (2, {"eos_token_id": 0}, (0,)),
        (2, {"temperature": 0.6}, (2,)),
    ],
)
def test_end_tokens(tmp_path: Path, config: Any, generation: dict[str, Any] | None, eos: tuple[int, ...]) -> None:
    assert read(tmp_path, LLAMA | {"eos_token_id": config}, generation).eos_ids == eos


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": None}, "does not say vocab_size; add it"),
        ({"max_position_embeddings": None}, "does not say max_position_embeddings; add it"),
        ({"vocab_size": "many"}, "says vocab_size = 'many'; it must be a positive integer"),
        ({"vocab_size": True}, "says vocab_size = True"),
        ({"hidden_size": 0}, "says hidden_size = 0"),
        ({"eos_token_id": "</s>"}, "says eos_token_id = '</s>'; it must be a token id"),
        ({"eos_token_id": [2, -1]}, r"says eos_token_id = \[2, -1\]"),
    ],
)
def test_facts_that_are_missing_or_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path, LLAMA | change)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json; copy it"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", b"\xff\xfe\x00"])
def test_broken_config(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match=r"config\.json .*; fetch it again"):
        read_config(tmp_path)
