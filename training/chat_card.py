"""Measures the chat draft along its target's own text, and writes its card."""

from __future__ import annotations

import datetime
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from airdraft.core.noise import gumbel
from airdraft.models.engines.onnx import OnnxModel
from training import chat_prompts
from training.card import hardware
from training.card_text import table
from training.errors import UserError
from training.export_blocks import weights_of
from training.generate import sample, until
from training.model import Llama, describe, fill

Rows = Callable[[list[int]], NDArray[np.float32]]
"""The logits [n, vocab] of a model after each of n ids."""
TEMPERATURES = (0.7, 1.0)
LENGTH = 160
"""Tokens of a measured text, prompt left out."""
_PAST, _RUNS = 200, 300


def encoded(folder: Path, texts: Iterable[str]) -> list[list[int]]:
    """Ids of texts, by the tokenizer that lies with the draft."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: export a draft that has a tokenizer first")
    found = Tokenizer.from_file(str(path)).encode_batch(list(texts), add_special_tokens=False)
    return [each.ids for each in found]


def of_torch(model: Llama) -> Rows:
    """The rows of a model in torch."""

    def rows(ids: list[int]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = model(torch.tensor([ids]))[0].numpy()
        return found

    return rows


def of_onnx(model: OnnxModel) -> Rows:
    """The rows of a model that runs as users run it."""
    return lambda ids: np.asarray(model.forward(model.new_cache(), 0, ids, len(ids)), np.float32)


def acceptance(
    target: Llama, drafts: dict[str, Rows], prompts: list[list[int]], temperature: float, seed: int = 11
) -> dict[str, Any]:
    """Of each draft, along what the target writes at a temperature, to its end of text or for `LENGTH` tokens.

    coupled: the share of tokens that both choose with the same noise. overlap: mean 1 - TV. greedy: same first choice.
    """
    texts = sample(target, prompts, LENGTH, torch.full((len(prompts),), temperature), seed, fast=False)
    wanted = of_torch(target)
    sums = {name: np.zeros(3) for name in drafts}
    count = 0
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        own = until(text, target.config.eos)
        fed, first = (prompt + own)[:-1], len(prompt) - 1
        rows = {name: draft(fed)[first:] for name, draft in drafts.items()}
        for at, row in enumerate(wanted(fed)[first:]):
            noise = gumbel(seed + number, len(prompt) + at, len(row))
            likely, greedy, chosen = choices(row, temperature, noise)
            for name in drafts:
                given = choices(rows[name][at], temperature, noise)
                sums[name] += [given[2] == chosen, np.minimum(likely, given[0]).sum(), given[1] == greedy]
        count += len(own)
    names = ("coupled", "overlap", "greedy")
    found = {name: dict(zip(names, (sums[name] / count).tolist(), strict=True)) for name in drafts}
    return {"tokens": count, "texts": len(prompts), **found}


def choices(row: NDArray[np.float32], temperature: float, noise: NDArray[np.float64]) -> tuple[Any, int, int]:
    """The distribution of a row of logits, its largest, and what it chooses with the noise."""
    scaled = (row - row.max()).astype(np.float64) / temperature
    weights = np.exp(scaled)
    return weights / weights.sum(), int(row.argmax()), int((scaled + noise).argmax())


def milliseconds(model: OnnxModel) -> dict[str, float]:
    """Of one token on one thread, after 200 positions: the median, and the least, which other programs disturb less."""
    cache = model.new_cache()
    model.forward(cache, 0, range(3, 3 + _PAST), 1)
    times = []
    for i in range(_RUNS):
        start = time.perf_counter()
        model.forward(cache, _PAST, [i + 3], 1)
        times.append(1e3 * (time.perf_counter() - start))
    return {"median": statistics.median(times), "least": min(times)}


def write(out: Path, source: Path, target: Llama, texts: int) -> dict[str, Any]:
    """Measures the draft in `out`, and the trained one it was made of, and writes card.json and README.md."""
    config, weights = weights_of(source)
    trained = fill(Llama(config), {name: torch.from_numpy(weight) for name, weight in weights.items()})
    model = OnnxModel(out, threads=1)
    drafts = {"trained": of_torch(trained), "shipped": of_onnx(model)}
    prompts = encoded(out, itertools.islice(chat_prompts.prompts(7, held=True), texts))
    card: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware(),
        "shape": describe(config),
        "bytes": sum(
            path.stat().st_size for path in out.iterdir() if path.suffix not in (".md",) and path.name != "card.json"
        ),
        "milliseconds": milliseconds(model),
        "acceptance": {f"{each:g}": acceptance(target, drafts, prompts, each) for each in TEMPERATURES},
    }
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    (out / "README.md").write_text(markdown(card), "utf-8")
    return card


def markdown(card: dict[str, Any]) -> str:
    """README.md of the draft."""
    rows = []
    for temperature, found in card["acceptance"].items():
        for name in ("trained", "shipped"):
            figures = [f"{found[name][each]:.3f}" for each in ("coupled", "overlap", "greedy")]
            rows.append([temperature, name, *figures, f"{found['tokens']:,}"])
    figures = table(["temperature", "weights", "coupled", "1 − TV", "same first choice", "tokens"], rows)
    shape, took, texts = card["shape"], card["milliseconds"], card["acceptance"]["0.7"]["texts"]
    return f"""---
license: apache-2.0
language: [en]
pipeline_tag: text-generation
tags: [speculative-decoding, llama, onnx]
---

# chat-draft

A draft for SmolLM2-135M-Instruct, whose vocabulary and chat template it shares: a Llama of
{shape["parameters"] / 1e6:.1f} M parameters ({shape["layers"]} layers, width {shape["width"]}, feed-forward
{shape["ffn"]}, tied head), distilled from text that the target wrote itself after made-up questions, tasks and
openings; no other text was used. airdraft knows the two by name, `chat-draft` and `chat-target`. `model.onnx` runs in
ONNX Runtime: 8-bit matrices, and an embedding whose last columns have 4 bits. The folder takes
{card["bytes"] / 1e6:.1f} MB.

`python -m training.chat export card` wrote it on {card["date"]}; `card.json` has the figures in full.

## Acceptance

Along the target's own text at each temperature, {texts} texts about what the draft never saw. "coupled" is the share
of tokens that both choose with the same noise; "trained" is the draft before it was rounded.

{figures}

## Speed

{took["median"]:.1f} ms a token in the median, {took["least"]:.1f} ms at least: one thread of {card["hardware"]["cpu"]},
after {_PAST} positions.

## Training

The weights were trained in 6 minutes on one H100 with an earlier form of the recipe in `training/chat.py`, which had
kernels of its own: the same target, lists and losses, 36 million tokens of text, and some further kinds of prompts.
"""
