"""What `config.json` and `generation_config.json` say of a model, in the few facts airdraft needs, within bounds."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airdraft.errors import ModelError, first_line

MOST_TOKENS = 1 << 24
"""Of a vocabulary. The largest published ones have some 2^18."""
MOST_POSITIONS = (1 << 31) - 1
"""Of a text, and of any other size here."""
_MOST_ENDS = 1024
_MOST_JSON_BYTES = 256_000_000
CODED = ("awq", "gptq")
"""Codes of checkpoints that are read here."""
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


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
    layers: int | None
    """For estimates only, so that a wrong number harms nobody: the graph has the right one."""

    @property
    def kv_numbers(self) -> int:
        """Numbers in one position's keys and values; 0 where the file does not say."""
        return 2 * (self.layers or 0) * (self.kv_heads or 0) * (self.head_dim or 0)


def read_config(folder: Path) -> ModelConfig:
    """The facts of the model in `folder`. Raises `ModelError` where a file is missing, broken or silent."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json; copy it there from the original model")
    config = read_json(path)
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    # GPT-2 spells three of these its own way.
    heads = whole(config, path, "num_attention_heads", "n_head")
    width = whole(config, path, "hidden_size", "n_embd")
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    vocab_size = needed(config, path, "vocab_size", most=MOST_TOKENS)
    return ModelConfig(
        vocab_size=vocab_size,
        max_context=needed(config, path, "max_position_embeddings", "n_positions"),
        eos_ids=_eos_ids(config, path, generation, generation_path, vocab_size),
        kv_heads=whole(config, path, "num_key_value_heads") or heads,
        head_dim=whole(config, path, "head_dim") or (width // heads if width and heads else None),
        layers=layers if type(layers) is int and 0 < layers <= MOST_POSITIONS else None,
    )


def codes_of(folder: Path) -> str:
    """Which of `CODED` the config of a checkpoint says that its weights are in; empty if none. Raises: `ModelError`."""
    path = folder / "config.json"
    said = read_json(path).get("quantization_config") if path.is_file() else None
    method = said.get("quant_method") if isinstance(said, dict) else None
    return method if isinstance(method, str) and method in CODED else ""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises `ModelError` if it holds none."""
    try:
        if not path.is_file():
            raise ModelError(f"{path} is no file; fetch it again")
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ModelError(f"{path} has more than {_MOST_JSON_BYTES} bytes, which no such file has; fetch it again")
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise ModelError(f"{path} cannot be read ({first_line(problem)}); fetch it again") from problem
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; fetch it again")
    return value


def shown(value: Any) -> str:
    """A value of a file as a message shows it: short, on one line, whatever it is."""
    return _short.repr(value)


def whole(config: dict[str, Any], path: Path, *names: str, most: int = MOST_POSITIONS) -> int | None:
    """The first of `names` that is set, an integer from 1 to `most`. Raises: `ModelError` if it is something else."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if type(value) is not int or value <= 0:
            raise ModelError(f"{path} says {name} = {shown(value)}; it must be a positive integer")
        if value > most:
            raise ModelError(f"{path} says {name} = {shown(value)}; it must be at most {most}")
        return value
    return None


def needed(config: dict[str, Any], path: Path, *names: str, most: int = MOST_POSITIONS) -> int:
    """As `whole`. Raises: `ModelError` if none is set, too."""
    value = whole(config, path, *names, most=most)
    if value is None:
        raise ModelError(f"{path} does not say {names[0]}; add it")
    return value


def check_ends(where: object, ids: Sequence[Any], vocab_size: int) -> None:
    """Check tokens that end a text. Raises: `ModelError` if there are too many, or one is no token."""
    if len(ids) > _MOST_ENDS or not all(type(i) is int and i >= 0 for i in ids):
        raise ModelError(f"{where} says eos_token_id = {shown(ids)}; it must be a token id or a list of them")
    if any(i >= vocab_size for i in ids):
        raise ModelError(
            f"{where} says eos_token_id = {shown(ids)}, and the model has tokens 0 to {vocab_size - 1}; mend that"
        )


def _eos_ids(
    config: dict[str, Any], path: Path, generation: dict[str, Any], generation_path: Path, vocab_size: int
) -> tuple[int, ...]:
    """The generation config wins, as in transformers: chat models add their end-of-turn token only there."""
    where, value = generation_path, generation.get("eos_token_id")
    if value is None:
        where, value = path, config.get("eos_token_id")
    if value is None:
        return ()
    if not isinstance(value, list):
        if type(value) is not int or value < 0:
            raise ModelError(f"{where} says eos_token_id = {shown(value)}; it must be a token id or a list of them")
        value = [value]
    check_ends(where, value, vocab_size)
    return tuple(dict.fromkeys(value))
