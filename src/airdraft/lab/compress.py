"""The shipped draft with weights of 8 and 4 bits, beside itself in single precision: what each is worth as a draft.

Acceptance is measured as in every recording, along texts that the target writes itself; models are calibrated on other
texts of the target. The time is that of one token's forward in the onnx engine, models in turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from airdraft.compress.methods import METHODS
from airdraft.compress.rounding import WIDTHS
from airdraft.compress.whole import Recipe, Texts, compress, windows
from airdraft.core.sampling import SamplingParams
from airdraft.lab.record import prompts, record
from airdraft.models.base import LanguageModel
from airdraft.models.engines import load
from airdraft.models.folder import shipped
from airdraft.models.gguf import write_gguf
from airdraft.sim.alone import write

PARAMS = SamplingParams(temperature=0.7)
SEED, LENGTH, WINDOW = 20, 96, 96
MEASURED, CALIBRATED = 24, 48
"""Prompts whose texts acceptance is measured on, and after them those to calibrate with."""
CACHED, RUNS = 64, 100
"""Tokens before the forward that is timed, and how often each model runs it."""
WHOLE = "none"
KEPT, SIZE, TIME = 0.97, 0.35, 0.9
"""Bars of 4 bits by the best method: acceptance at least, bytes and time at most, as shares of single precision's."""


class CompressRow(msgspec.Struct, frozen=True):
    """One model."""

    model: str
    method: str
    """How weights were rounded; none: they are in single precision."""
    bits: str
    head: str
    perplexity: float
    """Of the target's texts that were held out of the calibration."""
    one_minus_tv: float
    """Share of drafts that rejection sampling accepts."""
    coupled: float
    """Share of drafts accepted under shared noise."""
    ms_per_token: float
    mb: float


def recipes() -> list[Recipe]:
    """What is made of the draft."""
    every = [Recipe(method, bits, "W8", PARAMS.temperature) for bits in WIDTHS for method in METHODS]
    return [*every, Recipe("gptq", "W4", "W4", PARAMS.temperature)]


def bench(on_row: Callable[[str], None] = lambda name: None) -> list[CompressRow]:
    """Measure the shipped draft. on_row: told what comes next."""
    target, tokenizer = load("target")
    every = prompts(MEASURED + CALIBRATED)
    written = [
        [*prompt, *write(target, prompt, PARAMS, SEED + at, LENGTH, tokenizer.vocab_size)]
        for at, prompt in enumerate(every[MEASURED:])
    ]
    texts = windows(written, WINDOW, len(written) * 2)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.gguf"
        write_gguf(shipped("draft"), whole)
        made = list(_made(whole, Path(folder), texts, on_row))
        times = _times([model for _, model, _, _ in made])
        rows = []
        for (recipe, model, perplexity, size), ms in zip(made, times, strict=True):
            on_row("acceptance")
            found = record(model, target, every[:MEASURED], PARAMS, LENGTH, SEED, tokenizer.vocab_size, "draft")
            accept = sum(sum(text.accept) for text in found.texts) / found.length
            method, bits, head = (recipe.method, recipe.bits, recipe.head) if recipe else (WHOLE, "fp32", "fp32")
            rows.append(CompressRow("draft", method, bits, head, perplexity, accept, found.acceptance, ms, size / 1e6))
    return rows


def _made(
    whole: Path, folder: Path, texts: Texts, on_row: Callable[[str], None]
) -> Iterator[tuple[Recipe | None, LanguageModel, float, int]]:
    """Each model, with its perplexity and its bytes; the whole one last, whose perplexity the others' reports tell."""
    before = 0.0
    for i, recipe in enumerate(recipes()):
        on_row(f"{recipe.method} {recipe.bits}")
        out = folder / f"{i}.gguf"
        quality = compress(whole, out, recipe, texts)
        before = quality.whole_perplexity
        yield recipe, load(str(out))[0], quality.perplexity, out.stat().st_size
    yield None, load("draft")[0], before, whole.stat().st_size


def _times(models: Sequence[LanguageModel]) -> list[float]:
    """Median milliseconds of one token's forward of each model; they take turns."""
    tokens = prompts(1)[0] * CACHED
    caches = [model.new_cache() for model in models]
    for model, cache in zip(models, caches, strict=True):
        model.forward(cache, 0, tokens[:CACHED], 1)
    taken: list[list[float]] = [[] for _ in models]
    for _ in range(RUNS):
        for model, cache, each in zip(models, caches, taken, strict=True):
            began_s = time.perf_counter()
            model.forward(cache, CACHED, tokens[CACHED : CACHED + 1], 1)
            each.append(1e3 * (time.perf_counter() - began_s))
    return [statistics.median(each) for each in taken]


def best(rows: Sequence[CompressRow], bits: str) -> CompressRow:
    """The row with so many bits, head included or not, that is accepted most."""
    return max((row for row in rows if row.bits == bits), key=lambda row: row.coupled)


def shares(rows: Sequence[CompressRow]) -> tuple[float, float, float]:
    """Acceptance, bytes and time of the best row with 4 bits, as shares of single precision's."""
    whole, small = next(row for row in rows if row.method == WHOLE), best(rows, "W4")
    return small.coupled / whole.coupled, small.mb / whole.mb, small.ms_per_token / whole.ms_per_token


def held(rows: Sequence[CompressRow]) -> bool:
    """Whether the bars are kept."""
    accepted, size, taken = shares(rows)
    return accepted >= KEPT and size <= SIZE and taken <= TIME


def table(rows: Sequence[CompressRow]) -> str:
    """The rows as Markdown."""
    lines = [
        "| weights | method | scores of tokens | perplexity | 1 - TV | coupled acceptance | ms a token | MB |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.bits} | {row.method} | {row.head} | {row.perplexity:.3f} | {row.one_minus_tv:.3f} | {row.coupled:.3f} "
        f"| {row.ms_per_token:.2f} | {row.mb:.2f} |"
        for row in rows
    ]
    accepted, size, taken = shares(rows)
    return "\n".join([
        *lines, "", f"The draft of the shipped pair, temperature {PARAMS.temperature:g}, {MEASURED} texts of the "
        f"target. The best of 4 bits is accepted {accepted:.3f} times as often as single precision, has {size:.2f} of "
        f"its bytes, and takes {taken:.2f} of its time. Bars: at least {KEPT:g}, at most {SIZE:g} and {TIME:g}: "
        f"{'kept' if held(rows) else 'MISSED'}.",
    ])  # fmt: skip
