"""A whole model made smaller: layer by layer, so that one is in memory at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from airdraft.compress.checkpoint import check_served, config_of, write_checkpoint
from airdraft.compress.integers import LEVELS, IntegerMatrices, Integers, Way, folded, in_numpy
from airdraft.compress.layers import MATRICES, Applied, At, Layer, Run, layers, normed
from airdraft.compress.methods import METHODS, Method, to_nearest
from airdraft.compress.part import Unfinished
from airdraft.compress.quality import Comparison, Quality
from airdraft.compress.rounding import FEWEST, GROUPS, STORED, WIDTHS, Reals, Width, grouped, packed
from airdraft.compress.write import GgufCopy, plain_bytes
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.files.digest import files_digest
from airdraft.models.files.weights import checkpoint_files
from airdraft.models.gguf import AsGguf
from airdraft.models.imports.decoder import DecoderFacts, decoder_of
from airdraft.models.imports.quants import FORMATS
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.write import text_paths, write_graph, write_texts

LAYERS = WIDTHS | FEWEST
"""Widths of the layers' weights alone."""
F32 = 0
"""The number of plain numbers among the formats of GGUF files."""
HEADS = {"F16": 1, **{bits: WIDTHS[bits].number for bits in ("W8", "W4")}}
"""Formats of the table of embeddings, and of the matrix that scores the tokens."""
Form = Literal["gguf", "onnx", "compressed-tensors"]
CHECKPOINT: Form = "compressed-tensors"
TABLE, MADE = "token_embd.weight", "made"
_PIECES = "--format onnx, and a --group that divides them"
_ROWS = 4096
"""Rows of a table that are taken at a time."""
_POSITIONS = 256
"""Positions whose logits are compared at a time."""


@dataclass(frozen=True)
class Recipe:
    """What to make of a model."""

    method: Method | Way
    """Of `METHODS` for weights alone, or a way of `integers` for weights and activations."""
    bits: str
    """Of the layers: a key of `LAYERS`, or of `LEVELS`."""
    head: str = "W8"
    """Of the table of embeddings, and of the matrix that scores the tokens: a key of `HEADS`."""
    temperature: float = 0.7
    """At which the smaller model is compared."""
    form: Form | None = None
    """What is written: a GGUF file, or a folder, for the onnx engine or for vLLM. None: the first that holds it."""
    group: int | None = None
    """Weights of a row that share a step, of weights alone in a folder: one of `GROUPS`. None: as in GGUF files."""

    def __post_init__(self) -> None:
        methods: tuple[str, ...] = get_args(Way) if self.bits in LEVELS else (*METHODS,)
        if self.bits not in {*LAYERS, *LEVELS}:
            raise BadParameterError(f"bits {self.bits!r} are unknown; choose {', '.join([*LAYERS, *LEVELS])}", "bits")
        if self.method not in methods:
            raise BadParameterError(f"{self.bits} is made by {', '.join(methods)}, not by {self.method}", "method")
        if self.written not in forms(self.bits):
            known = " or ".join(forms(self.bits))
            raise BadParameterError(f"{self.form} does not hold activations in integers; choose {known}", "form")
        if self.written == CHECKPOINT:
            check_served(self.method, self.bits, self.head, self.group)
        if self.group is not None:
            self._check_group()

    def _check_group(self) -> None:
        if self.of_integers:
            raise BadParameterError(f"{self.bits} has a step for each row; leave --group out", "group")
        if self.written == "gguf":
            raise BadParameterError(
                f"a GGUF file has blocks of {self.width.block} for {self.bits}; leave --group out, or choose --format "
                "onnx", "group",
            )  # fmt: skip
        if self.group not in GROUPS:
            raise BadParameterError(
                f"blocks of {self.group} have no kernel; choose {', '.join(map(str, GROUPS))}", "group"
            )

    @property
    def width(self) -> Width:
        """Of the layers' weights, where they alone are in few bits."""
        own = LAYERS[self.bits]
        return own if self.written == "gguf" else grouped(own, self.group or own.block)

    @property
    def of_integers(self) -> bool:
        """Whether activations are rounded, too."""
        return self.bits in LEVELS

    @property
    def written(self) -> Form:
        """The form of what is written."""
        return self.form or forms(self.bits)[0]


def forms(bits: str) -> tuple[Form, ...]:
    """The forms that such bits are written in, the usual one first."""
    return ("onnx", CHECKPOINT) if bits in LEVELS else ("gguf", "onnx", CHECKPOINT)


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


def source_of(path: Path, tokenizer: bool = True) -> GgufFile:
    """The model at `path`: a GGUF file, or the folder of a checkpoint, as the GGUF file made of it would be.

    tokenizer: whether its metadata must hold the tokenizer. Raises: `ModelError` if it is neither.
    """
    return AsGguf(path, tokenizer) if path.is_dir() else GgufFile(path)


