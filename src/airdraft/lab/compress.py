"""Models in few bits beside themselves as they were: what each is worth as a draft, of the shipped pair and the chat.

Acceptance is measured along texts that the target writes itself; models are calibrated on other texts of the target. It
is a chance and not a count: nothing is drawn. The time is that of one token's forward in the onnx engine, models in
turns, on one thread, so that whatever else the machine does slows all of them. Small models have no channels of large
activations, so the shipped draft is measured with some planted, too: its norms' weights of some channels are raised and
the matrices' columns lowered by as much, which changes no row. The chat draft ships in codes of 8 and 4 bits; what they
stand for is taken for the model in single precision. A target in few bits is measured as a draft of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from airdraft.compress.fold import Matrix, Scaled, fold
from airdraft.compress.integers import NORMS, Way
from airdraft.compress.layers import MATRICES, layers
from airdraft.compress.methods import METHODS
from airdraft.compress.quality import Comparison, Quality
from airdraft.compress.rounding import WIDTHS
from airdraft.compress.whole import F32, Recipe, Texts, compress, windows
from airdraft.compress.write import GgufCopy, plain_bytes
from airdraft.core.sampling import SamplingParams
from airdraft.lab.expand import expand
from airdraft.lab.record import MIN_TOKENS
from airdraft.models.base import LanguageModel
from airdraft.models.engines.llamacpp import gguf_file
from airdraft.models.files.folder import locate, shipped
from airdraft.models.files.variants import GGUF
from airdraft.models.fit import Fit
from airdraft.models.gguf import write_gguf
from airdraft.models.imports.decoder import decoder_of
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.write import import_gguf
from airdraft.models.registry import load, resolve
from airdraft.sim.alone import write

PARAMS = SamplingParams(temperature=0.7)
SEED, LENGTH, WINDOW = 20, 96, 96
CACHED = 64
"""Tokens before the forward that is timed."""
QUICK = 0.1
"""The share of a model's turns that is faster than what is told: beside other work, most are slowed down by that."""
WHOLE, AS_SHIPPED = "none", "as shipped"
DRAFT, PLANTED, TARGET = "draft", "draft with outliers", "target"
CHAT_DRAFT, CHAT_TARGET = "chat-draft", "chat-target"
MODELS = {"shipped": (DRAFT, PLANTED, TARGET), "chat": (CHAT_DRAFT, CHAT_TARGET)}
"""Those that have rows, by pair."""
_OF_PAPERS: tuple[Way, ...] = ("tensor", "outliertune", "mergequant")
FEW: dict[str, tuple[Way, ...]] = {
    "W6A6": _OF_PAPERS,
    "W4A4": (*_OF_PAPERS, "osplus", "repquant", "crossquant", "qllm"),
}
"""Ways that are measured with fewer than 8 bits."""
FEWER = [Recipe("gptq", bits, form="onnx") for bits in ("W3", "W2")]
"""Of drafts whose rows are no whole pieces of 256. Their codes are stored in 4 bits, so these rows save nothing."""
OUTLIERS, RAISED = 8, 40.0
"""Channels of every norm that are raised, and by how much."""

Told = Callable[[str], None]


@dataclass(frozen=True)
class Amount:
    """How much of a pair is measured."""

    measured: int
    """Prompts whose texts acceptance is measured on."""
    calibrated: int
    """Prompts after them, to calibrate with."""
    runs: int
    """How often each model's forward is timed."""


AMOUNTS = {"shipped": Amount(24, 48, 100), "chat": Amount(8, 16, 30)}


class CompressRow(msgspec.Struct, frozen=True):
    """One model."""

    model: str
    method: str
    """How codes were chosen; none: it is as it was."""
    bits: str
    head: str
    perplexity: float
    """Of the target's texts, in the onnx engine."""
    one_minus_tv: float
    """Share of drafts that rejection sampling accepts."""
    coupled: float
    """Share of drafts accepted under shared noise."""
    ms_per_token: float
    time: float
    """Of a forward, as a share of the whole model's in the same turns."""
    mb: float


class Measured(msgspec.Struct, frozen=True):
    """What a run wrote."""

    rows: list[CompressRow]


@dataclass(frozen=True)
class Shrunk:
    """A model that is made smaller."""

    name: str
    source: Path
    """A GGUF file."""
    recipes: Sequence[Recipe]
    others: Sequence[tuple[str, str, str]]
    """Models that it is compared with: the name to load, what it is, and its bits. The first is the whole one."""


def subjects(pair: str, folder: Path) -> list[Shrunk]:
    """The models of a pair that are made smaller, written into `folder` where they are no GGUF files."""
    few = [Recipe(way, bits) for bits, ways in FEW.items() for way in ways]
    if pair == "shipped":
        plain, planted, own = folder / "plain.gguf", folder / "planted.gguf", folder / "target" / "own.gguf"
        write_gguf(shipped("draft"), plain)
        plant(plain, planted)
        own.parent.mkdir()
        write_gguf(shipped("target"), own)
        weights = [Recipe(method, bits) for bits in WIDTHS for method in METHODS]
        integers = [Recipe(way, "W8A8") for way in get_args(Way)]
        weights += [Recipe("gptq", "W4", "W4"), *FEWER, *integers, *few]
        return [
            Shrunk(DRAFT, plain, weights, [(str(plain), WHOLE, "fp32")]),
            Shrunk(PLANTED, planted, [*integers, *few], [(str(planted), WHOLE, "fp32")]),
            Shrunk(TARGET, own, [Recipe("rtn", "W4"), Recipe("gptq", "W4")], [(str(own), WHOLE, "fp32")]),
        ]
    made = folder / "chat-draft.gguf"
    expand(resolve(CHAT_DRAFT), made)
    draft = [Recipe(method, "W4") for method in METHODS]
    draft += [Recipe("gptq", "W8"), Recipe("gptq", "W4", "W4"), *FEWER]
    draft += [Recipe(way, "W8A8") for way in get_args(Way)]
    target = [Recipe("rtn", "W4"), Recipe("gptq", "W4"), *(Recipe(way, "W8A8") for way in ("token", "outliertune"))]
    return [
        Shrunk(CHAT_DRAFT, made, draft, [(str(made), WHOLE, "fp32"), (CHAT_DRAFT, AS_SHIPPED, "W8")]),
        Shrunk(CHAT_TARGET, gguf_file(locate(CHAT_TARGET, {GGUF: ""})[0]), target, [(CHAT_TARGET, WHOLE, "Q4_1")]),
    ]


