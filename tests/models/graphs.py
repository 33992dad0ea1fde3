"""Writes small random Llama-like decoders as ONNX files: the variants that the shipped pair does not have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Shape:
    """Sizes of a random decoder, and which of the usual variants of the graph to write."""

    vocab: int = 97
    width: int = 32
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    context: int = 64
    half: bool = False
    """fp16 weights, cache and logits."""
    position_ids: bool = True
    """False: the graph counts positions from `attention_mask` itself."""
    batch: bool = True
    """False: the graph takes one sequence at a time."""
    masked: bool = True
    """False: the graph takes no more from `attention_mask` than its length."""
    few_logits: bool = False
    """True: the graph scores only the last `num_logits_to_keep` tokens."""
    extra_input: str | None = None
    """An input that no plain decoder has."""
    seed: int = 0

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class _Builder:
    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.dtype = np.float16 if shape.half else np.float32
        self.random = np.random.default_rng(shape.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def const(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def number(self, value: float) -> str:
        return self.const(np.array(value, self.dtype))

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def weight(self, rows: int, columns: int) -> str:
        return self.const((self.random.standard_normal((rows, columns)) * rows**-0.5).astype(self.dtype))

    def size(self, tensor: str, axis: int) -> str:
        return self.op("Gather", self.op("Shape", tensor), self.ints(axis), axis=0)

    def norm(self, x: str) -> str:
        mean = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1])
        return self.op("Div", x, self.op("Sqrt", self.op("Add", mean, self.number(1e-3))))

    def split_heads(self, x: str, heads: int) -> str:
        x = self.op("Reshape", x, self.ints(0, -1, heads, self.shape.head_dim))
        return self.op("Transpose", x, perm=[0, 2, 1, 3])

    def rotate(self, x: str, cos: str, sin: str) -> str:
        half = self.shape.head_dim // 2
        left = self.op("Slice", x, self.ints(0), self.ints(half), self.ints(3))
        right = self.op("Slice", x, self.ints(half), self.ints(2 * half), self.ints(3))
        turned = self.op("Concat", self.op("Neg", right), left, axis=3)
        return self.op("Add", self.op("Mul", x, cos), self.op("Mul", turned, sin))

    def attention(self, x: str, layer: int, cos: str, sin: str, bias: str) -> str:
        s = self.shape
        narrow = s.kv_heads * s.head_dim
        q = self.rotate(self.split_heads(self.op("MatMul", x, self.weight(s.width, s.width)), s.heads), cos, sin)
        k = self.rotate(self.split_heads(self.op("MatMul", x, self.weight(s.width, narrow)), s.kv_heads), cos, sin)
        v = self.split_heads(self.op("MatMul", x, self.weight(s.width, narrow)), s.kv_heads)
        k = self.op("Concat", f"past_key_values.{layer}.key", k, axis=2, out=f"present.{layer}.key")
        v = self.op("Concat", f"past_key_values.{layer}.value", v, axis=2, out=f"present.{layer}.value")
        shared = self.ints(*(head * s.kv_heads // s.heads for head in range(s.heads)))
        k, v = self.op("Gather", k, shared, axis=1), self.op("Gather", v, shared, axis=1)
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Add", self.op("Mul", scores, self.number(s.head_dim**-0.5)), bias)
        y = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        y = self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), self.ints(0, -1, s.width))
        return self.op("MatMul", y, self.weight(s.width, s.width))

    def feed_forward(self, x: str) -> str:
        gate = self.op("MatMul", x, self.weight(self.shape.width, 2 * self.shape.width))
        gate = self.op("Mul", gate, self.op("Sigmoid", gate))
        return self.op("MatMul", gate, self.weight(2 * self.shape.width, self.shape.width))

    def causal_bias(self) -> str:
        """[batch or 1, 1, n, total]: 0 where a query may look, very negative where it may not."""
        total, n = self.size("attention_mask", 1), self.size("input_ids", 1)
        scalar = self.op("Squeeze", total)
        one = self.const(np.int64(1))
        keys = self.op("Range", self.const(np.int64(0)), scalar, one)
        queries = self.op("Range", self.op("Squeeze", self.op("Sub", total, n)), scalar, one)
        seen = self.op(
            "Unsqueeze", self.op("LessOrEqual", keys, self.op("Unsqueeze", queries, self.ints(1))), self.ints(0, 1)
        )
        if self.shape.masked:
            real = self.op("Cast", "attention_mask", to=TensorProto.BOOL)
            seen = self.op("And", seen, self.op("Unsqueeze", real, self.ints(1, 2)))
        return self.op("Where", seen, self.number(0.0), self.number(-6e4))

    def positions(self) -> str:
        if self.shape.position_ids:
            return "position_ids"
        counted = self.op("CumSum", "attention_mask", self.const(np.int64(1)))
        counted = self.op("Sub", counted, self.ints(1))
        start = self.op("Neg", self.size("input_ids", 1))
        return self.op("Slice", counted, start, self.ints(2**62), self.ints(1))

    def build(self) -> onnx.ModelProto:
        s = self.shape
        angles = np.outer(np.arange(s.context), 10000.0 ** -(np.arange(0, s.head_dim, 2) / s.head_dim))
        angles = np.concatenate([angles, angles], axis=1)
        positions, bias = self.positions(), self.causal_bias()
        tables = [self.const(f(angles).astype(self.dtype)) for f in (np.cos, np.sin)]
        cos, sin = (self.op("Unsqueeze", self.op("Gather", t, positions), self.ints(1)) for t in tables)
        x = self.op("Gather", self.weight(s.vocab, s.width), "input_ids")
        for layer in range(s.layers):
            x = self.op("Add", x, self.attention(self.norm(x), layer, cos, sin, bias))
            x = self.op("Add", x, self.feed_forward(self.norm(x)))
        if s.few_logits:
            start = self.op("Neg", self.op("Unsqueeze", "num_logits_to_keep", self.ints(0)))
            x = self.op("Slice", x, start, self.ints(2**62), self.ints(1))
        self.op("MatMul", self.norm(x), self.weight(s.width, s.vocab), out="logits")

        real = TensorProto.FLOAT16 if s.half else TensorProto.FLOAT
        whole = TensorProto.INT64
        batch: int | str = "batch" if s.batch else 1
        inputs = [("input_ids", whole, [batch, "n"]), ("attention_mask", whole, [batch, "total"])]
        inputs += [("position_ids", whole, [batch, "n"])] if s.position_ids else []
        inputs += [("num_logits_to_keep", whole, [])] if s.few_logits else []
        inputs += [(s.extra_input, whole, [1])] if s.extra_input else []
        outputs = [("logits", real, [batch, "rows", s.vocab])]
        for layer in range(s.layers):
            for part in ("key", "value"):
                inputs.append((f"past_key_values.{layer}.{part}", real, [batch, s.kv_heads, "past", s.head_dim]))
                outputs.append((f"present.{layer}.{part}", real, [batch, s.kv_heads, "total", s.head_dim]))
        graph = helper.make_graph(
            self.nodes,
            "decoder",
            [helper.make_tensor_value_info(*row) for row in inputs],
            [helper.make_tensor_value_info(*row) for row in outputs],
            list(self.constants.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_decoder(folder: Path, shape: Shape, *, hub_layout: bool = False) -> Path:
    """Writes model.onnx (in `onnx/` if `hub_layout`) and config.json; returns `folder`."""
    where = folder / "onnx" if hub_layout else folder
    where.mkdir(parents=True, exist_ok=True)
    onnx.save(_Builder(shape).build(), where / "model.onnx")
    config = {
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def to_int4(model: onnx.ModelProto, block: int = 32) -> onnx.ModelProto:
    """Products with constants become MatMulNBits: blocks of 4-bit numbers, 8 for zero, with a scale each.

    The block is a power of two, and at least 16. Layout of the bytes: ONNX Runtime's ContribOperators.md.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            continue
        x, name = node.input
        columns = numpy_helper.to_array(weights[name]).T
        n, k = columns.shape
        blocks = np.pad(columns, ((0, 0), (0, -k % block))).reshape(n, -1, block)
        scales = np.abs(blocks).max(axis=2, keepdims=True) / 7
        numbers = (np.round(blocks / scales) + 8).astype(np.uint8)
        packed = numpy_helper.from_array(numbers[..., ::2] | numbers[..., 1::2] << 4, f"{name}.int4")
        model.graph.initializer.remove(weights.pop(name))
        model.graph.initializer.extend([packed, numpy_helper.from_array(scales.ravel(), f"{name}.scales")])
        sizes = {"K": k, "N": n, "bits": 4, "block_size": block}
        inputs, domain = [x, f"{name}.int4", f"{name}.scales"], "com.microsoft"
        node.CopyFrom(helper.make_node("MatMulNBits", inputs, list(node.output), domain=domain, **sizes))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model
