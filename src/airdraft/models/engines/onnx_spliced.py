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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from airdraft.errors import ModelError
from airdraft.models.engines.onnx_rooms import IN_PLACE
from airdraft.models.engines.onnx_trees import MASK, NEUTRAL, SHIFT
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
        self._new: list[Any] = []
        self._constants: dict[bytes, str] = {}

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
            index = int(found[1])
            self._new = []
            if not mask:
                own = next(name for name in added.input if name != scores)
                mask = self._prepared(inputs, key, own)
            self._new += [self._room(key), self._room(values.input[1])]
            self._attention(index, query, mask, values.output[0])
            done[values.output[0]] = self._new
        self._replace(done)

    def _prepared(self, inputs: dict[str, Any], key: str, own: str) -> str:
        """What all layers need. Returns: the mask [batch, 1, segments, n, 64]."""
        if SHIFT not in inputs:
            self._optional(SHIFT, NEUTRAL[SHIFT], [f"{SHIFT}_{axis}" for axis in range(2)])
            columns = self._op("Add", "position_ids", SHIFT)
            room = self._size(key.replace("present", "past_key_values"), 2)
            keys = self._op("Range", self._scalar(0), room, self._scalar(1))
            seen = self._op("LessOrEqual", keys, self._op("Unsqueeze", columns, self._ints(1, 3)))
            plain = self._op("Where", seen, self._constant(np.float32(0)), self._constant(_HIDDEN))
            own = self._op("Add", plain, MASK)
            first = self._op("Slice", columns, self._ints(0), self._ints(1), self._ints(1))
            steps = self._op("Range", self._scalar(0), self._size("input_ids", 1), self._scalar(1))
            places = self._op("Unsqueeze", self._op("Add", first, steps), self._ints(1, 3))
            self._places = self._op("Expand", places, self._op("Shape", self._maker[key].input[1]))
        cut = self._op("Reshape", own, self._ints(0, 1, 0, -1, SEGMENT), allowzero=0)
        return self._op("Transpose", cut, perm=[0, 1, 3, 2, 4])

    def _room(self, present: str) -> Any:
        """The node that puts new keys or values into a text's room."""
        node = self._maker[present]
        if node.op_type == "TensorScatter":
            return node
        if node.op_type != "Concat":
            raise self._unknown(f"{present} comes of {node.op_type}")
        past, new = node.input
        return helper.make_node("ScatterElements", [past, self._places, new], [present], name=f"put_{present}", axis=2)

    def _attention(self, index: int, query: str, mask: str, out: str) -> None:
        """Write one layer's: queries [batch, kv_heads, n, head_dim] in, and the same shape out."""
        op = self._op
        sizes = op("Shape", query)
        batch, rows, width = (op("Slice", sizes, self._ints(at), self._ints(at + 1)) for at in (0, 2, 3))
        past = f"past_key_values.{index}"
        heads, dim = self._fixed(past)
        for part in ("key", "value"):
            name = f"shared.{index}.{part}"
            self._optional(name, np.zeros((0, heads, SEGMENT, dim), np.float32), ["segments", heads, SEGMENT, dim])

        own_keys, own_values = (
            op("Reshape", f"present.{index}.{part}", self._ints(0, 0, -1, SEGMENT, dim)) for part in ("key", "value")
        )
        own = op("MatMul", op("Unsqueeze", query, self._ints(2)), op("Transpose", own_keys, perm=[0, 1, 2, 4, 3]))
        own = op("Add", own, mask)  # [batch, kv_heads, segments, n, 64]
        stacked = op("Reshape", op("Transpose", query, perm=[1, 0, 2, 3]), self._ints(1, heads, -1, dim))
        shared = op("MatMul", stacked, op("Transpose", f"shared.{index}.key", perm=[0, 1, 3, 2]))

        def beside(of_shared: str, last: str) -> str:
            """[segments, kv_heads, batch * n, x] as [batch, kv_heads, segments, n, x]."""
            segments = op("Slice", op("Shape", of_shared), self._ints(0), self._ints(1))
            shape = op("Concat", segments, self._ints(heads), batch, rows, last, axis=0)
            return op("Transpose", op("Reshape", of_shared, shape, allowzero=1), perm=[2, 1, 0, 3, 4])

        one = self._ints(1)
        tops = op(
            "Concat", beside(self._reduced("ReduceMax", shared, -1), one), self._reduced("ReduceMax", own, -1), axis=2
        )
        top = self._reduced("ReduceMax", tops, 2)  # [batch, kv_heads, 1, n, 1]
        back = op("Reshape", op("Transpose", top, perm=[2, 1, 0, 3, 4]), self._ints(1, heads, -1, 1))
        own, shared = op("Exp", op("Sub", own, top)), op("Exp", op("Sub", shared, back))
        sums, totals = (
            op("Concat", beside(of_shared, last), of_own, axis=2)
            for of_shared, of_own, last in (
                (op("MatMul", shared, f"shared.{index}.value"), op("MatMul", own, own_values), width),
                (self._reduced("ReduceSum", shared, -1), self._reduced("ReduceSum", own, -1), one),
            )
        )
        whole = op("Div", self._reduced("ReduceSum", sums, 2), self._reduced("ReduceSum", totals, 2))
        self._new.append(helper.make_node("Squeeze", [whole, self._ints(2)], [out], name=f"spliced_{index}"))

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
        helper.set_model_props(self._model, dict([IN_PLACE]))

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"splice_{len(self._maker)}"
        node = helper.make_node(kind, list(inputs), [name], name=f"node_{name}", **attributes)
        self._maker[name] = node
        self._new.append(node)
        return name

    def _reduced(self, kind: str, x: str, axis: int) -> str:
        if kind == "ReduceSum" or self._opset >= _AXES_ARE_INPUTS:
            return self._op(kind, x, self._ints(axis), keepdims=1)
        return self._op(kind, x, axes=[axis], keepdims=1)

    def _size(self, name: str, axis: int) -> str:
        return self._op("Gather", self._op("Shape", name), self._scalar(axis))

    def _ints(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _scalar(self, value: int) -> str:
        return self._constant(np.array(value, np.int64))

    def _constant(self, value: Any) -> str:
        array = np.asarray(value)
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        if key not in self._constants:
            self._constants[key] = f"splice_const_{len(self._constants)}"
            self._graph.initializer.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def _optional(self, name: str, value: Any, shape: Sequence[int | str]) -> None:
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        self._graph.input.append(helper.make_tensor_value_info(name, kind, list(shape)))

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
