"""A whole model made smaller: layer by layer, so that one is in memory at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from airdraft.compress.integers import LEVELS, IntegerMatrices, Integers, Way, folded, in_numpy
from airdraft.compress.layers import MATRICES, Applied, At, Layer, Run, layers, linear, normed, tensor
from airdraft.compress.methods import METHODS, Method, to_nearest
from airdraft.compress.quality import Comparison, Quality
from airdraft.compress.rounding import BLOCK, WIDTHS, Reals, packed
from airdraft.compress.write import GgufCopy
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.imports.decoder import DecoderFacts, decoder_of
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.write import import_gguf

F32 = 0
"""The number of plain numbers among the formats of GGUF files."""
_ROWS = 256
"""Rows of logits that are compared at a time."""


@dataclass(frozen=True)
class Recipe:
    """What to make of a model."""

    method: Method | Way
    """Of `METHODS` for weights alone, or a way of `integers` for weights and activations."""
    bits: str
    """Of the layers: a key of `WIDTHS`, or of `LEVELS`."""
    head: str = "W8"
    """Of the table of embeddings, and of the matrix that scores the tokens: a key of `WIDTHS`."""
    temperature: float = 0.7
    """At which the smaller model is compared."""

    def __post_init__(self) -> None:
        methods: tuple[str, ...] = (*METHODS,) if self.bits in WIDTHS else get_args(Way)
        if self.bits not in {*WIDTHS, *LEVELS}:
            raise BadParameterError(f"bits {self.bits!r} are unknown; choose {', '.join([*WIDTHS, *LEVELS])}", "bits")
        if self.method not in methods:
            raise BadParameterError(f"{self.bits} is made by {', '.join(methods)}, not by {self.method}", "method")

    @property
    def of_integers(self) -> bool:
        """Whether activations are rounded, too."""
        return self.bits in LEVELS


@dataclass(frozen=True)
class Texts:
    """Texts as token ids, [texts, positions]: some to calibrate with, others to compare on."""

    calibration: NDArray[np.int64]
    held_out: NDArray[np.int64]


def windows(ids: Sequence[Sequence[int]], length: int, most: int) -> Texts:
    """Cut texts into windows of `length` tokens, at most `most`; every fourth is held out.

    Raises: `BadParameterError` if there are fewer than four.
    """
    together = [token for text in ids for token in text]
    count = min(most, len(together) // length)
    if count < 4:
        raise BadParameterError(
            f"the text has {len(together)} tokens, and {4 * length} are needed to calibrate with; give more of it",
            field="calibrate",
        )
    cut = np.array(together[: count * length], np.int64).reshape(count, length)
    held = np.arange(count) % 4 == 3
    return Texts(cut[~held], cut[held])


def compress(
    path: Path, out: Path, recipe: Recipe, texts: Texts, progress: Callable[[float], None] = lambda share: None
) -> Quality:
    """Write the model in the GGUF file `path` as `out`, smaller. Returns: what it is worth on the texts held out.

    out: a GGUF file, or for activations in integers a folder for the onnx engine.
    progress: told the share that is done, 0 to 1. Raises: `ModelError`, `BadParameterError`.
    """
    file = GgufFile(path)
    decoder = decoder_of(file)
    for ids in (texts.calibration, texts.held_out):
        if ids.max() >= decoder.vocab:
            raise BadParameterError(f"the text has ids beyond the {decoder.vocab} tokens of {path}", field="calibrate")
        if ids.shape[1] > decoder.context:
            raise BadParameterError(f"{path} has a context of {decoder.context} tokens; calibrate with shorter texts")
    work = _Pass(file, decoder, recipe, texts)
    if not recipe.of_integers:
        return work.write(out, progress)
    if out.exists():
        raise ModelError(f"{out} is there already; name a folder that is not")
    with tempfile.TemporaryDirectory() as folder:
        middle = Path(folder) / "folded.gguf"
        quality = work.write(middle, progress)
        import_gguf(middle, out, matrices=partial(IntegerMatrices, work.integers))
    return quality


_Smaller = tuple[dict[str, NDArray[np.uint8]], Layer, At]
"""A layer's tensors as they are stored, and as `Run` takes them, with what happens to activations."""


