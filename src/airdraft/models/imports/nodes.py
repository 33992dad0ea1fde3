"""The parts of an ONNX graph that is being written: nodes, constants, and a file of weights beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from airdraft.models.engines.onnx_rooms import IN_PLACE

OPSET, IR_VERSION = 24, 10
CONTRIB = "com.microsoft"
"""Operators of ONNX Runtime's own."""
_PAGE = 4096

Progress = Callable[[int], None]
"""Told the bytes of the file that have been read since the last call."""


class Weights:
    """The file beside the graph that holds its tensors, each on a page of its own, so that it can be mapped."""

    def __init__(self, out: IO[bytes], location: str, progress: Progress) -> None:
        self._out, self._location, self._progress = out, location, progress
        self.tensors: list[Any] = []

    def add(self, name: str, dtype: Any, shape: Sequence[int], parts: Iterator[NDArray[Any]]) -> str:
        """Write a tensor that comes in `parts`, in order. Returns: `name`."""
        start = self._page()
        for part in parts:
            self._out.write(np.ascontiguousarray(part, dtype).data)
        return self.refer(name, dtype, shape, start)

    def refer(self, name: str, dtype: Any, shape: Sequence[int], start: int) -> str:
        """Name what lies from `start` on. Returns: `name`."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        external = onnx.TensorProto.EXTERNAL
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=shape, data_location=external)
        length = math.prod(shape) * np.dtype(dtype).itemsize
        for key, value in {"location": self._location, "offset": start, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def start(self, name: str) -> int:
        """Where the tensor `name` lies."""
        [tensor] = [tensor for tensor in self.tensors if tensor.name == name]
        return int(next(each.value for each in tensor.external_data if each.key == "offset"))

    def read(self, size: int) -> None:
        """So many bytes of the source have been read."""
        self._progress(size)

    def _page(self) -> int:
        at = self._out.tell()
        self._out.write(bytes(-at % _PAGE))
        return at + -at % _PAGE


class Nodes:
    """Nodes and small constants, in order. Every method that adds one returns the name of its output."""

    def __init__(self, prefix: str = "") -> None:
        """prefix: of the names that are made up, where they stand beside those of another graph."""
        self._prefix = prefix
        self.all: list[onnx.NodeProto] = []
        self.inline: list[onnx.TensorProto] = []
        """Constants, and what optional inputs are where they are left out."""
        self.inputs: list[onnx.ValueInfoProto] = []
        """The optional ones."""
        self._constants: dict[bytes, str] = {}

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """A node with one output, called `out` if that is given."""
        return self.ops(kind, *inputs, out=out, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: int = 1, out: str = "", skip: Sequence[int] = (), **attributes: Any
    ) -> list[str]:
        """A node with several outputs. `skip`: those that nobody needs, which have no name."""
        base = out or f"{self._prefix}{kind}_{len(self.all)}"
        names = [base] if outputs == 1 else ["" if i in skip else f"{base}_{i}" for i in range(outputs)]
        self.all.append(helper.make_node(kind, list(inputs), names, name=f"node_{base}", **attributes))
        return names

    def shape(self, x: str, *sizes: int) -> str:
        """x in another shape; 0 copies a size, and -1 is what is left."""
        return self.op("Reshape", x, self.ints(*sizes))

    def ints(self, *values: int) -> str:
        """Whole numbers in a row."""
        return self.constant(np.array(values, np.int64))

    def constant(self, value: Any) -> str:
        """An array that is part of the graph itself."""
        array = np.asarray(value)
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        if key not in self._constants:
            self._constants[key] = f"{self._prefix}const_{len(self._constants)}"
            self.inline.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def optional(self, name: str, value: NDArray[Any]) -> None:
        """Add an input that is `value` where it is left out, and may have any other shape of as many axes."""
        self.inline.append(numpy_helper.from_array(value, name))
        kind, shape = helper.np_dtype_to_tensor_dtype(value.dtype), [f"{name}_{axis}" for axis in range(value.ndim)]
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], weights: Weights) -> onnx.ModelProto:
        """The whole."""
        initializers = [*self.inline, *weights.tensors]
        graph = helper.make_graph(self.all, "decoder", [*inputs, *self.inputs], list(outputs), initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="airdraft")
        model.ir_version = IR_VERSION
        helper.set_model_props(model, dict([IN_PLACE]))
        return model
