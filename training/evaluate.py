"""What the card reports: bits per byte, acceptance along the target's own text, completions that parse, speed."""

from __future__ import annotations

import ast
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from training import data
from training.corpus import documents
from training.distill import divergences
from training.errors import UserError
from training.functions import completed, fingerprint, function_nodes, parses, prompt_of, standalone
from training.generate import END_ID, sample
from training.model import Config, Llama

PROMPTS = 100
PER_PACKAGE = 10
BODY_LINES = (3, 25)  # of the original function: what a budget of COMPLETION tokens can hold
COMPLETION = 256  # tokens a greedy completion may take to end
OWN = 128  # tokens of the target's own text along which acceptance is measured


def make_prompts(work: Path, path: Path) -> int:
    """Writes the evaluation heads: held-out functions whose bodies do not occur in the training text either."""

    known = {line.strip() for document in documents(work, "train") for line in document["text"].split("\n")}
    found = []
    for split in ("held_packages", "held_files"):
        for document in documents(work, split):
            lines = document["text"].splitlines(keepends=True)
            for node in function_nodes(ast.parse(document["text"])):
                function = standalone(node, lines)
                if function is None:
                    continue
                body = [line.strip() for line in function.text.splitlines()[function.head_lines :]]
                if not BODY_LINES[0] <= len(body) <= BODY_LINES[1]:
                    continue
                if all(line in known for line in body if len(line) > 12):
                    continue
                head = prompt_of(function)
                if len(head) <= 500 and head.isascii():
                    row = {"package": document["package"], "path": document["path"], "split": split}
                    found.append(row | {"name": function.name, "head": head})
    found.sort(key=lambda row: fingerprint(row["package"] + row["path"] + row["name"]))
    chosen: list[dict[str, str]] = []
    for row in found:
        same = [other for other in chosen if other["package"] == row["package"]]
        split_size = sum(other["split"] == row["split"] for other in chosen)
        if len(same) < PER_PACKAGE and split_size < PROMPTS // 2 and row["name"] not in {o["name"] for o in same}:
            chosen.append(row)
    path.write_text(json.dumps(chosen, indent=1) + "\n", "utf-8")
    return len(chosen)


def read_prompts(path: Path) -> list[str]:
    """The committed heads."""
    if not path.is_file():
        raise UserError(f"no evaluation heads at {path}")
    return [row["head"] for row in json.loads(path.read_text("utf-8"))]


@torch.no_grad()
def bits_per_byte(model: Llama, tok: Tokenizer, work: Path, split: str, limit: int = 120_000) -> dict[str, float]:
    """Bits per byte of UTF-8 text in fp32, each window of the model's context starting cold.

    Reads windows spread over the split up to about `limit` tokens. Bytes are counted by decoding the windows.
    """
    context, ids = model.config.context, data.tokens(work, split)
    nats, count, size = 0.0, 0, 0
    for x, y in data.windows(ids, context, max(1, limit // context)):
        nats += float(F.cross_entropy(model(x[None])[0], y, reduction="sum"))
        count += len(y)
        size += len(tok.decode(y.tolist(), skip_special_tokens=True).encode())
    return {"bits_per_byte": nats / math.log(2) / size, "nats_per_token": nats / count, "tokens": count, "bytes": size}


def _score(model: Llama, rows: list[list[int]]) -> Tensor:
    """Logits [rows, longest, vocab] of rows padded on the right (causality keeps padding out)."""
    longest = max(map(len, rows))
    block = torch.tensor([row + [END_ID] * (longest - len(row)) for row in rows])
    logits: Tensor = model(block)
    return logits


@torch.no_grad()
def acceptance(
    target: Llama, draft: Llama, prompts: list[list[int]], temperature: float, seed: int = 11
) -> dict[str, float]:
    """Mean 1 - TV over every token of the target's own text up to its END; at 0, greedy agreement."""
    produced = sample(target, prompts, OWN, torch.full((len(prompts),), temperature), seed, fast=False)
    total, count = 0.0, 0
    for prompt, text in zip(prompts, produced, strict=True):
        new = text[: text.index(END_ID) + 1] if END_ID in text else text
        row = prompt + new
        wanted, given = (_score(m, [row[:-1]])[0, len(prompt) - 1 :] for m in (target, draft))
        if temperature == 0.0:
            total += float((wanted.argmax(-1) == given.argmax(-1)).float().sum())
        else:
            total += (1.0 - float(divergences(wanted, given, temperature)[1])) * len(new)
        count += len(new)
    return {"value": total / count, "tokens": float(count), "prompts": float(len(prompts))}


@torch.no_grad()
def parse_share(model: Llama, tok: Tokenizer, heads: list[str]) -> tuple[float, list[str]]:
    """Share of greedy completions that end within the budget and are valid Python; and their texts."""
    prompts = [tok.encode(head).ids for head in heads]
    produced = sample(model, prompts, COMPLETION, torch.zeros(len(prompts)), 0, fast=False)
    good, texts = 0, []
    for head, new in zip(heads, produced, strict=True):
        ended = END_ID in new
        text = tok.decode(new[: new.index(END_ID)] if ended else new)
        function = completed(head, text, ended)
        good += parses(function, head)
        texts.append(head + text)
    return good / len(heads), texts


def milliseconds(folder: Path, config: Config, n: int, past: int = 128, runs: int = 200) -> float:
    """Median time of one onnxruntime call of n tokens after `past` tokens, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    feed: dict[str, np.ndarray] = {
        "input_ids": np.arange(1, n + 1, dtype=np.int64)[None],
        "attention_mask": np.ones((1, past + n), dtype=np.int64),
        "position_ids": np.arange(past, past + n, dtype=np.int64)[None],
    }
    cache = np.random.default_rng(0).standard_normal((1, config.heads, past, config.head_dim)).astype(np.float32)
    for i in range(config.layers):
        feed[f"past_key_values.{i}.key"] = feed[f"past_key_values.{i}.value"] = cache
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def onnx_error(folder: Path, model: Llama, ids: list[int]) -> float:
    """Largest difference of logits between model.onnx, run in two steps through its cache, and torch."""
    config, cut = model.config, len(ids) // 2
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    empty = np.zeros((1, config.heads, 0, config.head_dim), dtype=np.float32)
    cache, rows = [empty] * (2 * config.layers), []
    for start, end in ((0, cut), (cut, len(ids))):
        feed: dict[str, np.ndarray] = {
            "input_ids": np.asarray([ids[start:end]], dtype=np.int64),
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(start, end, dtype=np.int64)[None],
        }
        for i in range(config.layers):
            feed[f"past_key_values.{i}.key"], feed[f"past_key_values.{i}.value"] = cache[2 * i], cache[2 * i + 1]
        logits, *cache = session.run(None, feed)
        rows.append(logits)
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).numpy()
    return float(np.abs(np.concatenate(rows, axis=1) - wanted).max())
