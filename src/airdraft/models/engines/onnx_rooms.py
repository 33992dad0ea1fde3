"""Runs of a graph that writes keys and values into the room where the earlier ones lie, so that none is copied.

Such a graph says so in a property. Its past and present are tensors [batch, kv_heads, room, head_dim] of one buffer, in
which a token's position is its column. Columns beyond a token's own are not looked at, and must be finite.

Other graphs get plain arrays: rolling back is a slice, which ONNX Runtime copies on the way in. Binding OrtValues
instead spares the copies out but costs as much or more: at 500 positions of 7 M parameters plain arrays took 0.92 to
1.01 of the bound time (median 0.94), feeding one token as well as six after a rollback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from airdraft.models.engines.onnx_batch import Tensor

IN_PLACE = ("airdraft.cache", "in place")
"""The property, and its value."""


def is_in_place(session: Any) -> bool:
    """Whether the graph writes so."""
    name, value = IN_PLACE
    return bool(session.get_modelmeta().custom_metadata_map.get(name) == value)


def bound(
    session: Any, past: Sequence[str], present: Sequence[str], rooms: Sequence[Tensor], into: Sequence[Tensor] = ()
) -> Any:
    """A binding of `rooms` as what the graph calls `past` and `present`, for any number of runs.

    into: what it calls `present`, if that is other memory.
    """
    binding = session.io_binding()
    binding.bind_output("logits")  # the first of the outputs
    for name, out, room, other in zip(past, present, rooms, into or rooms, strict=True):
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(room))  # the same memory
        binding.bind_ortvalue_output(out, ort.OrtValue.ortvalue_from_numpy(other))
    return binding


def grown(
    session: Any, past: Sequence[str], present: Sequence[str], rooms: Sequence[Tensor], n: int
) -> tuple[Any, list[Tensor]]:
    """A binding that reads `rooms` and writes them, with `n` positions more, into others. Returns: both."""
    into = [np.zeros((*each.shape[:2], each.shape[2] + n, each.shape[3]), each.dtype) for each in rooms]
    return bound(session, past, present, rooms, into), into


def run(session: Any, binding: Any, feeds: Mapping[str, Tensor], optional: Mapping[str, Any]) -> Tensor:
    """Run the graph on `feeds`, on inputs that it could do without, and on what is bound. Returns: the logits."""
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name, array in optional.items():  # whose type a binding does not know
        held = isinstance(array, ort.OrtValue)
        binding.bind_ortvalue_input(name, array if held else ort.OrtValue.ortvalue_from_numpy(array))
    session.run_with_iobinding(binding)
    logits: Tensor = binding.get_outputs_as_ortvaluevector()[0].numpy()  # and no objects for all the rooms
    binding.bind_output("logits")  # or the binding would hold them until the next run
    return logits
