"""The shipped draft in few bits, beside itself in single precision: what each is worth as a draft.

Acceptance is measured as in every recording, along texts that the target writes itself; models are calibrated on other
texts of the target. The time is that of one token's forward in the onnx engine, models in turns. Small models have no
channels of large activations, so the same draft is measured with some planted: its norms' weights of some channels are
raised and the matrices' columns lowered by as much, which changes no row.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np

from airdraft.compress.fold import Matrix, Scaled, fold
from airdraft.compress.integers import NORMS, Way
from airdraft.compress.layers import MATRICES, layers, tensor
from airdraft.compress.methods import METHODS
from airdraft.compress.rounding import WIDTHS
from airdraft.compress.whole import F32, Recipe, Texts, compress, plain_bytes, windows
from airdraft.compress.write import GgufCopy
from airdraft.core.sampling import SamplingParams
from airdraft.lab.record import prompts, record
from airdraft.models.base import LanguageModel
from airdraft.models.files.folder import shipped
from airdraft.models.gguf import write_gguf
from airdraft.models.imports.decoder import decoder_of
from airdraft.models.imports.read import GgufFile
from airdraft.models.registry import load
from airdraft.sim.alone import write

PARAMS = SamplingParams(temperature=0.7)
SEED, LENGTH, WINDOW = 20, 96, 96
MEASURED, CALIBRATED = 24, 48
"""Prompts whose texts acceptance is measured on, and after them those to calibrate with."""
CACHED, RUNS = 64, 100
"""Tokens before the forward that is timed, and how often each model runs it."""
WHOLE = "none"
PLAIN, PLANTED = "draft", "draft with outliers"
OUTLIERS, RAISED = 8, 40.0
"""Channels of every norm that are raised, and by how much."""
KEPT, SIZE, TIME = 0.97, 0.35, 0.9
"""Bars of 4 bits by the best method: acceptance at least, bytes and time at most, as shares of single precision's."""


class CompressRow(msgspec.Struct, frozen=True):
    """One model."""

    model: str
    method: str
    """How codes were chosen; none: it is in single precision."""
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


def recipes() -> list[tuple[str, Recipe]]:
    """What is made of the draft as it is, and of that with outliers."""
    plain = [Recipe(method, bits) for bits in WIDTHS for method in METHODS]
    plain += [Recipe("gptq", "W4", "W4"), *(Recipe(way, "W8A8") for way in get_args(Way))]
    planted = [Recipe(way, "W8A8") for way in get_args(Way)]
    both = [Recipe(way, bits) for bits in ("W6A6", "W4A4") for way in ("tensor", "outliertune", "mergequant")]
    return [*((PLAIN, each) for each in [*plain, *both]), *((PLANTED, each) for each in [*planted, *both])]


def bench(on_row: Callable[[str], None] = lambda name: None) -> list[CompressRow]:
    """Measure the shipped draft. on_row: told what comes next."""
    target, tokenizer = load("target")
    every = prompts(MEASURED + CALIBRATED)
    on_row("texts to calibrate with")
    written = [
        [*prompt, *write(target, prompt, PARAMS, SEED + at, LENGTH, tokenizer.vocab_size)]
        for at, prompt in enumerate(every[MEASURED:])
    ]
    texts = windows(written, WINDOW, len(written) * 2)
    with tempfile.TemporaryDirectory() as folder:
        made = list(_made(Path(folder), texts, on_row))
        loaded = [load(place)[0] for _, _, place, _, _ in made]
        rows = []
        for (model, recipe, _, perplexity, size), small, ms in zip(made, loaded, _times(loaded), strict=True):
            method, bits, head = (recipe.method, recipe.bits, recipe.head) if recipe else (WHOLE, "fp32", "fp32")
            on_row(f"acceptance of {model}, {method} {bits}")
            found = record(small, target, every[:MEASURED], PARAMS, LENGTH, SEED, tokenizer.vocab_size, model)
            accept = sum(sum(text.accept) for text in found.texts) / found.length
            rows.append(CompressRow(model, method, bits, head, perplexity, accept, found.acceptance, ms, size / 1e6))
    return rows


def _made(
    folder: Path, texts: Texts, on_row: Callable[[str], None]
) -> Iterator[tuple[str, Recipe | None, str, float, int]]:
    """Each model: what it was made of, where it lies, its perplexity, its bytes. The whole one comes last."""
    plain, planted = folder / "plain.gguf", folder / "planted.gguf"
    write_gguf(shipped("draft"), plain)
    plant(plain, planted)
    before = 0.0
    for i, (model, recipe) in enumerate(recipes()):
        on_row(f"{model}, {recipe.method} {recipe.bits}")
        out = folder / (f"{i}" if recipe.of_integers else f"{i}.gguf")
        quality = compress(plain if model == PLAIN else planted, out, recipe, texts)
        before = quality.whole_perplexity
        files = out.glob("model.*") if recipe.of_integers else [out]
        yield model, recipe, str(out), quality.perplexity, sum(file.stat().st_size for file in files)
    yield PLAIN, None, "draft", before, plain.stat().st_size


def plant(source: Path, out: Path) -> None:
    """Write a model that computes the same and has `OUTLIERS` channels of large activations behind every norm."""
    file = GgufFile(source)
    decoder = decoder_of(file)
    scale = np.ones(decoder.width, np.float32)
    scale[np.random.default_rng(0).choice(decoder.width, OUTLIERS, replace=False)] = 1 / RAISED
    with GgufCopy(file, dict.fromkeys(file.tensors, F32), out, F32) as copy:
        for i, layer in enumerate(layers(file, decoder.layers)):
            for norm in NORMS:
                names = MATRICES[norm]
                made = fold(Scaled(layer[f"{norm}.weight"]), [Matrix(layer[f"{name}.weight"]) for name in names], scale)
                layer[f"{norm}.weight"] = made.before.weight
                layer |= {f"{name}.weight": each.weight for name, each in zip(names, made.matrices, strict=True)}
            for name, found in layer.items():
                copy.add(f"blk.{i}.{name}", plain_bytes(found))
        for name in file.tensors:
            if not name.startswith("blk."):
                copy.add(name, plain_bytes(tensor(file, name)))


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
    """The plain draft's row with so many bits in its layers that is accepted most."""
    return max((row for row in rows if row.bits == bits and row.model == PLAIN), key=lambda row: row.coupled)


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
        "| model | bits | method | scores of tokens | perplexity | 1 - TV | coupled acceptance | ms a token | MB |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.model} | {row.bits} | {row.method} | {row.head} | {row.perplexity:.3f} | {row.one_minus_tv:.3f} "
        f"| {row.coupled:.3f} | {row.ms_per_token:.2f} | {row.mb:.2f} |"
        for row in rows
    ]
    accepted, size, taken = shares(rows)
    return "\n".join([
        *lines, "", f"The draft of the shipped pair, temperature {PARAMS.temperature:g}, {MEASURED} texts of the "
        f"target; outliers: {OUTLIERS} channels of every norm, raised {RAISED:g} times. The best of W4 is accepted "
        f"{accepted:.3f} times as often as single precision, has {size:.2f} of its bytes, and takes {taken:.2f} of its "
        f"time. Bars: at least {KEPT:g}, at most {SIZE:g} and {TIME:g}: {'kept' if held(rows) else 'MISSED'}.",
    ])  # fmt: skip
