"""`python -m bench.engine_choice [--json FILE]`: whether the hf engine says of rows what the reference says.

Rows of all shapes, made up: with few and many likely tokens, rounded to 16 bits or to halves so that scores tie, with
tokens of no chance. Every row has parameters, a seed, a position and perhaps a mask, drawn at random. PyTorch chooses
from it as it would on a GPU, on one if there is one, and `core/choosing.py` from the same row. So for tokens with
log-probabilities, and for drafts that are accepted if their probability exceeds a bar. The table goes to the terminal,
and into the marked block of docs/benchmarks.md. Exit code 1 if one answer differs.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np

from airdraft.core.choosing import choose
from airdraft.core.logprobs import UNLIKELY, logprob_of
from airdraft.core.sampling import SamplingParams, distribution, draw
from airdraft.models.base import Choice, Chosen, FloatArray, Part, TokenLogprob
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
TOKENS, LOGPROBS, DRAFTS = "a token", "a token, log-probabilities", "whether a draft is accepted"
"""What is asked."""
NEAR = 1e-12
"""One bar in eight is so near to the draft's probability, as a share of it."""


@dataclass
class Compared:
    """What came of so many rows of one vocabulary."""

    vocab_size: int
    device: str
    what: str = TOKENS
    rows: int = 0
    """Those that count: none behind a draft that is rejected."""
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


def parts(seed: int, vocab_size: int, what: str = TOKENS) -> Iterator[tuple[Part, np.ndarray]]:
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
            rows = made_rows(rng, ROWS, vocab_size)
            if what == LOGPROBS:
                asked = replace(asked, logprobs=(int(rng.choice([0, 1, 5, 20])), UNLIKELY))
            elif what == DRAFTS:
                asked = replace(asked, bars=tuple(_draft(rng, row, asked, at) for at, row in enumerate(rows)))
            yield Part(Cache(), 0, [0] * ROWS, ROWS, choice=asked), rows


def _draft(rng: np.random.Generator, row: np.ndarray, asked: Choice, at: int) -> tuple[int, float]:
    """A draft for a row [vocab], likely or not, and its bar, around its probability or anywhere."""
    probs = distribution(_allowed(row, asked, at), _params(asked))
    token = draw(probs, rng) if rng.random() < 0.8 else int(rng.integers(row.size))
    how = rng.integers(8)
    if how == 0:
        return token, float(probs[token] * (1 + NEAR * rng.standard_normal()))
    return token, float(rng.random() * (1.0 if how < 3 else 1.3 * probs[token]))


def _params(asked: Choice) -> SamplingParams:
    return SamplingParams(asked.temperature, asked.top_k, asked.top_p, asked.min_p)


def _allowed(row: np.ndarray, asked: Choice, at: int) -> np.ndarray:
    """What a mask leaves of a row [vocab], if that is anything."""
    if asked.allowed and (mask := asked.allowed[at]) is not None and np.isfinite(row[mask]).any():
        return np.where(mask, row, -np.inf)
    return row


def reference(row: np.ndarray, asked: Choice, at: int) -> int:
    """The token of a row [vocab], as the law of a text chooses it."""
    return choose(_allowed(row, asked, at), _params(asked), asked.seed, asked.positions[at])


def truth(row: np.ndarray, asked: Choice, at: int) -> int | TokenLogprob | None:
    """What is to be said of a row [vocab] if it is not given: for a draft its token, or None if it is rejected."""
    if asked.bars:
        token, bar = asked.bars[at]
        return token if bar < distribution(_allowed(row, asked, at), _params(asked))[token] else None
    token = reference(row, asked, at)
    if asked.logprobs is None:
        return token
    found = logprob_of(row, token, asked.logprobs[0], normalised=False)
    return TokenLogprob(token, found.logprob, found.top)


def kind_of(asked: Choice) -> str:
    """What its parameters cut, in words."""
    if asked.temperature == 0:
        return "greedy"
    cuts = {"top-k": 0 < asked.top_k < asked.vocab_size, "top-p": asked.top_p < 1, "min-p": asked.min_p > 0}
    return ", ".join(name for name, cut in cuts.items() if cut) or "no cut"


def compare(
    vocab_size: int, positions: int, what: str = TOKENS, on_step: Callable[[int], None] = lambda rows: None
) -> Compared:
    """Ask both of so many rows."""
    torch = import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found, source = Compared(vocab_size, device, what), parts(1, vocab_size, what)
    call = max(1, min(PARTS, (1 << 22) // (ROWS * vocab_size)))
    while found.rows < positions:
        batch = list(itertools.islice(source, call))
        scored = [torch.from_numpy(rows).to(device) for _, rows in batch]
        began_s = time.process_time()
        answers = chosen([part for part, _ in batch], scored)
        found.engine_s += time.process_time() - began_s
        for (part, rows), answer in zip(batch, answers, strict=True):
            if part.choice is not None:
                _judge(found, part.choice, rows, answer)
        on_step(found.rows)
    return found


def _judge(found: Compared, asked: Choice, rows: np.ndarray, answer: Chosen | FloatArray) -> None:
    """Compare the answers of a part with the reference's, up to a draft that is rejected."""
    for at, (row, said) in enumerate(zip(rows, answer, strict=True)):
        given = isinstance(said, np.ndarray)
        began_s = time.process_time()
        # A row that was given back may be none to choose from: of a mask, say, that leaves no token.
        expected = truth(row, asked, at) if asked.bars or not given else None
        found.reference_s += time.process_time() - began_s
        found.rows += 1
        found.kinds[kind_of(asked)] += 1
        if given:
            right = expected is None and asked.bars
            found.equal += bool(right)
            found.given_back += not right
            found.wrong += not np.array_equal(row, said)
        else:
            found.equal += said == expected
            found.wrong += said != expected
        if asked.bars and expected is None:
            return


def table(found: list[Compared]) -> str:
    """The comparison as Markdown."""
    lines = [
        f"Temperatures {_listed(TEMPERATURES)}; top-k off, 1, 5, 50, half of the vocabulary and all of it; top-p "
        f"{_listed(TOP_PS)}; min-p {_listed(MIN_PS)}; all combinations; one text in {round(1 / MASKED)} under a mask. "
        f"Of drafts one bar in 8 is within some {NEAR:g} of the draft's probability. One that is rejected has its row "
        "given, and none behind it counts. Log-probabilities are equal if all their bits are.",
        "",
        "| asked | vocabulary | device | rows | the same answer | given back, as rounding might decide "
        "| another answer | PyTorch's CPU time by the reference's |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for each in found:
        lines.append(
            f"| {each.what} | {each.vocab_size} | {each.device} | {each.rows} | {each.equal} | {each.given_back} "
            f"| {each.wrong} | {each.engine_s / each.reference_s:.1f} |"
        )
    return "\n".join(lines)


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def main() -> int:
    """Compare, print, write. Exit code 1 if the engine said anything else anywhere."""
    file = json_file("engine_choice", "Compare what the hf engine says of rows with what the reference says.")
    found = []
    for what, (vocab_size, positions) in itertools.product((TOKENS, LOGPROBS, DRAFTS), POSITIONS.items()):
        found.append(compare(vocab_size, positions, what, lambda rows, of=positions: _progress(rows, of)))  # type: ignore[misc]
    record: dict[str, Any] = {**machine(), "compared": [vars(each) for each in found]}
    publish("docs/benchmarks.md", {"engine-choice": table(found)}, record, file)
    return int(any(each.wrong for each in found))


def _progress(rows: int, of: int) -> None:
    print(f"\r{rows} of {of} rows", end="\n" if rows >= of else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
