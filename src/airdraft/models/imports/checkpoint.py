"""Checkpoints in safetensors, read as GGUF files are: plain ones, and those of AWQ and GPTQ, code for code.

A file of safetensors has a header in JSON that tells where each tensor lies. It is read here, because the library's
side for NumPy knows no BF16. Matrices in codes have three tensors or four (AutoAWQ's `gemm`, GPTQ's `gptq` and
`gptq_v2`), for `in` channels and `out` rows, with several codes in each 32-bit number, the first in its lowest bits:

- AWQ: qweight [in, out / 8] and qzeros [groups, out / 8] have rows 0 2 4 6 1 3 5 7 of eight together.
- GPTQ: qweight [in / n, out] and qzeros [groups, out / n]; g_idx [in] tells each channel's group, which act-order
  makes any. `gptq` stores zeros less 1, `gptq_v2` as they are.

A weight is scale · (code - zero). Codes are kept; scales and zeros become those of blocks, whose lengths kernels take.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import ModelError, first_line
from airdraft.models.files.config import ModelConfig, read_config, read_json, shown, whole
from airdraft.models.files.weights import checkpoint
from airdraft.models.imports.quants import FORMATS, Bytes, Format, blocked
from airdraft.models.imports.read import GgufFile, GgufTensor
from airdraft.models.llama import COMPUTED, CONVERT, Llama, llama_of

_DTYPES = {"F32": ("<f4", 0), "F16": ("<f2", 1), "BF16": ("<u2", 30), "I32": ("<i4", None)}
"""How numbers lie in a file, and the number of their format among `FORMATS`."""
_MOST_HEADER = 100_000_000
"""Bytes, as in the library."""
_AWQ_ROWS = np.array([0, 2, 4, 6, 1, 3, 5, 7])
_GPTQ = {"gptq": 1, "gptq_v2": 0}
"""What is added to zeros, by the checkpoint's format."""
_BITS = {"awq": (4,), "gptq": (2, 4, 8)}
_CODED = ("qweight", "qzeros", "scales", "g_idx")
_LEAST_BLOCK, _MOST_BLOCK = 16, 256
"""Values of a row that may share a scale in the engine."""
_OF_CODES = "fetch a GGUF file of the model, or use --engine hf with a library that reads such codes"
_MISTRAL, _OF_MISTRAL = "MistralForCausalLM", ("model_type", "architectures", "sliding_window")
_QWEN = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

Array = NDArray[Any]


@dataclass(frozen=True)
class _Packing:
    """How matrices in codes are stored."""

    method: str
    bits: int
    group: int
    """Channels that share a scale; -1: all."""
    added: int = 0
    """To what is stored of zeros."""

    def rows(self, packed: Array) -> Array:
        """Numbers of [any, out / n] that hold n rows each, as [any, out]."""
        found = _unpacked(packed, self.bits)
        if self.method == "awq":
            made = np.empty_like(found)
            made[..., _AWQ_ROWS] = found
            found = made
        return found.reshape(len(packed), -1)

    def codes(self, packed: Array) -> Array:
        """Codes [in, out]."""
        if self.method == "awq":
            return self.rows(packed)
        return _unpacked(packed, self.bits).swapaxes(1, 2).reshape(-1, packed.shape[1])


