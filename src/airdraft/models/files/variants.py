"""Which files of a repository make one model: a graph, a GGUF file or a checkpoint, found among the names alone.

Pure: names in, names out. They are those of a hub repository, or of a folder of a program that keeps models.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from airdraft.errors import ModelError
from airdraft.models.files.config import shown
from airdraft.models.files.weights import checkpoint

ONNX, GGUF, CODES, CHECKPOINT = "onnx", "gguf", "codes", "checkpoint"
GRAPHS = ("model.onnx", "onnx/model.onnx")
"""Where the graph of a repository lies that has one and no other, in that order."""
BESIDE = ("*.json", "*.jinja")
"""Patterns of the small files that go with any model: config, tokenizer, chat template."""
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
"""One of several files of a GGUF model: stem, number, how many there are."""
_QUANT = re.compile(
    r"(?<![A-Z0-9])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4(?:_MOE)?))(?=[.-]|$)", re.IGNORECASE
)
_NO_MODEL = re.compile(r"(?:^|[-_.])(?:mmproj|imatrix)(?=[-_.])", re.IGNORECASE)
"""GGUF files that hold no language model: a projector of images, a table for quantising."""
_MOST_SHOWN = 12


@dataclass(frozen=True)
class Variant:
    """The files that are one model."""

    format: str
    """`ONNX`, `GGUF`, `CODES`, `CHECKPOINT`; empty where only config and tokenizer are wanted."""
    file: str = ""
    """The graph or the GGUF file, of several parts the first; empty for a checkpoint."""
    files: tuple[str, ...] = ()
    """All that it needs besides config and tokenizer, as far as the names tell."""

    @property
    def patterns(self) -> list[str]:
        """Patterns of all files to fetch."""
        return [*BESIDE, *map(glob.escape, self.files)]


def quant_of(name: str) -> str:
    """The quantisation that a GGUF file's name tells, in capitals, such as Q4_K_M; empty if it tells none."""
    found: list[str] = _QUANT.findall(stem_of(name))
    return found[-1].upper() if found else ""


def stem_of(name: str) -> str:
    """A GGUF file's name without folder, suffix and number of a part."""
    last = name.rsplit("/", 1)[-1]
    part = PART.fullmatch(last)
    return part[1] if part else last.removesuffix(".gguf")