def compress(
    path: Path,
    out: Path,
    recipe: Recipe,
    texts: Texts,
    progress: Callable[[float], None] = lambda share: None,
    name: str | None = None,
) -> Quality:
    """Write the model at `path`, see `source_of`, as `out`, smaller. Returns: what it is worth on the texts held out.

    A run that was stopped goes on after the last layer it completed; see `Unfinished`. A report is written as well, in
    the folder, or beside the file under its name with .json.
    progress: told the share that is done, 0 to 1. name: what the report calls the model; None: by its path.
    Raises: `ModelError`, `BadParameterError`.
    """
    file = source_of(path, tokenizer=recipe.written == "gguf")
    decoder = decoder_of(file)
    for ids in (texts.calibration, texts.held_out):
        if ids.max() >= decoder.vocab:
            raise BadParameterError(f"the text has ids beyond the {decoder.vocab} tokens of {path}", field="calibrate")
        if ids.shape[1] > decoder.context:
            raise BadParameterError(f"{path} has a context of {decoder.context} tokens; calibrate with shorter texts")
    if recipe.written != "gguf" and out.exists():
        raise ModelError(f"{out} is there already; name a folder that is not")
    if recipe.written == CHECKPOINT:
        config_of(file, decoder)  # which refuses what has no words there, before the work
    with Unfinished(out, _key(path, recipe, texts)) as part:
        if recipe.written != "gguf":  # first, as a tokenizer may be refused
            write_texts(path, part.anew(MADE))
        work = _Pass(file, decoder, recipe, texts, part)
        made = work.write(progress)
        smaller = GgufFile(made, formats=STORED)
        quality = work.quality(smaller)
        integers = work.integers if recipe.of_integers else None
        result = made if recipe.written == "gguf" else part.folder / MADE
        if recipe.written == "onnx":
            write_graph(smaller, result, partial(IntegerMatrices, integers) if integers else None)
        elif recipe.written == CHECKPOINT:
            write_checkpoint(smaller, result, integers)
        report = {**asdict(recipe), "form": recipe.written, "source": name or str(path), **asdict(quality)}
        part.finish(result, json.dumps(report, indent=1))
    progress(1.0)
    return quality


def _key(path: Path, recipe: Recipe, texts: Texts) -> str:
    """A digest of all that a smaller model follows from."""
    found = hashlib.sha256(repr(recipe).encode())
    for ids in (texts.calibration, texts.held_out):
        found.update(repr(ids.shape).encode() + ids.tobytes())
    files = [*checkpoint_files(path), *text_paths(path)] if path.is_dir() else [path]
    found.update(files_digest(each for each in files if each.is_file()))
    return found.hexdigest()[:32]


_Smaller = tuple[dict[str, NDArray[np.uint8]], Layer, At]
"""A layer's tensors as they are stored, and as `Run` takes them, with what happens to activations."""