class _Pass:
    """One pass over a model: the calibration text goes through the smaller layers, the one held out through both."""

    def __init__(self, file: GgufFile, decoder: DecoderFacts, recipe: Recipe, texts: Texts) -> None:
        self._file, self._decoder, self._recipe, self._texts = file, decoder, recipe, texts
        self._head = WIDTHS[recipe.head]
        self.integers = Integers(LEVELS.get(recipe.bits, 0))
        self._formats = {name: self._format(name) for name in file.tensors}
        self._tables = {
            name: to_nearest(tensor(file, name), self._head)
            for name, there in file.tensors.items()
            if not name.startswith("blk.") and len(there.shape) == 2
        }
        """The table of embeddings, and the matrix that scores the tokens, if it is another."""
        table, small = tensor(file, "token_embd.weight"), self._tables["token_embd.weight"].weights()
        self._calibration = Run(decoder, small[texts.calibration])
        self._whole, self._small = Run(decoder, table[texts.held_out]), Run(decoder, small[texts.held_out])

    def _format(self, name: str) -> int:
        there = self._file.tensors[name]
        if len(there.shape) == 1:
            return F32
        if there.shape[-1] % BLOCK:
            raise ModelError(
                f"{name} of {self._file.path} has {there.shape[-1]} columns, and blocks have {BLOCK}; no engine here "
                "runs such a matrix in few bits"
            )
        if not name.startswith("blk."):
            return self._head.number
        return F32 if self._recipe.of_integers else WIDTHS[self._recipe.bits].number

    def write(self, out: Path, progress: Callable[[float], None]) -> Quality:
        """See `compress`."""
        common = {"W4": 2, "W8": 7}.get(self._recipe.bits, F32)
        with GgufCopy(self._file, self._formats, out, common) as copy:
            for i, layer in enumerate(layers(self._file, self._decoder.layers)):
                self._layer(copy, i, layer)
                progress((i + 1) / (self._decoder.layers + 1))
            for name in self._file.tensors:
                if not name.startswith("blk."):
                    self._other(copy, name)
            quality = self._quality()
        progress(1.0)
        return quality

    def _layer(self, copy: GgufCopy, i: int, layer: Layer) -> None:
        seen = {kind: Applied.nothing(layer[f"{names[0]}.weight"].shape[1]) for kind, names in MATRICES.items()}
        self._calibration.through(layer, lambda kind, x: seen[kind].add(x))
        make = self._integers if self._recipe.of_integers else self._weights
        stored, small, at = make(i, layer, seen)
        for name, raw in stored.items():
            copy.add(f"blk.{i}.{name}", raw)
        self._calibration.x = self._calibration.through(small, at)
        self._small.x = self._small.through(small, at)
        self._whole.x = self._whole.through(layer)

    def _weights(self, i: int, layer: Layer, seen: dict[str, Applied]) -> _Smaller:
        width = WIDTHS[self._recipe.bits]
        layer, coded = METHODS[cast(Method, self._recipe.method)](layer, seen, width)
        stored = {name: plain_bytes(vector) for name, vector in layer.items() if vector.ndim == 1}
        stored |= {f"{name}.weight": packed(each.codes, each.step, width) for name, each in coded.items()}
        return stored, layer | {f"{name}.weight": each.weights() for name, each in coded.items()}, lambda kind, x: x

    def _integers(self, i: int, layer: Layer, seen: dict[str, Applied]) -> _Smaller:
        levels = self.integers.levels
        layer, beside = folded(layer, seen, cast(Way, self._recipe.method), levels)
        self.integers.parts |= {f"blk.{i}.{name}": each for name, each in beside.items()}
        return {name: plain_bytes(each) for name, each in layer.items()}, *in_numpy(layer, beside, levels)

    def _other(self, copy: GgufCopy, name: str) -> None:
        coded = self._tables.get(name)
        raw = plain_bytes(tensor(self._file, name)) if coded is None else packed(coded.codes, coded.step, self._head)
        copy.add(name, raw)

    def _quality(self) -> Quality:
        """Compare the two forwards of the texts held out, at every position but the last of each."""
        d, norm = self._decoder, tensor(self._file, "output_norm.weight")
        name = "token_embd.weight" if d.tied else "output.weight"
        heads = tensor(self._file, name), self._tables[name].weights()
        models = [(run.x, {"head.weight": head}) for run, head in zip((self._whole, self._small), heads, strict=True)]
        following = self._texts.held_out[:, 1:].reshape(-1)
        rows = [(normed(x[:, :-1], norm, d.eps).reshape(-1, d.width), weights) for x, weights in models]
        comparison = Comparison(self._recipe.temperature)
        for start in range(0, len(following), _ROWS):
            here = slice(start, start + _ROWS)
            whole, small = (linear(weights, "head", x[here]) for x, weights in rows)
            comparison.add(whole, small, following[here])
        return comparison.quality()


def plain_bytes(found: Reals) -> NDArray[np.uint8]:
    """A tensor in single precision, as a GGUF file stores it."""
    return np.ascontiguousarray(found, "<f4").view(np.uint8)
