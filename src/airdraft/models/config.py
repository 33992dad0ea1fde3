"""What `config.json` and `generation_config.json` say of a model, in the few facts airdraft needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airdraft.errors import ModelError


@dataclass(frozen=True)
class ModelConfig:
    """The facts of a model that its graph alone does not tell."""

    vocab_size: int
    max_context: int
    """Most positions a sequence may hold."""
    eos_ids: tuple[int, ...]
    kv_heads: int | None
    """Key-value heads per layer; None where the file does not say (the graph then must)."""
    head_dim: int | None


def read_config(folder: Path) -> ModelConfig:
    """The facts of the model in `folder`. Raises `ModelError` where a file is missing, broken or silent."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json; copy it from the model the graph was exported from")
    config = read_json(path)
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    # GPT-2 spells three of these its own way.
    heads = _whole(config, path, "num_attention_heads", "n_head")
    width = _whole(config, path, "hidden_size", "n_embd")
    return ModelConfig(
        vocab_size=_needed(config, path, "vocab_size"),
        max_context=_needed(config, path, "max_position_embeddings", "n_positions"),
        eos_ids=_eos_ids(config, path, generation, generation_path),
        kv_heads=_whole(config, path, "num_key_value_heads") or heads,
        head_dim=_whole(config, path, "head_dim") or (width // heads if width and heads else None),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises `ModelError` if it holds none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(f"{path} cannot be read ({problem}); fetch it again") from problem
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; fetch it again")
    return value


def _whole(config: dict[str, Any], path: Path, *names: str) -> int | None:
    """The first of `names` that is set, a positive integer."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if type(value) is not int or value <= 0:
            raise ModelError(f"{path} says {name} = {value!r}; it must be a positive integer")
        return value
    return None


def _needed(config: dict[str, Any], path: Path, *names: str) -> int:
    value = _whole(config, path, *names)
    if value is None:
        raise ModelError(f"{path} does not say {names[0]}; add it")
    return value


def _eos_ids(config: dict[str, Any], path: Path, generation: dict[str, Any], generation_path: Path) -> tuple[int, ...]:
    """The generation config wins, as in transformers: chat models add their end-of-turn token only there."""
    where, value = generation_path, generation.get("eos_token_id")
    if value is None:
        where, value = path, config.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(i) is int and i >= 0 for i in ids):
        raise ModelError(f"{where} says eos_token_id = {value!r}; it must be a token id or a list of them")
    return tuple(ids)
