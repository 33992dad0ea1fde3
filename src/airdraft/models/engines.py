"""Which engine runs a model: chosen by name, or by what lies in the model's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from airdraft.errors import ModelError
from airdraft.models.base import LanguageModel, TargetEngine
from airdraft.models.folder import resolve
from airdraft.models.hf import HfModel
from airdraft.models.llamacpp import LlamaCppModel
from airdraft.models.onnx import OnnxModel
from airdraft.models.remote import RemoteTarget
from airdraft.models.sglang import SglangTarget
from airdraft.models.text import Tokenizer
from airdraft.models.vllm import VllmTarget

Model = TypeVar("Model", OnnxModel, HfModel, LlamaCppModel, RemoteTarget)

HERE = ("onnx", "hf", "llamacpp")
"""Engines of this process."""
REMOTE = ("vllm", "sglang")
"""Engines that are asked over HTTP; for targets only."""

DRAFTS, TARGETS = 4, 32
"""Texts that a `llamacpp` model holds at once, on the device and at the edge; more take turns."""
TOP_K = 20
"""What vLLM returns without a further option."""


def load(name: str, *, engine: str | None = None, threads: int | None = None) -> tuple[LanguageModel, Tokenizer]:
    """The model called `name` (see `resolve`) and its tokenizer, to run here.

    engine: of `HERE`; None takes the one whose files are in the folder.
    Raises: `ModelError` if either cannot be had.
    """
    return _load(name, engine, threads, DRAFTS)


def load_target(
    name: str, *, engine: str | None = None, urls: Sequence[str] = (), top_k: int = TOP_K
) -> tuple[TargetEngine, Tokenizer]:
    """The target called `name`, to serve, and its tokenizer.

    engine: of `HERE` or `REMOTE`; None as in `load`.
    urls, top_k: of a remote engine: its replicas, and how many of the most likely tokens it is asked for.
    Raises: `ModelError` if either cannot be had.
    """
    if engine not in REMOTE:
        if urls:
            raise ModelError(f"a URL is for the engines {', '.join(REMOTE)}; name one with --engine, or leave it out")
        return _load(name, engine, None, TARGETS)
    if not urls:
        raise ModelError(f"{engine} runs elsewhere; name where it is, --url http://HOST:PORT, once for each replica")
    path = resolve(name, engine)
    remote: type[RemoteTarget] = VllmTarget if engine == "vllm" else SglangTarget
    return _matching(name, remote(path, urls, top_k=top_k, name=name), path)


def _load(
    name: str, engine: str | None, threads: int | None, sequences: int
) -> tuple[OnnxModel | HfModel | LlamaCppModel, Tokenizer]:
    if engine in REMOTE:
        raise ModelError(f"{engine} serves targets; a model here runs on {', '.join(HERE)}")
    if engine not in (None, *HERE):
        raise ModelError(f"no engine {engine!r}; choose one of {', '.join((*HERE, *REMOTE))}")
    path = resolve(name, engine)
    found = engine or _engine_of(path)
    if found == "hf":
        return _matching(name, HfModel(path, threads=threads, name=name), path)
    if found == "llamacpp":
        return _matching(name, LlamaCppModel(path, threads=threads, name=name, sequences=sequences), path)
    return _matching(name, OnnxModel(path, threads=threads, name=name), path)


def _engine_of(path: Path) -> Literal["onnx", "hf", "llamacpp"]:
    """Whose files are there."""
    if path.is_file():
        return "llamacpp"
    if _has(path, "*.onnx", "onnx/*.onnx"):
        return "onnx"
    if _has(path, "*.gguf"):
        return "llamacpp"
    if _has(path, "*.safetensors", "pytorch_model*.bin"):
        return "hf"
    raise ModelError(f"{path} holds no model; it needs a model.onnx, a .gguf file or a checkpoint in safetensors")


def _has(path: Path, *patterns: str) -> bool:
    return any(next(path.glob(pattern), None) is not None for pattern in patterns)


def _matching(name: str, model: Model, path: Path) -> tuple[Model, Tokenizer]:
    tokenizer = Tokenizer(path.parent if path.is_file() else path)
    if tokenizer.vocab_size > model.vocab_size:
        raise ModelError(
            f"the tokenizer of {name} has {tokenizer.vocab_size} tokens and the model scores {model.vocab_size}; "
            "take both from one model"
        )
    return model, tokenizer
