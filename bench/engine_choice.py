"""`python -m bench.engine_choice [--json FILE]`: whether the hf engine chooses what the reference chooses.

Rows of all shapes, made up: with few and many likely tokens, rounded to 16 bits or to halves so that scores tie, with
tokens of no chance. Every row has parameters, a seed, a position and perhaps a mask, drawn at random. PyTorch chooses
from it as it would on a GPU, on one if there is one, and `core/choosing.py` from the same row. The table goes to the
terminal, and into the marked block of docs/benchmarks.md. Exit code 1 if one token differs.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from airdraft.core.choosing import choose
from airdraft.core.sampling import SamplingParams
from airdraft.models.base import Choice, Part
from airdraft.models.engines.hf_choice import chosen
from bench.choose import Cache
from bench.pages import json_file, machine, publish

TEMPERATURES, TOP_PS, MIN_PS = (0.0, 0.3, 0.7, 1.0, 2.0), (1.0, 0.95, 0.5, 0.05), (0.0, 0.02, 0.3)
POSITIONS = {512: 100_000, 151936: 5_000}
"""By the number of tokens in the vocabulary."""
ROWS, PARTS = 5, 40
"""Rows of a part, and parts of a call."""
MASKED = 0.2
"""Share of the parts under a grammar."""


@dataclass
class Compared:
    """What came of so many rows of one vocabulary."""

    vocab_size: int
    device: str
    rows: int = 0
    equal: int = 0
    given_back: int = 0
    """Rows in which rounding might decide, so that they were given instead of a token."""
    wrong: int = 0
    engine_s: float = 0.0
    reference_s: float = 0.0
    """Seconds of this process's CPU that both took."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Rows by what their parameters cut."""


def top_ks(vocab_size: int) -> tuple[int, ...]:
    """Numbers of tokens that top-k keeps; 0: all."""
    return (0, 0, 1, 5, 50, vocab_size // 2, vocab_size)


def made_rows(rng: np.random.Generator, count: int, vocab_size: int) -> np.ndarray:
    """Rows of one shape drawn at random. float32 [count, vocab]."""
    rows: np.ndarray = (float(rng.choice([0.5, 2.9, 8.0, 30.0])) * rng.standard_normal((count, vocab_size))).astype(
        np.float32
    )
    how = rng.integers(5)
    if how == 1:  # as of bfloat16
        return (rows.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    if how == 2:
        return np.asarray(np.round(2 * rows) / 2)
    if how == 3:  # as of an engine that knows its most likely tokens only
        rows[rows < np.partition(rows, -20, axis=1)[:, -20:-19]] = -np.inf
    return rows


def parts(seed: int, vocab_size: int) -> Iterator[tuple[Part, np.ndarray]]:
    """Parts without end, each with its rows; of the parameters every combination comes in turn."""
    rng = np.random.default_rng(seed)
    every = list(itertools.product(TEMPERATURES, top_ks(vocab_size), TOP_PS, MIN_PS))
    while True:
        for at in rng.permutation(len(every)):
            position, masks = int(rng.integers(1 << 20)), tuple[np.ndarray, ...]()
            if rng.random() < MASKED:
                masks = tuple(rng.random((ROWS, vocab_size)) < rng.choice([0.02, 0.5, 0.99]))
            temperature, top_k, top_p, min_p = every[at]
            seed, places = int(rng.integers(1 << 63)) * 2 + 1, tuple(range(position, position + ROWS))
            asked = Choice(temperature, top_k, top_p, min_p, seed, vocab_size, places, masks)
            yield Part(Cache(), 0, [0] * ROWS, ROWS, choice=asked), made_rows(rng, ROWS, vocab_size)


def reference(row: np.ndarray, asked: Choice, at: int) -> int:
    """The token of a row [vocab], as the law of a text chooses it."""
    if asked.allowed and (mask := asked.allowed[at]) is not None and mask.any():
        row = np.where(mask, row, -np.inf)
    params = SamplingParams(asked.temperature, asked.top_k, asked.top_p, asked.min_p)
    return choose(row, params, asked.seed, asked.positions[at])


def kind_of(asked: Choice) -> str:
    """What its parameters cut, in words."""
    if asked.temperature == 0:
        return "greedy"
    cuts = {"top-k": 0 < asked.top_k < asked.vocab_size, "top-p": asked.top_p < 1, "min-p": asked.min_p > 0}
    return ", ".join(name for name, cut in cuts.items() if cut) or "no cut"


def compare(vocab_size: int, positions: int, on_step: Callable[[int], None] = lambda rows: None) -> Compared:
    """Choose from so many rows in both ways."""
    torch = import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found, source = Compared(vocab_size, device), parts(1, vocab_size)
    call = max(1, min(PARTS, (1 << 22) // (ROWS * vocab_size)))
    while found.rows < positions:
        batch = list(itertools.islice(source, call))
        scored = [torch.from_numpy(rows).to(device) for _, rows in batch]
        began_s = time.process_time()
        answers = chosen([part for part, _ in batch], scored)
        found.engine_s += time.process_time() - began_s
        for (part, rows), answer in zip(batch, answers, strict=True):
            if (asked := part.choice) is None:
                continue
            began_s = time.process_time()
            # A row that was given back may be none to choose from: of a mask, say, that leaves no token.
            truth = [
                reference(row, asked, at) if isinstance(token, int) else None
                for at, (row, token) in enumerate(zip(rows, answer, strict=True))
            ]
            found.reference_s += time.process_time() - began_s
            for expected, token in zip(truth, answer, strict=True):
                found.rows += 1
                found.kinds[kind_of(asked)] += 1
                if not isinstance(token, int):
                    found.given_back += 1
                elif token == expected:
                    found.equal += 1
                else:
                    found.wrong += 1
        on_step(found.rows)
    return found


def table(found: list[Compared]) -> str:
    """The comparison as Markdown."""
    lines = [
        f"Temperatures {_listed(TEMPERATURES)}; top-k off, 1, 5, 50, half of the vocabulary and all of it; top-p "
        f"{_listed(TOP_PS)}; min-p {_listed(MIN_PS)}; all combinations; one text in {round(1 / MASKED)} under a mask.",
        "",
        "| vocabulary | device | rows | the same token | given back, as rounding might decide | another token "
        "| PyTorch's CPU time by the reference's |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for each in found:
        lines.append(
            f"| {each.vocab_size} | {each.device} | {each.rows} | {each.equal} | {each.given_back} | {each.wrong} "
            f"| {each.engine_s / each.reference_s:.1f} |"
        )
    return "\n".join(lines)


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def main() -> int:
    """Compare, print, write. Exit code 1 if the engine chose another token anywhere."""
    file = json_file("engine_choice", "Compare the tokens that the hf engine chooses with the reference's.")
    found = []
    for vocab_size, positions in POSITIONS.items():
        found.append(compare(vocab_size, positions, lambda rows, of=positions: _progress(rows, of)))  # type: ignore[misc]
    record: dict[str, Any] = {**machine(), "compared": [vars(each) for each in found]}
    publish("docs/benchmarks.md", {"engine-choice": table(found)}, record, file)
    return int(any(each.wrong for each in found))


def _progress(rows: int, of: int) -> None:
    print(f"\r{rows} of {of} rows", end="\n" if rows >= of else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
