"""The hf engine on this machine's card, beside the forwards of transformers that it stands on, and the card's limit.

Weights are random, since only their size matters. All run in this process, wait for the card after each call, and take
turns. On a CPU the same code runs: there it shows that it does, not how fast a card is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from airdraft.errors import ModelError, first_line
from airdraft.lab.wall.engines import OnStep
from airdraft.models.base import Choice, Part, raised
from airdraft.models.engines.hf import HfModel, libraries, past_name
from airdraft.models.engines.hf_graphs import captured

_log = logging.getLogger(__name__)

SHAPES = ((1, 1), (1, 5), (1, 16), (16, 5), (64, 5))
"""Texts in a call, and tokens of each."""
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 512},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
"""Shapes of Llama 3's models, and one that any machine runs at once."""
HELD, TURNS, WARM = 512, 15, 2
"""Positions before those that are timed; turns, and those before them that do not count."""
BARS = {(1, 1): ("captured", 1.3), (1, 5): ("captured", 1.3), (64, 5): ("transformers", 1.5)}
"""By texts and tokens: what the engine is compared with, and the most that the ratio should be on a GPU."""
CPU = "a CPU, which says nothing of a GPU"
_COPIED = 1 << 28
_PARAMS = {"temperature": 0.7, "top_k": 0, "top_p": 0.95, "min_p": 0.0}


class CardRow(msgspec.Struct, frozen=True):
    """One shape of call. Times are medians, in milliseconds."""

    texts: int
    tokens: int
    chosen_ms: float
    """The engine, which chooses a token in each row."""
    rows_ms: float
    """The engine, which moves all rows to the CPU."""
    transformers_ms: float
    """One batch of equal texts, its own cache, and the likeliest tokens."""
    captured_ms: float | None
    """The same of one text with a static cache, as a captured graph, logits left where they are; None: not tried, or
    it cannot be captured."""
    limit_ms: float
    """The time in which the card copies as many bytes as weights, keys and values have."""

    @property
    def ratio(self) -> float | None:
        """The engine's time by that which its bar names; None: there is no bar."""
        of = {"captured": self.captured_ms, "transformers": self.transformers_ms}
        beside = of[BARS[self.texts, self.tokens][0]] if (self.texts, self.tokens) in BARS else None
        return None if beside is None else self.chosen_ms / beside


class Card(msgspec.Struct):
    """What was measured, and where."""

    card: str
    size: str
    dtype: str
    torch: str
    transformers: str
    copy_gb_s: float
    weights_gb: float
    graphs: str
    """Why the engine captures no graphs; empty: it does."""
    rows: list[CardRow]


def fitting() -> str:
    """The greatest size that fits this machine's card twice; without a card the least."""
    torch, _ = libraries()
    if not torch.cuda.is_available():
        return "tiny"
    free = torch.cuda.mem_get_info()[0]
    return "8b" if free > 40e9 else "1b" if free > 8e9 else "tiny"


def card(size: str, folder: Path, on_step: OnStep = lambda done, of: None) -> Card:
    """Measure a model of random weights, which are written to `folder`."""
    torch, transformers = libraries()
    transformers.logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _make(size, folder, device)
    engine = HfModel(folder, device=device.type)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=engine.dtype).to(device)
    weights = sum(each.nbytes for each in theirs.parameters())
    if not theirs.config.tie_word_embeddings:
        weights -= theirs.get_input_embeddings().weight.nbytes  # a few rows of it are read
    bench = _Bench(engine, theirs, device)
    found = Card(
        torch.cuda.get_device_name() if device.type == "cuda" else CPU, size, str(engine.dtype).rpartition(".")[2],
        str(torch.__version__), transformers.__version__, bench.copy_gb_s(), weights / 1e9, engine.uncaptured, [],
    )  # fmt: skip
    for done, (texts, tokens) in enumerate(SHAPES, 1):
        read = weights + texts * HELD * (engine.info.position_bytes or 0)
        found.rows.append(bench.row(texts, tokens, 1e3 * read / (1e9 * found.copy_gb_s)))
        on_step(done, len(SHAPES))
    found.graphs = engine.uncaptured
    return found


def _make(size: str, folder: Path, device: Any) -> None:
    """Write a checkpoint of random weights."""
    torch, transformers = libraries()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            made = transformers.LlamaForCausalLM(transformers.LlamaConfig(max_position_embeddings=8192, **SIZES[size]))
        made.save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)