def ggufs(names: Iterable[str]) -> list[str]:
    """The GGUF files that hold a language model, of one in parts the first."""
    found = (name for name in names if name.lower().endswith(".gguf") and not _NO_MODEL.search(name.rsplit("/", 1)[-1]))
    return sorted(name for name in found if (part := PART.fullmatch(name)) is None or int(part[2]) == 1)


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first ones, and how many there are besides."""
    more = len(names) - _MOST_SHOWN
    words = ", ".join(name if len(name) < 200 and name.isprintable() else shown(name) for name in names[:_MOST_SHOWN])
    return f"{words} and {more} more" if more > 0 else words or "none"


def quantised(where: str, names: Iterable[str], quant: str) -> str:
    """The one GGUF file of `names` whose name has the quantisation `quant`, in capitals or not.

    where: what holds them, for messages.
    Raises: `ModelError` that lists what there is if there is none, there are several, or it comes in parts.
    """
    every = ggufs(names)
    wanted = re.compile(rf"(?<![a-z0-9]){re.escape(quant)}(?![a-z0-9_])", re.IGNORECASE)
    found = [name for name in every if wanted.search(stem_of(name))]
    if not found:
        what = f"it has {listed(_quants(every))}" if every else "it has none at all"
        raise ModelError(f"{where} has no .gguf file of the quantisation {shown(quant)}; {what}")
    if len(found) > 1:
        raise ModelError(f"{where} has several .gguf files of {quant}; name one of {listed(found)}")
    if PART.fullmatch(found[0]):
        raise ModelError(
            f"{where} has {quant} in several parts; name the first, {found[0]}, and --engine llamacpp, which joins them"
        )
    return found[0]


def pick(
    where: str, names: Sequence[str], formats: Mapping[str, str], quant: str | None = None, file: str | None = None
) -> Variant:
    """The model that is meant, of those in a repository.

    names: of all its files, with `/` between folders.
    formats: those that may be taken, the first that is there; of each what is missing to run it, if anything is. None
    at all: config and tokenizer are enough.
    quant, file: the one of several that was named.
    Raises: `ModelError` that lists what there is.
    """
    if file is not None:
        if file not in names:
            like = ggufs(names) if file.lower().endswith(".gguf") else graphs(names)
            raise ModelError(f"{where} has no file {shown(file)}; it has {listed(like)}")
        found = Variant(GGUF if file.lower().endswith(".gguf") else ONNX, file)
    elif quant is not None:
        found = Variant(GGUF, quantised(where, names, quant))
    else:
        found = _only(where, names, formats)
    if not formats and found.format != GGUF:  # whose tokenizer is in the file
        return Variant("")
    if formats and found.format not in formats:
        raise ModelError(f"{where} is named as {found.format}, and the engine takes {', '.join(formats)}; leave it out")
    return Variant(found.format, found.file, tuple(_needed(names, found)))


def check_runs(where: str, variant: Variant, formats: Mapping[str, str]) -> None:
    """Check that nothing is missing to run a model, see `pick`. Raises: `ModelError` that says what."""
    if lack := formats.get(variant.format):
        raise ModelError(f"{where} would be run from its {variant.format} files, and {lack}")


def _only(where: str, names: Sequence[str], formats: Mapping[str, str]) -> Variant:
    """The model of a repository of which no file was named. Raises: `ModelError`."""
    found, files = graphs(names), ggufs(names)
    if not formats and ("tokenizer.json" in names or not files):
        return Variant("")
    for form in formats or (GGUF,):
        if form == ONNX and found:
            usual = [name for name in GRAPHS if name in found]
            if not usual and len(found) > 1:
                raise ModelError(
                    f"{where} has no model.onnx; name one: {listed([f'{where}/{name}' for name in found])}"
                )
            return Variant(ONNX, (usual or found)[0])
        if form == GGUF and files:
            if len(files) > 1:
                raise ModelError(f"{where} has several .gguf files; name one: {listed(_spelt(where, files))}")
            return Variant(GGUF, files[0])
        if form in (CODES, CHECKPOINT) and checkpoint(names):  # which of them the config tells
            return Variant(form)
    needs = " or ".join(_NEEDS[form] for form in formats)
    raise ModelError(f"{where} holds no model that can be run here; it needs {needs}, and has {listed(sorted(names))}")


_NEEDS = {
    ONNX: "a model.onnx", GGUF: "a .gguf file", CODES: "a checkpoint in the codes of AWQ or GPTQ",
    CHECKPOINT: "a checkpoint in safetensors",
}  # fmt: skip


def graphs(names: Iterable[str]) -> list[str]:
    """The ONNX graphs."""
    return sorted(name for name in names if name.endswith(".onnx"))


def _needed(names: Iterable[str], variant: Variant) -> list[str]:
    """Every file of the variant that its names tell."""
    if variant.format in (CODES, CHECKPOINT):
        return checkpoint(names)
    if variant.format == ONNX:  # weights beyond 2 GB lie beside the graph, as model.onnx_data
        return sorted(name for name in names if name.startswith(variant.file))
    part = PART.fullmatch(variant.file)
    if part is None:
        return [variant.file]
    return [f"{part[1]}-{number:05}-of-{part[3]}.gguf" for number in range(1, int(part[3]) + 1)]


def _quants(names: Sequence[str]) -> list[str]:
    """Quantisations, where the names tell them all, and else the names."""
    found = [quant_of(name) for name in names]
    return sorted(set(found)) if all(found) else list(names)


def _spelt(where: str, names: Sequence[str]) -> list[str]:
    """How each of several GGUF files is named as MODEL."""
    quants = [quant_of(name) for name in names]
    if all(quants) and len(set(quants)) == len(quants):
        return [f"{where}:{quant}" for quant in quants]
    return [f"{where}/{name}" for name in names]