class Checkpoint(GgufFile):
    """The checkpoint in a folder, with the names and metadata that a GGUF file would have.

    Rows of queries and keys stay in the checkpoint's order, so its decoder is not `paired`.
    """

    def __init__(self, folder: Path) -> None:
        """Raises: `ModelError` if it is none, or in a form that is not known here."""
        self.path = folder
        self._packing, family, self.llama = _described(folder)
        self.facts = self.llama.facts
        self._stored = _stored(folder)
        self.size = sum(each.nbytes for each in self._stored.values())
        self.orders: dict[str, NDArray[np.int64]] = {}
        """By matrix the order in which it takes its channels, where that is not theirs."""
        self.metadata = _metadata(family, self.llama, self.facts, folder)
        self.tensors = {}
        self._rows: list[Callable[[int, int], Bytes]] = []
        self._place(family, self.llama)

    def raw(self, tensor: GgufTensor, first: int = 0, rows: int | None = None) -> Bytes:
        count = tensor.shape[0] if len(tensor.shape) == 2 else 1
        stop = count if rows is None else min(first + rows, count)
        found: Bytes = self._rows[tensor.start](first, stop)
        return found

    def _place(self, family: str, llama: Llama) -> None:
        left = {name for name in self._stored if not name.endswith(COMPUTED)}
        if llama.tied:
            left.discard("lm_head.weight")
        for name, (there, shape, _) in _wanted(family, llama).items():
            stem = name.removesuffix(".weight")
            if name in left:
                left.discard(name)
                self._plain(name, there, shape)
            elif f"{stem}.qweight" in left:
                left -= {f"{stem}.{part}" for part in _CODED}
                self._coded(stem, there, shape)
            else:
                raise self._broken(f"lacks {name}, which its config wants")
        if left:
            raise self._broken(f"has {shown(min(left))}, which is no part of such a model")
        factors = llama.rope.factors(llama.head_dim)
        if factors is not None:
            self._add("rope_freqs.weight", FORMATS[0], factors.shape, lambda first, stop: factors[None].view(np.uint8))

    def _plain(self, name: str, there: str, shape: tuple[int, ...]) -> None:
        stored = self._stored[name]
        number = _DTYPES[stored.kind][1]
        if stored.array.shape != shape or number is None:
            raise self._broken(
                f"has {name} as {stored.kind} of shape {stored.array.shape}, and its config wants {shape}"
            )
        table = stored.array.reshape(shape if len(shape) == 2 else (1, -1))
        self._add(there, FORMATS[number], shape, lambda first, stop: table[first:stop].view(np.uint8))

    def _coded(self, stem: str, there: str, shape: tuple[int, ...]) -> None:
        packing = self._packing
        if packing is None:
            raise self._broken(f"has codes of {stem}, and config.json has no quantization_config")
        out, channels = shape
        group = channels if packing.group == -1 else packing.group
        groups, several = channels // group, 32 // packing.bits
        block = min(group & -group, _MOST_BLOCK)
        if channels % group or block < _LEAST_BLOCK or channels % several or out % several:
            raise self._broken(f"has groups of {group} of {channels} channels in {stem}, which no kernel here takes")
        sizes = {"qweight": (channels, out // several), "qzeros": (groups, out // several), "scales": (groups, out)}
        if packing.method == "gptq":
            sizes["qweight"] = channels // several, out
        qweight, qzeros, scales = (self._part(f"{stem}.{part}", size) for part, size in sizes.items())
        order = self._order(stem, channels, group)
        if order is not None:
            self.orders[there.removesuffix(".weight")] = order
        bits = 8 if packing.bits == 8 else 4
        middle = 1 << bits - 1
        zeros = (packing.rows(qzeros) + packing.added) % (1 << packing.bits)
        minima = None if (zeros == middle).all() else np.repeat(middle - zeros.astype(np.float32), group // block, 0)
        steps = np.repeat(scales.astype(np.float32), group // block, 0)
        if not np.isfinite(steps).all():
            raise self._broken(f"has scales of {stem} that are no numbers")
        columns = 1 if packing.method == "gptq" else several

        def rows(first: int, stop: int) -> Bytes:
            begin, end = first // columns, -(-stop // columns)
            codes = packing.codes(qweight[:, begin:end])[:, first - begin * columns : stop - begin * columns]
            codes = (codes if order is None else codes[order]).T.reshape(stop - first, -1, block).astype(np.uint8)
            body = codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << np.uint8(4)
            parts = [steps[:, first:stop].T]
            if minima is not None:
                parts.append(parts[0] * minima[:, first:stop].T)
            heads = [np.ascontiguousarray(each, "<f4").view(np.uint8).reshape(*each.shape, 4) for each in parts]
            return np.concatenate([*heads, body], -1).reshape(stop - first, -1)

        name = f"{packing.method.upper()} {packing.bits} bits"
        self._add(there, blocked(name, bits, block, minima is not None), shape, rows)

    def _order(self, stem: str, channels: int, group: int) -> NDArray[np.int64] | None:
        """The channels, group after group, unless they lie so. Raises: `ModelError` if groups are not of one size."""
        if f"{stem}.g_idx" not in self._stored:
            return None
        of = self._part(f"{stem}.g_idx", (channels,))
        each = np.arange(channels) // group
        if (of == each).all():
            return None
        order = np.argsort(of, kind="stable")
        if (of[order] != each).any():
            raise self._broken(f"has channels of {stem} in groups that are not of {group}")
        return order

    def _part(self, name: str, shape: tuple[int, ...]) -> Array:
        stored = self._stored.get(name)
        if stored is None:
            raise self._broken(f"lacks {name}")
        if stored.array.shape != shape or (stored.kind == "I32") == name.endswith("scales"):
            raise self._broken(f"has {name} as {stored.kind} of shape {stored.array.shape}, not {shape}")
        if stored.kind == "BF16":
            return FORMATS[30].dense(stored.array.view(np.uint8)).reshape(shape)
        return stored.array

    def _add(self, name: str, form: Format, shape: tuple[int, ...], rows: Callable[[int, int], Bytes]) -> None:
        size = form.row_bytes(shape[-1]) * math.prod(shape[:-1])
        self.tensors[name] = GgufTensor(form, shape, len(self._rows), size)
        self._rows.append(rows)

    def _broken(self, what: str) -> ModelError:
        return ModelError(f"{self.path} {what}; fetch it again")


def _unpacked(packed: Array, bits: int) -> Array:
    """Numbers of 32 bits [...] as the fields in them, [..., 32 / bits], the lowest first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return (packed.view(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)).astype(np.int32)


def check_described(folder: Path) -> ModelConfig:
    """The facts of a checkpoint whose config.json tells of nothing that is not known here. Raises: `ModelError`."""
    return _described(folder)[2].facts


def _described(folder: Path) -> tuple[_Packing | None, str, Llama]:
    """What config.json says: how codes are stored, the family, and the decoder. Raises: `ModelError`."""
    facts, where = read_config(folder), folder / "config.json"
    config = read_json(where)
    packing = _packing(config.pop("quantization_config", None), where)
    return packing, *_decoder(config, where, facts, _OF_CODES if packing else CONVERT)


def _packing(said: Any, where: Path) -> _Packing | None:
    """What a config says of codes. Raises: `ModelError` naming what is not known."""
    if said is None:
        return None
    if not isinstance(said, dict):
        raise ModelError(f"{where} says quantization_config = {shown(said)}; it must be an object")

    def refuse(what: str, value: Any, known: str) -> ModelError:
        return ModelError(f"{where} says {what} = {shown(value)} of its codes, and read here are {known}; take another")

    method = said.get("quant_method")
    if not isinstance(method, str) or method not in _BITS:
        raise refuse("quant_method", method, ", ".join(_BITS))
    bits, group = said.get("bits", said.get("w_bit")), said.get("group_size", said.get("q_group_size"))
    if type(bits) is not int or bits not in _BITS[method]:
        raise refuse("bits", bits, ", ".join(map(str, _BITS[method])))
    if type(group) is not int or not (group == -1 or 0 < group < 1 << 24):
        raise refuse("group_size", group, "sizes above 0, and -1")
    form = said.get("checkpoint_format" if method == "gptq" else "version") or ("gptq" if method == "gptq" else "gemm")
    forms = tuple(_GPTQ) if method == "gptq" else ("gemm",)
    if str(form).lower() not in forms:
        raise refuse("checkpoint_format" if method == "gptq" else "version", form, ", ".join(forms))
    for name, plain in (("dynamic", {}), ("is_marlin_format", False), ("pack_dtype", "int32"), ("zero_point", True)):
        value = said.get(name)
        if value not in (None, plain):
            raise refuse(name, value, str(plain))
    return _Packing(method, bits, group, _GPTQ.get(str(form).lower(), 0) if method == "gptq" else 0)


@dataclass(frozen=True)
class _Stored:
    kind: str
    array: Array

    @property
    def nbytes(self) -> int:
        return int(self.array.nbytes)


def _stored(folder: Path) -> dict[str, _Stored]:
    """All tensors of a folder's files of safetensors, mapped. Raises: `ModelError`."""
    names = [name for name in checkpoint(path.name for path in folder.iterdir()) if name.endswith(".safetensors")]
    if not names:
        raise ModelError(f"{folder} has no model.safetensors; name a folder with one, or a GGUF file")
    found: dict[str, _Stored] = {}
    for name in names:
        found |= _mapped(folder / name)
    return found


def _mapped(path: Path) -> dict[str, _Stored]:
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + min(length, _MOST_HEADER)])
        header.pop("__metadata__", None)
        return {name: _tensor(data, 8 + length, **each) for name, each in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ModelError(f"{path} cannot be read ({first_line(problem)}); fetch it again") from problem


def _tensor(data: mmap.mmap, begin: int, dtype: str, shape: list[int], data_offsets: list[int]) -> _Stored:
    """What an entry of a header tells of. Raises: `ValueError` or `TypeError`."""
    if dtype not in _DTYPES:
        raise ValueError(f"it has numbers of type {shown(dtype)}, and read here are {', '.join(_DTYPES)}")
    kind = np.dtype(_DTYPES[dtype][0])
    first, stop = data_offsets
    if not all(type(n) is int and 0 < n < 1 << 40 for n in shape) or type(first) is not int or first < 0:
        raise ValueError("it has a tensor without a shape or a place")
    if stop - first != math.prod(shape) * kind.itemsize:
        raise ValueError("it has a tensor of another size than its shape says")
    return _Stored(dtype, np.frombuffer(data, kind, math.prod(shape), begin + first).reshape(shape))


def _decoder(config: dict[str, Any], where: Path, facts: ModelConfig, remedy: str) -> tuple[str, Llama]:
    """The family, and the decoder as if it were a Llama. Raises: `ModelError` for what is not known."""
    family = config.get("model_type")
    if family == "mistral":  # a Llama that looks back a part of the way: within it, it is one
        window = whole(config, where, "sliding_window")
        facts = facts if window is None else replace(facts, max_context=min(window, facts.max_context))
        if config.get("architectures") not in (None, [_MISTRAL]):
            raise ModelError(f"{where} has architectures = {shown(config['architectures'])}, which is not known here")
        family = "llama"
        config = {name: value for name, value in config.items() if name not in _OF_MISTRAL}
    if family in _QWEN:
        if config.get("architectures") not in (None, [_QWEN[family]]):
            raise ModelError(f"{where} has architectures = {shown(config['architectures'])}, which is not known here")
        windows = config.pop("use_sliding_window", None), set(config.pop("layer_types", None) or ["full_attention"])
        if windows[0] or windows[1] != {"full_attention"}:
            raise ModelError(f"{where} has layers that look back a part of the way, which are not known here")
        for name in ("sliding_window", "max_window_layers", "use_mrope", "model_type", "architectures"):
            config.pop(name, None)
        if family == "qwen2":
            config.pop("attention_bias", None)
    llama = llama_of(config, where, facts, remedy)
    return str(family), llama


def _wanted(family: str, llama: Llama) -> dict[str, tuple[str, tuple[int, ...], int | None]]:
    """The tensors of a family, see `Llama.tensors`."""
    found = replace(llama, attention_bias=True).tensors() if family == "qwen2" else llama.tensors()
    if family == "qwen2":  # has no bias behind attention
        found = {name: each for name, each in found.items() if not name.endswith("o_proj.bias")}
    if family == "qwen3":
        for layer in range(llama.layers):
            for part in "qk":
                own = f"model.layers.{layer}.self_attn.{part}_norm.weight"
                found[own] = f"blk.{layer}.attn_{part}_norm.weight", (llama.head_dim,), None
    return found


def _metadata(family: str, llama: Llama, facts: ModelConfig, folder: Path) -> dict[str, Any]:
    """What a GGUF file would say."""
    told: dict[str, Any] = {
        "block_count": llama.layers, "context_length": facts.max_context, "embedding_length": llama.hidden,
        "feed_forward_length": llama.inner, "attention.head_count": llama.heads,
        "attention.head_count_kv": llama.kv_heads, "attention.key_length": llama.head_dim,
        "attention.value_length": llama.head_dim, "attention.layer_norm_rms_epsilon": llama.norm_eps,
        "rope.freq_base": llama.rope.theta,
    }  # fmt: skip
    if llama.rope.kind == "linear":
        told |= {"rope.scaling.type": "linear", "rope.scaling.factor": llama.rope.numbers["factor"]}
    return {
        "general.architecture": family, "general.name": folder.resolve().name,
        **{f"{family}.{key}": value for key, value in told.items()},
    }  # fmt: skip