class _Bench:
    """An engine and a model of transformers with the same weights."""

    def __init__(self, engine: HfModel, model: Any, device: Any) -> None:
        self._torch, self._transformers = libraries()
        self._engine, self._model, self._device, self._as_past = engine, model, device, past_name(model)
        self._random = np.random.default_rng(0)

    def row(self, texts: int, tokens: int, limit_ms: float) -> CardRow:
        """Take turns: the engine with choices and with rows, transformers, and its graph."""
        vocab_size = self._engine.vocab_size
        prompts = self._random.integers(vocab_size, size=(texts, HELD))
        caches = [self._engine.new_cache() for _ in range(texts)]
        for cache, prompt in zip(caches, prompts.tolist(), strict=True):
            self._engine.forward(cache, 0, prompt, 0)
        positions = tuple(range(HELD + 1, HELD + 1 + tokens))
        choice = Choice(**_PARAMS, seed=1, vocab_size=vocab_size, positions=positions)  # type: ignore[arg-type]
        fed = self._random.integers(vocab_size, size=(texts, tokens))

        def parts(choice: Choice | None) -> list[Part]:
            lines = zip(caches, fed.tolist(), strict=True)
            return [Part(cache, HELD, line, tokens, choice=choice) for cache, line in lines]

        runs = [
            lambda: [raised(each) for each in self._engine.choose(parts(choice))],
            lambda: [raised(each) for each in self._engine.verify(parts(None))],
            self._plain(prompts, fed),
        ]
        static = self._static(prompts, fed) if texts == 1 else None
        with self._torch.inference_mode():
            times = self._times_ms([*runs, *([static] if static else [])])
        return CardRow(texts, tokens, times[0], times[1], times[2], times[3] if static else None, limit_ms)

    def copy_gb_s(self) -> float:
        """Gigabytes that the card reads and writes in a second when it copies many."""
        count = _COPIED if self._device.type == "cuda" else _COPIED >> 4
        one, other = (self._torch.ones(count, dtype=self._torch.uint8, device=self._device) for _ in range(2))
        [ms] = self._times_ms([lambda: other.copy_(one)])
        return 2e-6 * count / ms

    def _times_ms(self, runs: Sequence[Callable[[], Any]]) -> list[float]:
        """The median of each, by turns."""
        taken: list[list[float]] = [[] for _ in runs]
        for turn in range(-WARM, TURNS):
            for run, times in zip(runs, taken, strict=True):
                self._wait()
                began_s = time.perf_counter()
                run()
                self._wait()
                if turn >= 0:
                    times.append(1e3 * (time.perf_counter() - began_s))
        return [median(times) for times in taken]

    def _wait(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()

    def _plain(self, prompts: Any, fed: Any) -> Callable[[], Any]:
        """A forward of transformers, and the likeliest tokens."""
        past, ids = self._transformers.DynamicCache(), self._on_card(fed)
        with self._torch.inference_mode():
            self._model(input_ids=self._on_card(prompts), logits_to_keep=1, use_cache=True, **{self._as_past: past})

        def run() -> Any:
            logits = self._model(input_ids=ids, use_cache=True, **{self._as_past: past}).logits
            past.crop(-ids.shape[1])
            return logits.argmax(-1).tolist()

        return run

    def _static(self, prompts: Any, fed: Any) -> Callable[[], Any] | None:
        """A forward with a cache of a set size, captured where there is a GPU. None: this transformers cannot."""
        torch, tokens = self._torch, fed.shape[1]
        try:
            with torch.inference_mode():
                past = self._transformers.StaticCache(config=self._model.config, max_cache_len=HELD + 64)
                ids, options = self._on_card(fed), {self._as_past: past, "use_cache": True}
                self._model(input_ids=self._on_card(prompts), logits_to_keep=1, **options)
                places = torch.arange(HELD, HELD + tokens, device=self._device)
                seen = torch.arange(HELD + 64, device=self._device)[None] <= places[:, None]
                dtype = self._model.dtype
                mask = torch.zeros(seen.shape, dtype=dtype, device=self._device).masked_fill(
                    ~seen, torch.finfo(dtype).min
                )
                counts = [layer.cumulative_length for layer in past.layers if hasattr(layer, "cumulative_length")]
                held = [count.clone() for count in counts if torch.is_tensor(count)]

                def run() -> Any:
                    for count, before in zip((each for each in counts if torch.is_tensor(each)), held, strict=True):
                        count.copy_(before)  # the forward counts on
                    return self._model(
                        input_ids=ids, attention_mask=mask[None, None], position_ids=places[None], **options
                    ).logits

                return captured(run) if self._device.type == "cuda" else run
        except Exception as problem:  # of transformers, of CUDA
            _log.warning("no captured graph beside: %s", first_line(problem))
            return None

    def _on_card(self, ids: Any) -> Any:
        return self._torch.from_numpy(ids).to(self._device)


def checked(size: str) -> str:
    """Raises: `ModelError` if there is no such size."""
    if size not in SIZES:
        raise ModelError(f"no size {size!r}; choose one of {', '.join(SIZES)}")
    return size


def table(found: Card) -> str:
    """It as Markdown."""
    gpu = found.card != CPU
    lines = [
        f"{found.card}, Llama {found.size} of random weights in {found.dtype}, {found.weights_gb:.2g} GB a forward, "
        f"{HELD} positions before; ms, medians of {TURNS} turns. A large copy moves {found.copy_gb_s:.3g} GB/s. "
        f"PyTorch {found.torch}, transformers {found.transformers}.",
        "",
        "| texts | tokens of each | hf engine, tokens chosen | hf engine, rows moved | transformers alone "
        f"| static cache{', captured' if gpu else ''} | limit | ratio | bar |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    missed = []
    for row in found.rows:
        beside, bar = BARS.get((row.texts, row.tokens), ("", 0.0)) if gpu else ("", 0.0)
        graph = "" if row.captured_ms is None else f"{row.captured_ms:.2f}"
        ratio = row.ratio if bar else None
        lines.append(
            f"| {row.texts} | {row.tokens} | {row.chosen_ms:.2f} | {row.rows_ms:.2f} | {row.transformers_ms:.2f} "
            f"| {graph} | {row.limit_ms:.2f} | {'' if ratio is None else f'{ratio:.2f}'} "
            f"| {f'{bar:g} × {beside}' if bar else ''} |"
        )
        if ratio is not None and ratio > bar:
            missed.append(f"{row.texts} × {row.tokens}")
    said = [f"Bars missed: {', '.join(missed) or 'none'}."] if gpu else []
    if found.graphs:
        said.append(f"The engine captured no graphs: {found.graphs}.")
    return "\n".join([*lines, "", " ".join(said)])
