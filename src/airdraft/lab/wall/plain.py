"""The hf engine beside the forward of transformers that it stands on: what our own code costs, in time of the CPU.

Both run in this process on one thread and take turns. transformers gets one batch whose texts are all of one length,
and its own cache; the engine gets texts of their own, which come and go. Rolling back is part of both.
"""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from airdraft.lab.wall.engines import HELD, THREADS, OnStep
from airdraft.models.base import Part, raised
from airdraft.models.engines.hf import HfModel, past_name
from airdraft.models.files.folder import shipped

SHAPES = ((1, 1), (1, 5), (16, 5))
"""Texts in a call, and tokens of each."""
TURNS = 11
TINY, CHAT = "target", "135 M parameters, random"
"""The shipped target, and a Llama of the size of the chat target."""
BARS = {(TINY, 16, 5): 1.6, (CHAT, 16, 5): 1.25, (CHAT, 1, 1): 1.15}
"""Most that a ratio should be, by model, texts and tokens of each."""
_CHAT_SIZED: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip


class PlainRow(msgspec.Struct, frozen=True):
    """One model and one shape of call. Times are medians, in milliseconds of the CPU."""

    model: str
    texts: int
    tokens: int
    engine_ms: float
    transformers_ms: float

    @property
    def ratio(self) -> float:
        """The engine's time by that of transformers."""
        return self.engine_ms / self.transformers_ms

    @property
    def bar(self) -> float | None:
        """What the ratio should not exceed; None: no bar is set."""
        return BARS.get((self.model, self.texts, self.tokens))


def plain(folder: Path, on_step: OnStep = lambda done, of: None) -> list[PlainRow]:
    """Rows for the shipped target, and for a Llama of random weights in the chat target's size, written to `folder`."""
    transformers, torch = import_module("transformers"), import_module("torch")
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_CHAT_SIZED))
    made.save_pretrained(folder)
    del made
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(THREADS)
        models = {TINY: shipped("target"), CHAT: folder}
        rows: list[PlainRow] = []
        for name, path in models.items():
            rows += _rows(name, path)
            on_step(len(rows), len(models) * len(SHAPES))
        return rows
    finally:
        torch.set_num_threads(before)


def _rows(name: str, folder: Path) -> list[PlainRow]:
    torch = import_module("torch")
    engine = HfModel(folder, device="cpu")
    model = import_module("transformers").AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return [_row(name, engine, model, texts, tokens) for texts, tokens in SHAPES]


def _row(name: str, engine: HfModel, model: Any, texts: int, tokens: int) -> PlainRow:
    torch, random = import_module("torch"), np.random.default_rng(0)
    caches = [engine.new_cache() for _ in range(texts)]
    past = import_module("transformers").DynamicCache()
    as_past = past_name(model)
    prompts = random.integers(engine.vocab_size, size=(texts, HELD))
    for cache, prompt in zip(caches, prompts.tolist(), strict=True):
        engine.forward(cache, 0, prompt, 0)
    taken: list[tuple[float, float]] = []
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(prompts), logits_to_keep=1, use_cache=True, **{as_past: past})
        for _ in range(TURNS):
            fed = random.integers(engine.vocab_size, size=(texts, tokens))
            began = time.thread_time()
            for found in engine.verify(
                [Part(*each, tokens) for each in zip(caches, [HELD] * texts, fed.tolist(), strict=True)]
            ):
                raised(found)
            between = time.thread_time()
            model(input_ids=torch.from_numpy(fed), use_cache=True, **{as_past: past})
            past.crop(-tokens)
            taken.append((between - began, time.thread_time() - between))
    ours, theirs = (1e3 * median(times) for times in zip(*taken, strict=True))
    return PlainRow(name, texts, tokens, ours, theirs)


def table(rows: list[PlainRow]) -> str:
    """The rows as Markdown."""
    lines = [
        f"One forward after {HELD} positions, ms of the CPU: {THREADS} thread, fp32, taking turns; medians of {TURNS}.",
        "",
        "| model | texts | tokens of each | hf engine | transformers alone | ratio | bar |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        times = f"{row.engine_ms:.1f} | {row.transformers_ms:.1f} | {row.ratio:.2f}"
        bar = f"{row.bar:g}" if row.bar else ""
        lines.append(f"| {row.model} | {row.texts} | {row.tokens} | {times} | {bar} |")
    missed = [f"{row.model}, {row.texts} × {row.tokens}" for row in rows if row.bar and row.ratio > row.bar]
    return "\n".join([*lines, "", f"Bars missed: {'; '.join(missed) or 'none'}."])
