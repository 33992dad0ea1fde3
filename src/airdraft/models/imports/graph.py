"""The ONNX graph of a decoder in a GGUF file, with the file's own codes as weights.

Inputs: input_ids [batch, n], position_ids [batch, n], num_logits_to_keep (int64), past_key_values.{i}.key and .value
[batch, kv_heads, room, head_dim]. Outputs: logits [batch, kept, vocab], present.{i}.key and .value, the past with the
new keys and values at their positions: if both are bound to one buffer, nothing is copied. Positions follow each other
from the first one on; what lies in the room beyond a token's own position is not looked at, but must be finite. Inputs
that may be left out are those for trees, see `models/engines/onnx_trees.py`: a token's column need not be its position
then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from airdraft.models.engines.onnx_trees import MASK, NEUTRAL, SHIFT
from airdraft.models.imports.decoder import DecoderFacts, vector
from airdraft.models.imports.matrices import Matrices
from airdraft.models.imports.nodes import CONTRIB, Nodes, Weights
from airdraft.models.imports.quants import Floats
from airdraft.models.imports.read import GgufFile

_MASKED = -1e9  # finite: a row of padding then gives a uniform softmax instead of NaN


class GraphWriter:
    """Writes the graph of one decoder, node by node."""

    def __init__(
        self, file: GgufFile, decoder: DecoderFacts, weights: Weights, matrices: Callable[..., Matrices] = Matrices
    ) -> None:
        """matrices: `Matrices`, or what makes another writer of them from the same arguments."""
        self._file, self._decoder, self._weights = file, decoder, weights
        self._nodes = Nodes()
        self._matrices = matrices(file, decoder, self._nodes, weights)

    def model(self) -> onnx.ModelProto:
        """Write all weights. Returns: the `onnx.ModelProto`."""
        d = self._decoder
        cos, sin = self._turns()
        for name, value in NEUTRAL.items():
            self._nodes.optional(name, value)
        columns = self._nodes.op("Add", "position_ids", SHIFT)
        mask = self._mask(columns)
        self._starts = self._nodes.op("Gather", columns, self._nodes.constant(np.int64(0)), axis=1)
        sizes = self._nodes.op("Shape", "input_ids")
        # Rows of all texts of a call, one below the other: a product and its minima are then one sum.
        x = self._nodes.shape(self._matrices.embeddings(), -1, d.width)
        self._heads = self._nodes.op("Concat", sizes, self._nodes.ints(d.heads + 2 * d.kv_heads, d.head_dim), axis=0)
        h = self._nodes.op(
            "SimplifiedLayerNormalization", x, self._vector("blk.0.attn_norm.weight"), epsilon=d.eps, axis=-1
        )
        for i in range(d.layers):
            after = self._attention(i, h, mask, cos, sin)
            x, h = self._norm(x, after, f"blk.{i}.ffn_norm.weight")
            after = self._feed_forward(i, h)
            following = f"blk.{i + 1}.attn_norm.weight" if i + 1 < d.layers else "output_norm.weight"
            x, h = self._norm(x, after, following)
        # Two at least: a product of one row may round otherwise than the same row among others.
        kept = self._nodes.op("Neg", self._nodes.op("Max", "num_logits_to_keep", self._nodes.ints(2)))
        h = self._nodes.op("Reshape", h, self._nodes.op("Concat", sizes, self._nodes.ints(d.width), axis=0))
        h = self._nodes.op("Slice", h, kept, self._nodes.ints(1 << 62), self._nodes.ints(1))
        logits = self._matrices.head(self._nodes.shape(h, -1, d.width))
        batch = self._nodes.op("Shape", "input_ids", start=0, end=1)
        self._nodes.op(
            "Reshape", logits, self._nodes.op("Concat", batch, self._nodes.ints(-1, d.vocab), axis=0), out="logits"
        )
        return self._proto()

    def _attention(self, i: int, h: str, mask: str, cos: str, sin: str) -> str:
        d = self._decoder
        qkv = self._matrices.linear(h, f"blk.{i}.qkv", [f"blk.{i}.attn_{part}" for part in "qkv"])
        qkv = self._nodes.op("Transpose", self._nodes.op("Reshape", qkv, self._heads), perm=[0, 2, 1, 3])
        sizes = self._nodes.ints(d.heads, d.kv_heads, d.kv_heads)
        q, k, v = self._nodes.ops("Split", qkv, sizes, outputs=3, axis=1)
        q, k = (self._turned(i, part, x, cos, sin) for part, x in (("q", q), ("k", k)))
        k = self._put(f"{i}.key", k)
        v = self._put(f"{i}.value", v)
        # Heads that share keys are rows of one product.
        q = self._nodes.shape(q, 0, d.kv_heads, -1, d.head_dim)
        q = self._nodes.op("Mul", q, self._nodes.constant(np.float32(d.head_dim**-0.5)))
        scores = self._nodes.op("MatMul", q, self._nodes.op("Transpose", k, perm=[0, 1, 3, 2]))
        share = self._nodes.op("Softmax", self._nodes.op("Add", scores, mask), axis=-1)
        y = self._nodes.op("MatMul", share, v)  # [batch, kv_heads, group * n, head_dim]
        y = self._nodes.op("Transpose", self._nodes.shape(y, 0, d.heads, -1, d.head_dim), perm=[0, 2, 1, 3])
        y = self._nodes.shape(y, -1, d.heads * d.head_dim)
        return self._matrices.linear(y, f"blk.{i}.attn_output", [f"blk.{i}.attn_output"])

    def _put(self, name: str, new: str) -> str:
        """The room of keys or values with new ones at their positions."""
        past, present = f"past_key_values.{name}", f"present.{name}"
        return self._nodes.op("TensorScatter", past, new, self._starts, out=present, axis=2, mode="linear")

    def _turned(self, i: int, part: str, x: str, cos: str, sin: str) -> str:
        """Queries or keys [batch, heads, n, head_dim], each head normalised if the model does so, and turned."""
        if self._decoder.head_norms:
            weight = self._vector(f"blk.{i}.attn_{part}_norm.weight")
            x = self._nodes.op("SimplifiedLayerNormalization", x, weight, epsilon=self._decoder.eps, axis=-1)
        return self._nodes.op("RotaryEmbedding", x, "position_ids", cos, sin, domain=CONTRIB)

    def _feed_forward(self, i: int, h: str) -> str:
        parts = [f"blk.{i}.ffn_gate", f"blk.{i}.ffn_up"]
        both = self._matrices.linear(h, f"blk.{i}.gate_up", parts)
        gate, up = self._nodes.ops("Split", both, outputs=2, axis=-1, num_outputs=2)
        gate = self._nodes.op("QuickGelu", gate, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x)
        return self._matrices.linear(self._nodes.op("Mul", gate, up), f"blk.{i}.ffn_down", [f"blk.{i}.ffn_down"])

    def _norm(self, x: str, added: str, weight: str) -> tuple[str, str]:
        """Returns: x + added, and that normalised."""
        h, _, _, total = self._nodes.ops(
            "SkipSimplifiedLayerNormalization", x, added, self._vector(weight), outputs=4, skip=(1, 2),
            domain=CONTRIB, epsilon=self._decoder.eps,
        )  # fmt: skip
        return total, h

    def _turns(self) -> tuple[str, str]:
        """Tables of cosines and sines, [context, head_dim / 2]."""
        d = self._decoder
        shape = d.context, d.head_dim // 2

        def table(of: Any) -> Iterator[Floats]:
            for start in range(0, d.context, 4096):
                positions = np.arange(start, min(start + 4096, d.context))
                yield of(np.outer(positions, d.frequencies)).astype(np.float32)

        return (
            self._weights.add("cos", np.float32, shape, table(np.cos)),
            self._weights.add("sin", np.float32, shape, table(np.sin)),
        )

    def _mask(self, columns: str) -> str:
        """0 where a query may look, a large negative number elsewhere: [batch, 1, group * n, room]."""
        d = self._decoder
        zero, one = self._nodes.constant(np.int64(0)), self._nodes.constant(np.int64(1))
        room = self._nodes.op(
            "Gather", self._nodes.op("Shape", "past_key_values.0.key"), self._nodes.constant(np.int64(2))
        )
        keys = self._nodes.op("Range", zero, room, one)
        seen = self._nodes.op("LessOrEqual", keys, self._nodes.op("Unsqueeze", columns, self._nodes.ints(1, 3)))
        mask = self._nodes.op(
            "Where", seen, self._nodes.constant(np.float32(0)), self._nodes.constant(np.float32(_MASKED))
        )
        mask = self._nodes.op("Add", mask, MASK)
        group = d.heads // d.kv_heads
        return mask if group == 1 else self._nodes.op("Concat", *[mask] * group, axis=2)

    def _vector(self, name: str) -> str:
        return self._nodes.constant(vector(self._file, self._file.tensors[name]))

    def _proto(self) -> onnx.ModelProto:
        d = self._decoder
        value, real, whole = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64
        inputs = [
            value("input_ids", whole, ["batch", "n"]),
            value("position_ids", whole, ["batch", "n"]),
            value("num_logits_to_keep", whole, []),
        ]
        outputs = [value("logits", real, ["batch", "kept", d.vocab])]
        for i in range(d.layers):
            for part in ("key", "value"):
                inputs.append(value(f"past_key_values.{i}.{part}", real, ["batch", d.kv_heads, "room", d.head_dim]))
                outputs.append(value(f"present.{i}.{part}", real, ["batch", d.kv_heads, "room", d.head_dim]))
        return self._nodes.model(inputs, outputs, self._weights)
