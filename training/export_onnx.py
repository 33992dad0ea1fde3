"""Writes `model.onnx` for a Llama folder: standard ops only, weights left where they are in `model.safetensors`.

`build` takes the matrices in any form, see `Matrices`; `export_blocks` has one of few bits.

ONNX lets an initializer point at a byte range of another file, and a safetensors file is raw little-endian
tensors after a JSON header: so the graph refers to the ranges and the weights are stored once. The [out, in]
matrices pass through Concat and Transpose, which onnxruntime folds into constants when it loads the model.

Inputs:  input_ids [batch, n], attention_mask [batch, past + n], position_ids [batch, n] (int64),
         past_key_values.{i}.key / .value [batch, heads, past, head_dim] (fp32),
         tree_mask [batch, 1, n, past + n] (fp32), which may be left out: added to the scores of attention, see
         `airdraft/models/engines/onnx_trees.py`
Outputs: logits [batch, n, vocab], present.{i}.key / .value [batch, heads, past + n, head_dim]
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from airdraft.models.engines.onnx_trees import MASK, NEUTRAL
from training.model import Config, config_from_hf

OPSET = 17  # the first with everything used here; every onnxruntime since 1.13 runs it
IR_VERSION = 8
_TABLED = 1024  # positions
_MASKED = -1e9  # finite, so that a row of padding gives a uniform softmax instead of NaN


class Graph:
    """Collects nodes and constants; every method returns the name of the tensor it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[bytes, str] = {}

    def op(self, kind: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> list[str]:
        base = name or f"{kind}_{len(self.nodes)}"
        names = [base] if outputs == 1 else [f"{base}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"node_{base}", **attributes))
        return names

    def one(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        return self.op(kind, *inputs, name=name, **attributes)[0]

    def constant(self, value: np.ndarray) -> str:
        key = str(value.dtype).encode() + str(value.shape).encode() + value.tobytes()
        if key not in self._constants:
            self._constants[key] = f"const_{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(value, self._constants[key]))
        return self._constants[key]

    def ints(self, *values: int) -> str:
        return self.constant(np.asarray(values, dtype=np.int64))

    def number(self, value: float) -> str:
        return self.constant(np.asarray(value, dtype=np.float32))


class Matrices(Protocol):
    """How a graph's matrices are stored and multiplied with."""

    def lookup(self, g: Graph, name: str, ids: str) -> str:
        """The rows `ids` of a matrix."""
        ...

    def product(self, g: Graph, x: str, *names: str, out: str = "") -> str:
        """x times the [out, in] matrices stacked: one wide product beats several narrow ones at n = 1."""
        ...


class Plain:
    """Matrices in fp32, each an initializer."""

    def lookup(self, g: Graph, name: str, ids: str) -> str:
        """See `Matrices`."""
        return g.one("Gather", name, ids)

    def product(self, g: Graph, x: str, *names: str, out: str = "") -> str:
        """See `Matrices`."""
        stacked = names[0] if len(names) == 1 else g.one("Concat", *names, axis=0)
        return g.one("MatMul", x, g.one("Transpose", stacked, perm=[1, 0]), name=out)


def weight_ranges(path: Path) -> dict[str, tuple[list[int], int, int]]:
    """Tensor name -> (shape, byte offset in the file, byte length) of a safetensors file."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    ranges = {}
    for name, entry in header.items():
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} is {entry['dtype']}, the graph expects F32")
        start, end = entry["data_offsets"]
        ranges[name] = (entry["shape"], 8 + size + start, end - start)
    return ranges


def reference(
    name: str, shape: Sequence[int], location: str, offset: int, length: int, kind: int = TensorProto.FLOAT
) -> onnx.TensorProto:
    """An initializer whose bytes lie in the file `location`."""
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _norm(g: Graph, x: str, weight: str, eps: float) -> str:
    """RMSNorm, spelt so that onnxruntime fuses it into one kernel."""
    square = g.one("Pow", x, g.number(2.0))
    mean = g.one("ReduceMean", square, axes=[-1], keepdims=1)
    root = g.one("Sqrt", g.one("Add", mean, g.number(eps)))
    return g.one("Mul", g.one("Div", x, root), weight)


def _rotate(g: Graph, x: str, cos: str, sin: str) -> str:
    """Rotate-half RoPE on [batch, heads, n, head_dim]; cos and sin are [batch, 1, n, head_dim / 2]."""
    left, right = g.op("Split", x, outputs=2, axis=-1)
    first = g.one("Sub", g.one("Mul", left, cos), g.one("Mul", right, sin))
    second = g.one("Add", g.one("Mul", right, cos), g.one("Mul", left, sin))
    return g.one("Concat", first, second, axis=-1)


def _turns(g: Graph, config: Config) -> tuple[str, str]:
    """cos and sin of RoPE, [batch, 1, n, head_dim / 2]: looked up where the tables are small, computed otherwise."""
    steps = config.rope_theta ** -(np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    if config.context <= _TABLED:
        angles = np.outer(np.arange(config.context, dtype=np.float64), steps)
        cos, sin = (
            g.one("Unsqueeze", g.one("Gather", g.constant(table.astype(np.float32)), "position_ids"), g.ints(1))
            for table in (np.cos(angles), np.sin(angles))
        )
        return cos, sin
    places = g.one("Unsqueeze", g.one("Cast", "position_ids", to=TensorProto.FLOAT), g.ints(1, 3))
    turned = g.one("Mul", places, g.constant(steps.astype(np.float32)))
    return g.one("Cos", turned), g.one("Sin", turned)


def _mask(g: Graph) -> str:
    """Additive mask [batch, 1, n, past + n]: 0 where a query may look, a large negative number elsewhere."""
    zero, one = g.constant(np.asarray(0, np.int64)), g.constant(np.asarray(1, np.int64))
    n = g.one("Gather", g.one("Shape", "input_ids"), one)
    total = g.one("Gather", g.one("Shape", "attention_mask"), one)
    keys = g.one("Range", zero, total, one)
    queries = g.one("Unsqueeze", g.one("Range", g.one("Sub", total, n), total, one), g.ints(1))
    causal = g.one("LessOrEqual", keys, queries)  # [n, past + n]
    real = g.one("Unsqueeze", g.one("Cast", "attention_mask", to=TensorProto.BOOL), g.ints(1, 2))
    mask = g.one("Where", g.one("And", causal, real), g.number(0.0), g.number(_MASKED))
    g.initializers.append(numpy_helper.from_array(NEUTRAL[MASK], MASK))
    return g.one("Add", mask, MASK)


def build(
    config: Config, initializers: Sequence[onnx.TensorProto], matrices: Matrices, keep: bool = False
) -> onnx.ModelProto:
    """The graph of one model; the initializers hold its norms, and whatever `matrices` takes.

    keep: whether it has an input `num_logits_to_keep`, the positions at the end that are scored; else all are.
    """
    if config.keys != config.heads:
        raise ValueError("the graph has no shared heads of keys and values")
    g = Graph()
    g.initializers.extend(initializers)
    cos, sin = _turns(g, config)
    mask = _mask(g)
    x = matrices.lookup(g, "model.embed_tokens.weight", "input_ids")
    split_heads = g.ints(0, 0, config.heads, config.head_dim)
    for i in range(config.layers):
        prefix = f"model.layers.{i}"
        h = _norm(g, x, f"{prefix}.input_layernorm.weight", config.eps)
        qkv = matrices.product(g, h, *(f"{prefix}.self_attn.{part}_proj.weight" for part in "qkv"))
        q, k, v = (
            g.one("Transpose", g.one("Reshape", part, split_heads), perm=[0, 2, 1, 3])
            for part in g.op("Split", qkv, outputs=3, axis=-1)
        )
        q, k = _rotate(g, q, cos, sin), _rotate(g, k, cos, sin)
        k = g.one("Concat", f"past_key_values.{i}.key", k, axis=2, name=f"present.{i}.key")
        v = g.one("Concat", f"past_key_values.{i}.value", v, axis=2, name=f"present.{i}.value")
        q = g.one("Mul", q, g.number(1.0 / math.sqrt(config.head_dim)))
        scores = g.one("MatMul", q, g.one("Transpose", k, perm=[0, 1, 3, 2]))
        share = g.one("Softmax", g.one("Add", scores, mask), axis=-1)
        y = g.one("Transpose", g.one("MatMul", share, v), perm=[0, 2, 1, 3])
        y = g.one("Reshape", y, g.ints(0, 0, config.width))
        x = g.one("Add", x, matrices.product(g, y, f"{prefix}.self_attn.o_proj.weight"))
        h = _norm(g, x, f"{prefix}.post_attention_layernorm.weight", config.eps)
        both = matrices.product(g, h, f"{prefix}.mlp.gate_proj.weight", f"{prefix}.mlp.up_proj.weight")
        gate, up = g.op("Split", both, outputs=2, axis=-1)
        h = g.one("Mul", g.one("Mul", gate, g.one("Sigmoid", gate)), up)
        x = g.one("Add", x, matrices.product(g, h, f"{prefix}.mlp.down_proj.weight"))
    if keep:  # a head of a large vocabulary is most of a small model
        first = g.one("Unsqueeze", g.one("Neg", "num_logits_to_keep"), g.ints(0))
        x = g.one("Slice", x, first, g.ints(np.iinfo(np.int64).max), g.ints(1))
    x = _norm(g, x, "model.norm.weight", config.eps)
    matrices.product(g, x, "model.embed_tokens.weight" if config.tied else "lm_head.weight", out="logits")
    return _model(g, config, keep)


def _model(g: Graph, config: Config, keep: bool) -> onnx.ModelProto:
    def value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(shape))

    cache = ("batch", config.heads)
    inputs = [
        value("input_ids", TensorProto.INT64, "batch", "n"),
        value("attention_mask", TensorProto.INT64, "batch", "past+n"),
        value("position_ids", TensorProto.INT64, "batch", "n"),
    ]
    if keep:
        inputs.append(value("num_logits_to_keep", TensorProto.INT64))
    inputs.append(value(MASK, TensorProto.FLOAT, *(f"{MASK}_{axis}" for axis in range(NEUTRAL[MASK].ndim))))
    outputs = [value("logits", TensorProto.FLOAT, "batch", "n", config.vocab)]
    for i in range(config.layers):
        for part in ("key", "value"):
            name = f"past_key_values.{i}.{part}"
            inputs.append(value(name, TensorProto.FLOAT, *cache, "past", config.head_dim))
            outputs.append(value(f"present.{i}.{part}", TensorProto.FLOAT, *cache, "past+n", config.head_dim))
    graph = helper.make_graph(g.nodes, "llama", inputs, outputs, g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="airdraft")
    model.ir_version = IR_VERSION
    return model


def export(folder: Path) -> Path:
    """Writes `folder/model.onnx` from `folder/config.json` and `folder/model.safetensors`."""
    config = config_from_hf((folder / "config.json").read_text("utf-8"))
    name = "model.safetensors"
    weights = [
        reference(tensor, shape, name, *place) for tensor, (shape, *place) in weight_ranges(folder / name).items()
    ]
    model = build(config, weights, Plain())
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
