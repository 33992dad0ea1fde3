"""Writes a small model folder for ONNX Runtime: matrices of 8 and 4 bits in `model.onnx.data`, each stored once.

The layers have 8 bits. The embedding is the head as well and most of a draft's weights. Its columns are sorted: by
training, the first ones carry most of what tells tokens apart. So the first `near` columns have 8 bits and the others
4. Each column is divided by the root of its spread before, so that none is lost beside a large one of its block; the
factors return in the last norm, and in a product after the lookup.

`MatMulNBits` is told to compute with 8-bit activations (`accuracy_level` 4): the exact way has no fast kernel for
8-bit weights on every CPU, and a draft may be wrong by a rounding. Rows so differ by where they stand in a call.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file

from training.blocks import Blocks, quantise
from training.errors import UserError
from training.export_onnx import Graph, build, reference
from training.model import Config, config_from_hf

CONTEXT = 8192
"""Positions that the target has. Nothing in the graph bounds them."""
COPIED = ("chat_template.jinja", "tokenizer_config.json")
BLOCK = 32
"""Weights that share a scale."""
_DOMAIN = "com.microsoft"
_ALIGNED = 4096
"""Bytes: ONNX Runtime maps a tensor into memory only from a page's start."""
EMBEDDING = "model.embed_tokens.weight"
_LAST_NORM = "model.norm.weight"


class Store:
    """The file beside the graph that holds tensors, and the initializers that point into it."""

    def __init__(self, name: str) -> None:
        self.name, self.data = name, bytearray()

    def put(self, g: Graph, name: str, array: NDArray[np.uint8] | NDArray[np.float16]) -> str:
        """Append a tensor; returns its name."""
        self.data.extend(bytes(-len(self.data) % _ALIGNED))
        kind = TensorProto.UINT8 if array.dtype == np.uint8 else TensorProto.FLOAT16
        at, raw = len(self.data), array.tobytes()
        g.initializers.append(reference(name, array.shape, self.name, at, len(raw), kind))
        self.data.extend(raw)
        return name


