"""A channel model's graph with the weights that it had before it was trained: what shows how much training brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from airdraft.errors import ModelError

REACHES = ((1.0, 1.0), (4.0, 2.0), (16.0, 6.0))
"""Reach of a new model's kernels, in slots and subcarriers."""


def untrained(path: Path, seed: int) -> bytes:
    """Read a graph and draw its weights anew; its shape stays. Raises: `ModelError` if it is no graph.

    Matrices are normal with a variance of one over their rows; norms and biases are plain; kernels fall off as a new
    model's. What is said of the channel is the mean of the kernels' averages, as training begins.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # of protobuf, and of the system
        raise ModelError(f"{path} is no channel model; give one of `python -m training.channel`") from error
    rng = np.random.default_rng(seed)
    plain: dict[str, float] = {}  # initialisers of one value
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            plain[node.input[1]] = 1.0
        elif node.op_type == "MatMul" and node.output[0] in ("mix", "correct"):
            plain[node.input[1]] = 0.0
        elif node.op_type == "Add" and node.input[0] == "mix":
            plain[node.input[1]] = 1 / len(REACHES)
    for each in model.graph.initializer:
        array = numpy_helper.to_array(each)
        if array.dtype != np.float32 or array.size == 1:
            continue
        if array.ndim >= 3:  # kernels, [kernels, (1,) to, from]
            apart = np.abs(np.subtract.outer(np.arange(array.shape[-2]), np.arange(array.shape[-1])))
            drawn = np.stack([np.exp(-apart / reach[array.ndim == 4]) for reach in REACHES]).reshape(array.shape)
        elif array.ndim == 2 and each.name not in plain:
            drawn = rng.standard_normal(array.shape) / np.sqrt(array.shape[0])
        else:
            drawn = np.full(array.shape, plain.get(each.name, 0.0))
        each.CopyFrom(numpy_helper.from_array(drawn.astype(np.float32), each.name))
    found: bytes = model.SerializeToString()
    return found