class _Pass:
    """One pass over a model: the calibration text goes through the smaller layers, the one held out through both."""

    def __init__(self, file: GgufFile, decoder: DecoderFacts, recipe: Recipe, texts: Texts, part: Unfinished) -> None:
        self._file, self._decoder, self._recipe, self._texts, self._part = file, decoder, recipe, texts, part
        self._head = HEADS[recipe.head]
        self._formats = {name: self._format(name) for name in file.tensors}
        state = part.state()
        self._done = int(state.pop("layers", 0))
        if not self._done:
            state = {
                "calibration": self._embedded(texts.calibration, self._head),
                "small": self._embedded(texts.held_out, self._head),
                "whole": self._embedded(texts.held_out),
            }
        self._runs = {name: Run(decoder, state.pop(name)) for name in ("calibration", "small", "whole")}
        self.integers = Integers(LEVELS.get(recipe.bits, 0), recipe.method != "token", state)

    def _format(self, name: str) -> int:
        there = self._file.tensors[name]
        if len(there.shape) == 1:
            return F32
        number = self._head
        if name.startswith("blk."):
            number = F32 if self._recipe.of_integers else self._recipe.width.number
        form = STORED[number]
        if there.shape[-1] % form.values:
            raise ModelError(
                f"{name} of {self._file.path} has {there.shape[-1]} columns, and {form.name} takes whole pieces of "
                f"{form.values}; choose {_PIECES if name.startswith('blk.') else '--head F16'}"
            )
        return number

    def _embedded(self, ids: NDArray[np.int64], number: int | None = None) -> Reals:
        """The rows of the table of embeddings for tokens [...], after they were stored in a format if one is told."""
        there = self._file.tensors[TABLE]
        some, at = np.unique(ids, return_inverse=True)
        rows = there.format.dense(self._file.raw(there)[some])
        if number is not None:
            rows = FORMATS[number].dense(self._stored(rows))
        return rows[at].reshape(*ids.shape, -1)

    def _stored(self, rows: Reals) -> NDArray[np.uint8]:
        """Rows of the table of embeddings, or of that of scores, as they are stored."""
        if self._recipe.head == "F16":
            return np.ascontiguousarray(rows, "<f2").view(np.uint8)
        width = WIDTHS[self._recipe.head]
        coded = to_nearest(rows, width)
        return packed(coded.codes, coded.step, width)

    def write(self, progress: Callable[[float], None]) -> Path:
        """Write the smaller model as a GGUF file in the part's folder; one of integers with folded weights."""
        made, d = self._part.folder / "model.gguf", self._decoder
        common = {"W4": 2, "W8": 7, "W3": 12, "W2": 10}.get(self._recipe.bits, F32)
        copy = GgufCopy(self._file, self._formats, made, common, begun=self._done > 0)
        if not self._done:
            self._part.check_room(copy.size)
        with copy:
            for i, layer in enumerate(layers(self._file, d.layers, self._done), self._done):
                self._layer(copy, i, layer)
                state = {name: run.x for name, run in self._runs.items()}
                self._part.save({"layers": np.array(i + 1), **state, **self.integers.parts})
                progress((i + 1) / (d.layers + 1))
            for name, there in self._file.tensors.items():
                if not name.startswith("blk."):
                    table = len(there.shape) == 2
                    copy.add(name, (self._stored(rows) if table else plain_bytes(rows) for rows in self._rows(name)))
        return made

    def _rows(self, name: str) -> Iterator[Reals]:
        there = self._file.tensors[name]
        for first in range(0, there.shape[0] if len(there.shape) == 2 else 1, _ROWS):
            yield self._file.numbers(name, first, _ROWS)

    def _layer(self, copy: GgufCopy, i: int, layer: Layer) -> None:
        positions = self._texts.calibration.size
        seen = {
            kind: Applied.nothing(layer[f"{names[0]}.weight"].shape[1], positions) for kind, names in MATRICES.items()
        }
        calibration, small_run, whole = self._runs.values()
        calibration.through(layer, lambda kind, x: seen[kind].add(x))
        make = self._integers if self._recipe.of_integers else self._weights
        stored, small, at = make(i, layer, seen)
        for name, raw in stored.items():
            copy.add(f"blk.{i}.{name}", [raw])
        calibration.x = calibration.through(small, at)
        small_run.x = small_run.through(small, at)
        whole.x = whole.through(layer)

    def _weights(self, i: int, layer: Layer, seen: dict[str, Applied]) -> _Smaller:
        width = self._recipe.width
        layer, coded = METHODS[cast(Method, self._recipe.method)](layer, seen, width)
        stored = {name: plain_bytes(vector) for name, vector in layer.items() if vector.ndim == 1}
        stored |= {f"{name}.weight": packed(each.codes, each.step, width) for name, each in coded.items()}
        return stored, layer | {f"{name}.weight": each.weights() for name, each in coded.items()}, lambda kind, x: x

    def _integers(self, i: int, layer: Layer, seen: dict[str, Applied]) -> _Smaller:
        levels = self.integers.levels
        layer, beside = folded(layer, seen, cast(Way, self._recipe.method), levels)
        self.integers.parts |= {f"blk.{i}.{name}": each for name, each in beside.items()}
        stored = {name: plain_bytes(each) for name, each in layer.items()}
        return stored, *in_numpy(layer, beside, levels, self.integers.fixed)

    def quality(self, smaller: GgufFile) -> Quality:
        """Compare the two forwards of the texts held out, at every position but the last of each."""
        d, norm = self._decoder, self._file.numbers("output_norm.weight")
        name = TABLE if d.tied else "output.weight"
        following = self._texts.held_out[:, 1:].reshape(-1)
        runs, files = (self._runs["whole"], self._runs["small"]), (self._file, smaller)
        rows = [normed(run.x[:, :-1], norm, d.eps).reshape(-1, d.width) for run in runs]
        comparison = Comparison(self._recipe.temperature)
        for start in range(0, len(following), _POSITIONS):
            here = slice(start, start + _POSITIONS)
            whole, small = (scores(file, name, x[here]) for file, x in zip(files, rows, strict=True))
            comparison.add(whole, small, following[here])
        return comparison.quality()


def scores(file: GgufFile, name: str, x: Reals) -> Reals:
    """x [positions, columns] times a table of the file [rows, columns], of which few rows are in memory at a time."""
    count = file.tensors[name].shape[0]
    found = np.empty((len(x), count), np.float32)
    for first in range(0, count, _ROWS):
        rows = file.numbers(name, first, _ROWS)
        found[:, first : first + len(rows)] = x @ rows.T
    return found