class Few:
    """`Matrices` of 8 bits, but for the last columns of the embedding, which have 4."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], spread: NDArray[np.float32], near: int) -> None:
        """spread: [width], the factor of each column of the embedding. near: columns of 8 bits."""
        self.store = Store("model.onnx.data")
        self._weights, self._spread, self._near = weights, spread, near
        self._parts: list[tuple[Blocks, str, str]] = []

    def lookup(self, g: Graph, name: str, ids: str) -> str:
        """See `Matrices`."""
        columns = self._weights[name] / self._spread
        cuts = [(8, columns[:, : self._near]), (4, columns[:, self._near :])]
        for at, (bits, part) in enumerate((bits, part) for bits, part in cuts if part.shape[1]):
            self._parts.append(self._stored(g, f"{name}.{at}", part, bits))
        rows = [_rows(g, *part, ids) for part in self._parts]
        whole = rows[0] if len(rows) == 1 else g.one("Concat", *rows, axis=-1)
        return g.one("Mul", whole, g.constant(self._spread))

    def product(self, g: Graph, x: str, *names: str, out: str = "") -> str:
        """See `Matrices`."""
        if names == (EMBEDDING,):
            widths = [part[0].width for part in self._parts]
            pieces = [x] if len(widths) == 1 else g.op("Split", x, g.ints(*widths), outputs=len(widths), axis=-1)
            sums = [_times(g, piece, *part) for piece, part in zip(pieces, self._parts, strict=True)]
            return g.one("Identity" if len(sums) == 1 else "Add", *sums, name=out)
        stacked = np.concatenate([self._weights[name] for name in names])
        return _times(g, x, *self._stored(g, "+".join(names), stacked, 8))

    def _stored(self, g: Graph, name: str, matrix: NDArray[np.float32], bits: int) -> tuple[Blocks, str, str]:
        blocks = quantise(matrix, bits, BLOCK)
        scales = self.store.put(g, f"{name}.scales", blocks.scales)
        return blocks, self.store.put(g, f"{name}.codes", blocks.codes), scales


def _times(g: Graph, x: str, blocks: Blocks, codes: str, scales: str) -> str:
    """x times the matrix. The scales become fp32 when the graph is loaded."""
    wide = g.one("Cast", scales, to=TensorProto.FLOAT)
    shape = {"K": blocks.width, "N": len(blocks.codes), "bits": blocks.bits, "block_size": blocks.size}
    return g.one("MatMulNBits", x, codes, wide, domain=_DOMAIN, accuracy_level=4, **shape)


def _rows(g: Graph, blocks: Blocks, codes: str, scales: str, ids: str) -> str:
    """Rows of the matrix, [batch, n, width], from the bytes that `_times` multiplies with."""
    taken = g.one("Gather", codes, ids)  # [batch, n, blocks, size * bits / 8]
    if blocks.bits == 4:
        four = g.constant(np.asarray(4, np.uint8))
        high = g.one("BitShift", taken, four, direction="RIGHT")
        low = g.one("BitShift", g.one("BitShift", taken, four, direction="LEFT"), four, direction="RIGHT")
        pair = g.one("Concat", *(g.one("Unsqueeze", half, g.ints(-1)) for half in (low, high)), axis=-1)
        taken = g.one("Reshape", pair, g.ints(0, 0, blocks.width // blocks.size, blocks.size))
    whole = g.one("Sub", g.one("Cast", taken, to=TensorProto.FLOAT), g.number(2.0 ** (blocks.bits - 1)))
    scale = g.one("Unsqueeze", g.one("Cast", g.one("Gather", scales, ids), to=TensorProto.FLOAT), g.ints(-1))
    return g.one("Reshape", g.one("Mul", whole, scale), g.ints(0, 0, blocks.width))


def export(config: Config, weights: Mapping[str, NDArray[np.float32]], folder: Path, near: int) -> None:
    """Writes `folder/model.onnx` and its data. `weights` by their names in a safetensors file, without a head."""
    if not config.tied:
        raise ValueError("only a model whose head is its embedding")
    # The root: weights are rounded to a share of the largest in their block, and what they meet in the head as well.
    spread = np.sqrt(weights[EMBEDDING].std(axis=0)).astype(np.float32)
    matrices = Few(weights, spread, near)
    norms = {name: tensor for name, tensor in weights.items() if tensor.ndim == 1}
    norms[_LAST_NORM] = norms[_LAST_NORM] * spread
    initializers = [numpy_helper.from_array(tensor, name) for name, tensor in norms.items()]
    model = build(config, initializers, matrices, keep=True)
    model.opset_import.add(domain=_DOMAIN, version=1)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (folder / matrices.store.name).write_bytes(matrices.store.data)


def weights_of(folder: Path) -> tuple[Config, dict[str, NDArray[np.float32]]]:
    """Shape and weights of a trained draft. Raises: `UserError`."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}; name a trained draft with --from, or train one")
    config = config_from_hf((folder / "config.json").read_text("utf-8"))
    tensors = load_file(str(folder / "model.safetensors"))
    return config, {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def folder(source: Path, out: Path, near: int) -> int:
    """Writes the folder that ships from a trained draft; returns its size in bytes.

    The tokenizer and the chat template are those beside the trained draft, else those that `out` has already.
    """
    config, weights = weights_of(source)
    out.mkdir(parents=True, exist_ok=True)
    config = replace(config, context=CONTEXT)
    export(config, weights, out, near)
    (out / "config.json").write_text(config.hf(), "utf-8")
    ids = {"bos_token_id": config.bos, "eos_token_id": config.eos, "pad_token_id": config.eos}
    (out / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n", "utf-8")
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if (source / "tokenizer.json").is_file():
        (out / "tokenizer.json").write_text(
            compact(json.loads((source / "tokenizer.json").read_text("utf-8"))), "utf-8"
        )
    return sum(path.stat().st_size for path in out.iterdir() if path.is_file())


def compact(tokenizer: dict[str, object]) -> str:
    """The JSON of a tokenizer in under half the bytes: no spaces, and merges as `a b` instead of `["a", "b"]`."""
    model = dict(tokenizer["model"])  # type: ignore[call-overload]
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return json.dumps({**tokenizer, "model": model | {"merges": merges}}, ensure_ascii=False, separators=(",", ":"))