def bench(pair: str, prompts: Sequence[Sequence[int]], tell: Told = lambda name: None) -> list[CompressRow]:
    """Measure a pair. prompts: to measure on and to calibrate with, see `AMOUNTS`. tell: told what comes next."""
    amount = AMOUNTS[pair]
    target, tokenizer = load("target" if pair == "shipped" else CHAT_TARGET)
    written = []
    for at, prompt in enumerate(prompts):
        tell(f"text {at + 1} of {len(prompts)} of the {pair} pair's target")
        tokens = [*write(target, prompt, PARAMS, SEED + at, LENGTH, tokenizer.vocab_size)]
        written.append((list(prompt), tokens))
    measured = [each for each in written[: amount.measured] if len(each[1]) >= MIN_TOKENS]
    texts = windows([[*each, *tokens] for each, tokens in written[amount.measured :]], WINDOW, 2 * len(written))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(pair, Path(folder)):
            made = list(_made(subject, Path(folder), texts, tell))
            models = [load(place, fit=Fit(threads=1))[0] for place, *_ in made]
            tell(f"{subject.name}: acceptance, {len(models)} models side by side")
            qualities = along(target, models, measured, tokenizer.vocab_size)
            tell(f"{subject.name}: time, {len(models)} models in turns")
            spent = np.quantile(_times(models, measured[0][0], amount.runs), QUICK, 0)
            told = zip(made, qualities, spent.tolist(), (spent / spent[len(subject.recipes)]).tolist(), strict=True)
            rows += [
                CompressRow(
                    subject.name, *what, found.perplexity, found.one_minus_tv, found.coupled, ms, share, size / 1e6
                )
                for (_, size, what), found, ms, share in told
            ]
    return rows


def _made(subject: Shrunk, folder: Path, texts: Texts, tell: Told) -> Iterator[tuple[str, int, tuple[str, str, str]]]:
    """Each model of a subject: what to load, its bytes, and what it is: method, bits, bits of the scores."""
    for i, recipe in enumerate(subject.recipes):
        tell(f"{subject.name}, {recipe.method} {recipe.bits}")
        out = folder / (f"{subject.name} {i}" + (".gguf" if recipe.written == "gguf" else ""))
        compress(subject.source, out, recipe, texts)
        size = sum(file.stat().st_size for file in ([out] if out.is_file() else out.glob("model.*")))
        if out.is_file():  # here, and not in the cache of the user's own
            import_gguf(out, out.with_suffix(""))
            out.unlink()
        yield str(out.with_suffix("")), size, (recipe.method, recipe.bits, recipe.head)
    for name, method, bits in subject.others:
        if method == AS_SHIPPED:
            size = sum(file.stat().st_size for file in resolve(name).glob("model.*"))
            yield name, size, (method, bits, "W8, W4")
        elif Path(name).is_file():
            import_gguf(Path(name), Path(name).with_suffix(""))
            yield str(Path(name).with_suffix("")), subject.source.stat().st_size, (method, bits, bits)
        else:
            yield name, subject.source.stat().st_size, (method, bits, bits)


def along(
    target: LanguageModel, models: Sequence[LanguageModel], texts: Sequence[tuple[list[int], list[int]]], vocab: int
) -> list[Quality]:
    """What each model is worth beside the target, along texts that follow their prompts; all read each text once."""
    comparisons = [Comparison(PARAMS.temperature) for _ in models]
    for prompt, tokens in texts:
        feed = [*prompt, *tokens[:-1]]
        whole, *rows = (
            model.forward(model.new_cache(), 0, feed, len(tokens))[:, :vocab] for model in (target, *models)
        )
        for comparison, small in zip(comparisons, rows, strict=True):
            comparison.add(whole, small, np.array(tokens))
    return [comparison.quality() for comparison in comparisons]


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
                copy.add(f"blk.{i}.{name}", [plain_bytes(found)])
        for name in file.tensors:
            if not name.startswith("blk."):
                copy.add(name, [plain_bytes(file.numbers(name))])


def _times(models: Sequence[LanguageModel], prompt: Sequence[int], runs: int) -> NDArray[np.float64]:
    """Milliseconds of one token's forward, [runs, models]; models take turns.

    Each turn has an order of its own: on a busy machine a process is halted when it has run for so long, which would
    else meet the same model in every turn.
    """
    tokens = (list(prompt) * (CACHED + 1))[: CACHED + 1]
    caches = [model.new_cache() for model in models]
    for model, cache in zip(models, caches, strict=True):
        model.forward(cache, 0, tokens[:CACHED], 1)
    taken, rng = np.empty((runs, len(models))), np.random.default_rng(SEED)
    for run in range(runs):
        for at in rng.permutation(len(models)):
            began_s = time.perf_counter()
            models[at].forward(caches[at], CACHED, tokens[CACHED:], 1)
            taken[run, at] = 1e3 * (time.perf_counter() - began_s)
    return taken
