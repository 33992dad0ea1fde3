"""Writes checkpoints of the Llama family as GGUF, the format of llama.cpp: metadata, vocabulary, tensors.

Names and meanings are those of the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md). What is read back has
the rows of the original: so every value of config.json and every tensor is either written, or known to change no row,
or refused by name.
"""

from __future__ import annotations

import io
import math
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import ModelError
from airdraft.models.gguf_tokenizer import add_tokenizer
from airdraft.models.imports.checkpoint import Checkpoint
from airdraft.models.imports.quants import FORMATS, Bytes
from airdraft.models.imports.read import KEYS_AT
from airdraft.models.llama import Llama, paired
from airdraft.models.text import tokenizer_file

WeightType = Literal["f32", "f16", "q8_0"]

_CHAT = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class AsGguf(Checkpoint):
    """A checkpoint as the GGUF file would be that is made of it: its words, and its order of queries' and keys' rows.

    Weights stay where they are, and are read row by row.
    """

    def __init__(self, folder: Path, tokenizer: bool = True) -> None:
        """tokenizer: whether the metadata's bytes are to hold it. Raises: `ModelError` as `Checkpoint` does."""
        super().__init__(folder)
        self._tokenizer = tokenizer
        for stem, order in self.orders.items():
            self._unordered(f"{stem}.weight", np.argsort(order))
        self.orders.clear()
        if self.family() == "llama":
            heads = {"attn_q": self.llama.heads, "attn_k": self.llama.kv_heads}
            for name, there in self.tensors.items():
                stem = name.split(".")[-2]
                if stem in heads:
                    order = paired(np.arange(there.shape[0]), heads[stem])
                    self._rows[there.start] = partial(_reordered, self._rows[there.start], order, len(there.shape))

    def _unordered(self, name: str, places: NDArray[np.int64]) -> None:
        """Give a matrix its channels in the model's order, in plain numbers: its codes lie in another one."""
        there = self.tensors[name]
        rows = self._rows[there.start]
        self._add(
            name, FORMATS[0], there.shape,
            lambda first, stop: np.ascontiguousarray(there.format.dense(rows(first, stop))[:, places]).view(np.uint8),
        )  # fmt: skip

    def writer(self) -> Any:
        """A `gguf.GGUFWriter` that has all but the tensors. Raises: `ModelError` for what GGUF has no words for."""
        try:
            import gguf  # noqa: PLC0415  # an extra
        except ImportError as problem:
            raise ModelError("writing GGUF needs the package gguf; install it, `pip install gguf`") from problem
        writer = gguf.GGUFWriter(None, self.family())
        writer.add_name(self.path.resolve().name)
        _add_sizes(writer, self.llama)
        if self._tokenizer:
            add_tokenizer(writer, self.path, self.facts, self.llama.bos)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        return writer

    def metadata_bytes(self) -> tuple[int, bytes]:
        import gguf  # noqa: PLC0415  # an extra

        writer = self.writer()
        writer.add_file_type(0)
        found = io.BytesIO()
        writer.fout, writer.state = [found], gguf.gguf_writer.WriterState.EMPTY
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        return len(writer.kv_data[0]), found.getvalue()[KEYS_AT:]


def _reordered(rows: Callable[[int, int], Bytes], order: NDArray[np.int64], dims: int, first: int, stop: int) -> Bytes:
    """Bytes of rows `first` to `stop` in an order; of a vector all its numbers."""
    if dims == 2:
        return rows(0, len(order))[order[first:stop]]
    return rows(0, 1).reshape(len(order), -1)[order].reshape(1, -1)


def write_gguf(folder: Path, out: Path, weights: WeightType = "f32") -> None:
    """Writes the checkpoint in `folder` (config.json, safetensors, tokenizer.json) to `out`, a tensor at a time.

    Matrices are stored as `weights`, norms and biases always in fp32. Files that make a folder a model, tokenizer.json,
    the configs and the chat template, are copied beside `out`, so that its folder can be loaded.
    Raises: `ModelError` if the extra or a file is missing, or the model is none that this writer knows.
    """
    if weights not in get_args(WeightType):
        raise ModelError(f"no weight type {weights!r}; there are {', '.join(get_args(WeightType))}")
    source = AsGguf(folder)
    writer = source.writer()
    import gguf  # noqa: PLC0415  # an extra

    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[weights])  # gguf.LlamaFileType
    kinds = {name: "F32" if len(each.shape) == 1 else weights.upper() for name, each in source.tensors.items()}
    stored = {name: gguf.GGMLQuantizationType[kind] for name, kind in kinds.items()}
    for name, there in source.tensors.items():
        form = FORMATS[stored[name].value]
        if there.shape[-1] % form.values:
            raise ModelError(
                f"{name} of {folder} cannot be {weights}, whose rows are whole pieces of {form.values}; choose f16"
            )
        size = form.row_bytes(there.shape[-1]) * math.prod(there.shape[:-1])
        writer.add_tensor_info(name, there.shape, np.dtype(np.float32), size, raw_dtype=stored[name])
    part = out.with_name(f"{out.name}.part")  # what was there stays until the new one is complete
    try:
        beside = _beside(folder, out)
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, kind in stored.items():
            with np.errstate(over="raise"):
                writer.write_tensor_data(gguf.quantize(source.numbers(name), kind))
        writer.close()  # and flush, before it is in its place
        for file in beside:
            shutil.copyfile(file, out.parent / file.name)
        os.replace(part, out)
    except FloatingPointError as problem:
        raise ModelError(f"{name} of {folder} has numbers beyond {weights}; choose f32") from problem
    except OSError as problem:
        raise ModelError(f"{out} cannot be written ({problem.strerror}); choose another place") from problem
    finally:
        writer.close()
        if part.is_file():
            part.unlink()


def _add_sizes(writer: Any, llama: Llama) -> None:
    writer.add_context_length(llama.facts.max_context)
    writer.add_vocab_size(llama.facts.vocab_size)
    writer.add_embedding_length(llama.hidden)
    writer.add_block_count(llama.layers)
    writer.add_feed_forward_length(llama.inner)
    writer.add_layer_norm_rms_eps(llama.norm_eps)
    writer.add_head_count(llama.heads)
    writer.add_head_count_kv(llama.kv_heads)
    writer.add_key_length(llama.head_dim)
    writer.add_value_length(llama.head_dim)
    writer.add_rope_dimension_count(llama.head_dim)
    writer.add_rope_freq_base(llama.rope.theta)
    if llama.rope.kind == "linear":
        import gguf  # noqa: PLC0415  # an extra

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(llama.rope.numbers["factor"])


def _beside(folder: Path, out: Path) -> list[Path]:
    """What to copy beside `out`. Raises: `ModelError` if another model's files are there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    files = [tokenizer_file(folder), *(folder / name for name in ("config.json", "generation_config.json", *_CHAT))]
    missing = [file for file in files if file.is_file() and not (out.parent / file.name).exists()]
    for file in files:
        there = out.parent / file.name
        # One that only the other model has would be read as this one's, too.
        if there.exists() and (not file.is_file() or there.read_bytes() != file.read_bytes()):
            raise ModelError(
                f"{out.parent} holds another model's {file.name}; choose a folder of its own for {out.name}"
            )
    return missing
