"""Writes a channel model as ONNX: standard ops only, weights inside.

Inputs:  observed [batch, slots, subcarriers, 3, antennas], snr_db [batch] (fp32), as in `ChannelModel.forward`
Outputs: values [batch, slots, subcarriers, 2, antennas], embedding [batch, 2 · width]
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from airdraft.channel.nets import About, metadata
from training.channel_model import KERNELS, LEAST, SPREAD, ChannelModel
from training.export_onnx import IR_VERSION, OPSET, Graph


class _Writer:
    """The graph of one model while it is written; each method follows one of `ChannelModel`."""

    def __init__(self, model: ChannelModel) -> None:
        self.g, self.shape, self.patch_values = Graph(), model.shape, model.patch_values
        self.weights = {name: each.detach().numpy() for name, each in model.state_dict().items()}
        self.patches = math.prod(model.shape.grid)

    def reshape(self, x: str, *sizes: int) -> str:
        return self.g.one("Reshape", x, self.g.ints(*sizes))

    def turned(self, x: str, *order: int) -> str:
        return self.g.one("Transpose", x, perm=list(order))

    def linear(self, x: str, name: str) -> str:
        x = self.g.one("MatMul", x, self.g.constant(np.ascontiguousarray(self.weights[f"{name}.weight"].T)), name=name)
        bias = self.weights.get(f"{name}.bias")
        return x if bias is None else self.g.one("Add", x, self.g.constant(bias))

    def norm(self, x: str, name: str) -> str:
        scale, bias = (self.g.constant(self.weights[f"{name}.{each}"]) for each in ("weight", "bias"))
        return self.g.one("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-5)

    def part(self, x: str, axis: int, first: int, last: int) -> str:
        return self.g.one("Slice", x, self.g.ints(first), self.g.ints(last), self.g.ints(axis))

    def patched(self, x: str, parts: int) -> str:
        (gt, gf, ga), (pt, pf, pa) = self.shape.grid, self.shape.patch
        x = self.turned(self.reshape(x, -1, gt, pt, gf, pf, parts, ga, pa), 0, 1, 3, 6, 5, 2, 4, 7)
        return self.reshape(x, -1, self.patches, parts * self.patch_values)

    def whole(self, x: str) -> str:
        (gt, gf, ga), (pt, pf, pa) = self.shape.grid, self.shape.patch
        x = self.turned(self.reshape(x, -1, gt, gf, ga, 2, pt, pf, pa), 0, 1, 5, 2, 6, 4, 3, 7)
        return self.reshape(x, -1, self.shape.slots, self.shape.subcarriers, 2, self.shape.antennas)

    def averaged(self, observed: str) -> str:
        s, f, a, k = self.shape.slots, self.shape.subcarriers, self.shape.antennas, len(KERNELS)
        over_time, over_frequency = np.exp(self.weights["over_time"]), np.exp(self.weights["over_frequency"])[:, None]
        sums = self.g.one("MatMul", self.g.constant(over_time), self.reshape(observed, -1, 1, s, f * 3 * a))
        sums = self.g.one("MatMul", self.g.constant(over_frequency), self.reshape(sums, -1, k, s, f, 3 * a))
        sums = self.reshape(sums, -1, k, s, f, 3, a)
        weights = self.g.one("Add", self.part(sums, 4, 2, 3), self.g.number(LEAST))
        means = self.g.one("Div", self.part(sums, 4, 0, 2), weights)
        return self.reshape(self.turned(means, 0, 2, 3, 1, 4, 5), -1, s, f, 2 * k, a)

    def layer(self, x: str, name: str) -> str:
        heads, each = self.shape.heads, self.shape.width // self.shape.heads
        parts = self.linear(self.norm(x, f"{name}.norm_in"), f"{name}.query_key_value")
        parts = self.turned(self.reshape(parts, -1, self.patches, 3, heads, each), 2, 0, 3, 1, 4)
        query, key, value = (self.g.one("Gather", parts, self.g.constant(np.int64(i)), axis=0) for i in range(3))
        scores = self.g.one("MatMul", query, self.turned(key, 0, 1, 3, 2))
        scores = self.g.one("Softmax", self.g.one("Mul", scores, self.g.number(1 / math.sqrt(each))), axis=-1)
        mixed = self.turned(self.g.one("MatMul", scores, value), 0, 2, 1, 3)
        x = self.g.one("Add", x, self.linear(self.reshape(mixed, -1, self.patches, self.shape.width), f"{name}.merge"))
        up = self.g.one("Relu", self.linear(self.norm(x, f"{name}.norm_mid"), f"{name}.up"))
        return self.g.one("Add", x, self.linear(self.g.one("Mul", up, up), f"{name}.down"))

    def write(self) -> None:
        averages, kernels = self.averaged("observed"), len(KERNELS)
        shown = self.g.one("Concat", "observed", averages, axis=3)
        x = self.linear(self.patched(shown, 3 + 2 * kernels), "embed")
        x = self.g.one("Add", x, self.g.constant(self.weights["place"]))
        snr = self.g.one("Mul", self.reshape("snr_db", -1, 1, 1), self.g.number(0.1))
        x = self.g.one("Add", x, self.linear(snr, "loudness"))
        for i in range(self.shape.layers):
            x = self.layer(x, f"layers.{i}")
        x = self.norm(x, "norm")
        offered = self.reshape(self.patched(averages, 2 * kernels), -1, self.patches, kernels, 2 * self.patch_values)
        mixed = self.g.one("MatMul", self.reshape(self.linear(x, "mix"), -1, self.patches, 1, kernels), offered)
        mixed = self.reshape(mixed, -1, self.patches, 2 * self.patch_values)
        self.g.op("Identity", self.whole(self.g.one("Add", mixed, self.linear(x, "correct"))), name="values")
        mean = self.g.one("ReduceMean", x, axes=[1], keepdims=1)
        apart = self.g.one("Sub", x, mean)
        variance = self.g.one("ReduceMean", self.g.one("Mul", apart, apart), axes=[1], keepdims=0)
        spread = self.g.one("Sqrt", self.g.one("Add", variance, self.g.number(SPREAD)))
        self.g.op("Concat", self.reshape(mean, -1, self.shape.width), spread, name="embedding", axis=1)


def export(model: ChannelModel, path: Path, about: About | None = None) -> None:
    """Write the graph, which says what it is if that is given."""
    writer, shape = _Writer(model), model.shape
    writer.write()
    window = ["batch", shape.slots, shape.subcarriers]
    named = {
        "observed": [*window, 3, shape.antennas], "snr_db": ["batch"],
        "values": [*window, 2, shape.antennas], "embedding": ["batch", 2 * shape.width],
    }  # fmt: skip
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in named.items()]
    graph = helper.make_graph(writer.g.nodes, "channel", infos[:2], infos[2:], writer.g.initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="airdraft")
    made.ir_version = IR_VERSION
    if about is not None:
        helper.set_model_props(made, dict(metadata(about)))
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, path)
