"""Makes an ONNX graph whose attention runs over a beginning that texts share, and over each text's own.

Attention is added up in segments of 64 positions, from the first to the last, whatever lies where. A segment's share
of the sum is computed by products of always the same size, behind the greatest score of all segments. So a row has the
same bits whether a segment lies in the beginning that all texts of a call share, or in the text's own room, and
whoever else is in the call. Queries of all texts meet the shared segments as rows of one product.

The graph that is made writes in place, see `onnx_rooms`; its rooms hold whole segments, and what a text has of its own
from the beginning on. It has optional inputs: those of `onnx_trees`, whose `tree_shift` takes the length of the
beginning off as well, and `shared.{i}.key` and `.value` [segments, kv_heads, 64, head_dim], none where left out.

What is changed is `Softmax(q k^T + mask) v`, as the graphs of the shipped pair and imported ones spell it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from airdraft.errors import ModelError
from airdraft.models.engines.onnx_rooms import IN_PLACE
from airdraft.models.engines.onnx_trees import MASK, NEUTRAL, SHIFT
from airdraft.models.imports.nodes import Nodes
from airdraft.models.sharing import SEGMENT

_PRESENT = re.compile(r"present\.(\d+)\.key")
_HIDDEN = np.float32(-1e9)  # finite, as in the graphs' own masks
_AXES_ARE_INPUTS = 18
"""Since this version of the operators, for all that reduce."""


def spliced(path: Path) -> tuple[bytes, Path]:
    """The graph at `path`, which can be spliced, and the folder where its weights stay.

    The graph names files as they are called there: ONNX Runtime follows no links from a graph in memory, and in the
    hub's cache every file is one. Raises: `ModelError` if its attention is not spelt in a way that is known.
    """
    model = onnx.load(str(path), load_external_data=False)
    writer = _Writer(path, model)
    writer.splice()
    folder = path.parent
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                real = (path.parent / entry.value).resolve()
                entry.value, folder = real.name, real.parent
    return bytes(model.SerializeToString()), folder


class _Writer:
    def __init__(self, path: Path, model: Any) -> None:
        self._path, self._model, self._graph = path, model, model.graph
        self._opset = next((each.version for each in model.opset_import if not each.domain), 0)
        self._maker = {name: node for node in self._graph.node for name in node.output}
        self._nodes = Nodes("splice_")

    def splice(self) -> None:
        """Rewrite every layer's attention."""
        layers = [node for node in self._graph.node if node.op_type == "Softmax"]
        if not layers:
            raise self._unknown("no Softmax")
        inputs = {each.name: each for each in self._graph.input}
        if MASK not in inputs:
            raise self._unknown(f"no input {MASK}")
        mask, done = "", dict[str, list[Any]]()
        for softmax in layers:
            added = self._made(softmax.input[0], "Add")
            scores = next((name for name in added.input if self._kind(name) == "MatMul"), "")
            product = self._made(scores, "MatMul")
            query, key = product.input[0], self._made(product.input[1], "Transpose").input[0]
            values = next((node for node in self._graph.node if softmax.output[0] in node.input), None)
            if values is None or values.op_type != "MatMul" or not (found := _PRESENT.fullmatch(key)):
                raise self._unknown(f"{softmax.name or 'a Softmax'} is not between keys and values")
            index, start = int(found[1]), len(self._nodes.all)
            if not mask:
                own = next(name for name in added.input if name != scores)
                mask = self._prepared(inputs, key, own)
            self._put(key)
            self._put(values.input[1])
            self._attention(index, query, mask, values.output[0])
            done[values.output[0]] = self._nodes.all[start:]
        self._replace(done)

    def _prepared(self, inputs: dict[str, Any], key: str, own: str) -> str:
        """What all layers need. Returns: the mask [batch, 1, segments, n, 64]."""
        op, ints, constant = self._nodes.op, self._nodes.ints, self._nodes.constant
        if SHIFT not in inputs:
            self._nodes.optional(SHIFT, NEUTRAL[SHIFT])
            columns = op("Add", "position_ids", SHIFT)
            room = self._size(key.replace("present", "past_key_values"), 2)
            zero, one = constant(np.int64(0)), constant(np.int64(1))
            keys = op("Range", zero, room, one)
            seen = op("LessOrEqual", keys, op("Unsqueeze", columns, ints(1, 3)))
            plain = op("Where", seen, constant(np.float32(0)), constant(_HIDDEN))
            own = op("Add", plain, MASK)
            first = op("Slice", columns, ints(0), ints(1), ints(1))
            steps = op("Range", zero, self._size("input_ids", 1), one)
            places = op("Unsqueeze", op("Add", first, steps), ints(1, 3))
            self._places = op("Expand", places, op("Shape", self._maker[key].input[1]))
        cut = op("Reshape", own, ints(0, 1, 0, -1, SEGMENT), allowzero=0)
        return op("Transpose", cut, perm=[0, 1, 3, 2, 4])

    def _put(self, present: str) -> None:
        """Put new keys or values into a text's room."""
        node = self._maker[present]
        if node.op_type == "TensorScatter":
            self._nodes.all.append(node)
        elif node.op_type == "Concat":
            past, new = node.input
            self._nodes.op("ScatterElements", past, self._places, new, out=present, axis=2)
        else:
            raise self._unknown(f"{present} comes of {node.op_type}")

    def _attention(self, index: int, query: str, mask: str, out: str) -> None:
        """Write one layer's: queries [batch, kv_heads, n, head_dim] in, and the same shape out."""
        op, ints = self._nodes.op, self._nodes.ints
        sizes = op("Shape", query)
        batch, rows, width = (op("Slice", sizes, ints(at), ints(at + 1)) for at in (0, 2, 3))
        past = f"past_key_values.{index}"
        heads, dim = self._fixed(past)
        for part in ("key", "value"):
            self._nodes.optional(f"shared.{index}.{part}", np.zeros((0, heads, SEGMENT, dim), np.float32))

        own_keys, own_values = (
            op("Reshape", f"present.{index}.{part}", ints(0, 0, -1, SEGMENT, dim)) for part in ("key", "value")
        )
        own = op("MatMul", op("Unsqueeze", query, ints(2)), op("Transpose", own_keys, perm=[0, 1, 2, 4, 3]))
        own = op("Add", own, mask)  # [batch, kv_heads, segments, n, 64]
        stacked = op("Reshape", op("Transpose", query, perm=[1, 0, 2, 3]), ints(1, heads, -1, dim))
        shared = op("MatMul", stacked, op("Transpose", f"shared.{index}.key", perm=[0, 1, 3, 2]))

        def beside(of_shared: str, last: str) -> str:
            """[segments, kv_heads, batch * n, x] as [batch, kv_heads, segments, n, x]."""
            segments = op("Slice", op("Shape", of_shared), ints(0), ints(1))
            shape = op("Concat", segments, ints(heads), batch, rows, last, axis=0)
            return op("Transpose", op("Reshape", of_shared, shape, allowzero=1), perm=[2, 1, 0, 3, 4])

        one = ints(1)
        tops = op(
            "Concat", beside(self._reduced("ReduceMax", shared, -1), one), self._reduced("ReduceMax", own, -1), axis=2
        )
        top = self._reduced("ReduceMax", tops, 2)  # [batch, kv_heads, 1, n, 1]
        back = op("Reshape", op("Transpose", top, perm=[2, 1, 0, 3, 4]), ints(1, heads, -1, 1))
        own, shared = op("Exp", op("Sub", own, top)), op("Exp", op("Sub", shared, back))
        sums, totals = (
            op("Concat", beside(of_shared, last), of_own, axis=2)
            for of_shared, of_own, last in (
                (op("MatMul", shared, f"shared.{index}.value"), op("MatMul", own, own_values), width),
                (self._reduced("ReduceSum", shared, -1), self._reduced("ReduceSum", own, -1), one),
            )
        )
        whole = op("Div", self._reduced("ReduceSum", sums, 2), self._reduced("ReduceSum", totals, 2))
        op("Squeeze", whole, ints(2), out=out)

    def _replace(self, done: dict[str, list[Any]]) -> None:
        """Put the new nodes in the places of the old, and drop what nobody needs any more."""
        given = {name for nodes in done.values() for node in nodes for name in node.output}
        nodes = list[Any]()
        for node in self._graph.node:
            if node.output[0] in done:
                nodes += done[node.output[0]]
            elif not given.intersection(node.output):
                nodes.append(node)
        needed = {each.name for each in self._graph.output}
        kept = list[Any]()
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        del self._graph.node[:]
        self._graph.node.extend(reversed(kept))
        for each in [each for each in self._graph.input if each.name not in needed]:
            self._graph.input.remove(each)
        self._graph.input.extend(self._nodes.inputs)
        self._graph.initializer.extend(self._nodes.inline)
        helper.set_model_props(self._model, dict([IN_PLACE]))

    def _reduced(self, kind: str, x: str, axis: int) -> str:
        if kind == "ReduceSum" or self._opset >= _AXES_ARE_INPUTS:
            return self._nodes.op(kind, x, self._nodes.ints(axis), keepdims=1)
        return self._nodes.op(kind, x, axes=[axis], keepdims=1)

    def _size(self, name: str, axis: int) -> str:
        return self._nodes.op("Gather", self._nodes.op("Shape", name), self._nodes.constant(np.int64(axis)))

    def _fixed(self, past: str) -> tuple[int, int]:
        """Heads of keys, and numbers of each."""
        [row] = [each for each in self._graph.input if each.name == f"{past}.key"]
        sizes = [each.dim_value for each in row.type.tensor_type.shape.dim]
        if len(sizes) != 4 or not sizes[1] or not sizes[3] or row.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise self._unknown(f"{past}.key is not fp32 of known size")
        return sizes[1], sizes[3]

    def _kind(self, name: str) -> str:
        return self._maker[name].op_type if name in self._maker else ""

    def _made(self, name: str, kind: str) -> Any:
        if self._kind(name) != kind:
            raise self._unknown(f"{name or 'scores'} comes of {self._kind(name) or 'nothing'}, not of {kind}")
        return self._maker[name]

    def _unknown(self, what: str) -> ModelError:
        return ModelError(
            f"{self._path} has attention that cannot be spliced ({what}); leave --splice out, or take a model that "
            "`airdraft import` makes of a GGUF file"
        )
