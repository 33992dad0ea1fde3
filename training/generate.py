"""Batched sampling from a model, and the text the target writes itself, which the draft must learn to foresee."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training import runtime, tokenizer
from training.corpus import documents
from training.errors import UserError
from training.functions import lift
from training.model import Cache, Llama

END_ID = 0


@torch.no_grad()
def sample(
    model: Llama, prompts: list[list[int]], count: int, temperature: Tensor, seed: int, fast: bool = True
) -> list[list[int]]:
    """Continues each prompt by exactly `count` ids, past END too (what follows is a new document).

    temperature [rows]; 0 is greedy. `fast` computes in bf16: right for training text, not for measuring.
    """
    device = next(model.parameters()).device
    rows, longest = len(prompts), max(map(len, prompts))
    block = torch.full((rows, longest), END_ID)
    mask = torch.zeros((rows, longest + count), dtype=torch.long)
    for row, prompt in enumerate(prompts):  # padding on the left, so that every row ends at the same column
        block[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    block, mask, temperature = block.to(device), mask.to(device), temperature.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    generator = torch.Generator(device=device).manual_seed(seed)
    with torch.autocast(device.type, torch.bfloat16, enabled=fast):
        like = torch.zeros((), dtype=torch.bfloat16 if fast else torch.float32, device=device)
        cache = Cache(model.config, rows, longest + count, like)
        out = []
        logits = model.step(block, positions[:, :longest], mask[:, :longest], cache, last_only=True)[:, -1]
        for index in range(count):
            token = choose(logits.float(), temperature, generator)
            out.append(token)
            if index + 1 < count:
                at = longest + index
                logits = model.step(token[:, None], positions[:, at : at + 1], mask[:, : at + 1], cache)[:, -1]
    produced: list[list[int]] = torch.stack(out, dim=1).cpu().tolist()
    return produced


def choose(logits: Tensor, temperature: Tensor, generator: torch.Generator) -> Tensor:
    """One id per row of logits [rows, vocab]: the largest where temperature is 0, else a sample (Gumbel trick)."""
    noise = torch.rand(logits.shape, generator=generator, device=logits.device).clamp_min_(1e-20)
    gumbel = -torch.log(-torch.log(noise))
    return (logits + gumbel * temperature[:, None]).argmax(dim=-1)


def heads(work: Path, tok: Tokenizer, longest: int, seed: int) -> list[list[int]]:
    """Ids of function heads of the training split (END first, as at inference), shuffled."""
    texts = []
    for document in documents(work, "train"):
        if document["kind"] == "function":
            function = lift(document["text"])
            if function is not None:
                texts.append(function.head)
    random.Random(seed).shuffle(texts)
    return [encoding.ids for encoding in tok.encode_batch(texts) if len(encoding.ids) <= longest]


def own_text(
    model: Llama, work: Path, minutes: float, rows: int = 192, length: int = 256, seed: int = 3
) -> dict[str, float]:
    """Writes `work/tokens/own.bin`: rows of prompt + sampled text, `length` ids each, for `minutes`.

    Half of the rows start from a function head, half from a random place in a file, where most of a real
    completion happens; temperatures are spread over [0.6, 1].
    """
    tok = tokenizer.load(work)
    rng = np.random.default_rng(seed)
    pool = heads(work, tok, length // 3, seed)
    ids = np.memmap(work / "tokens" / "train.bin", dtype=np.uint16, mode="r")
    clock = runtime.Clock(minutes)
    path, batches, written = work / "tokens" / "own.bin", 0, 0
    with path.open("wb") as out:
        while clock.done < 1.0:
            prompts = [pool[(batches * rows + i) % len(pool)] for i in range(rows // 2)]
            for start in rng.integers(0, len(ids) - length, rows - len(prompts)):
                size = int(rng.integers(length // 8, length // 3))
                prompts.append([END_ID, *(int(i) for i in ids[start : start + size] if i != END_ID)])
            longest = max(map(len, prompts))
            temperature = torch.from_numpy(rng.uniform(0.6, 1.0, rows).astype(np.float32))
            produced = sample(model, prompts, length - longest // 2, temperature, seed=seed + batches)
            for prompt, new in zip(prompts, produced, strict=True):
                out.write(np.asarray((prompt + new)[:length], dtype=np.uint16).tobytes())
            out.flush()
            batches += 1
            written = out.tell() // 2
            print(f"own text: {written} tokens after {clock.spent:.0f} s", flush=True)
    return {"tokens": float(written), "seconds": clock.spent}


def answers(
    model: Llama, prompts: list[list[int]], work: Path, minutes: float, rows: int, length: int, seed: int = 3
) -> dict[str, float]:
    """Writes `work/tokens/own.bin` for `minutes`: prompts and what the model writes after them, to its end of text.

    A text has at most `length` ids; temperatures are spread over [0.4, 1].
    """
    rng = np.random.default_rng(seed)
    clock, batches, written = runtime.Clock(minutes), 0, 0
    path = work / "tokens" / "own.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        while clock.done < 1.0:
            some = [prompts[(batches * rows + i) % len(prompts)] for i in range(rows)]
            room = length - max(map(len, some))
            if room < 1:
                raise UserError(f"a prompt of {length - room} tokens leaves no room in {length}; raise --context")
            temperature = torch.from_numpy(rng.uniform(0.4, 1.0, rows).astype(np.float32))
            fast = model.lm_head.weight.is_cuda  # many a CPU has no bf16
            produced = sample(model, some, room, temperature, seed=seed + batches, fast=fast)
            for prompt, new in zip(some, produced, strict=True):
                out.write(np.asarray(prompt + until(new, model.config.eos), dtype=np.uint16).tobytes())
            out.flush()
            batches += 1
            written = out.tell() // 2
            print(f"own text: {written} tokens after {clock.spent:.0f} s", flush=True)
    return {"tokens": float(written), "seconds": clock.spent}


def until(ids: list[int], end: int) -> list[int]:
    """The ids up to the first `end`, which stays."""
    return ids[: ids.index(end) + 1] if end in ids else ids
