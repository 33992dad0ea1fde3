"""Any decoder exported to ONNX with the usual past key-values, run by ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, check
from airdraft.models.config import read_config
from airdraft.models.weights import weight_bytes

_EXPORT = "export it with `optimum-cli export onnx --task text-generation-with-past`"
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_KNOWN = {"input_ids", "attention_mask", "position_ids", "num_logits_to_keep"}
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
# A forward of a small model is over before a second thread has woken: on two cores, one thread took 0.7 to 0.95 of
# the time of two for 7 M parameters, and about the same time for 60 M (0.24 GB).
_SMALL_BYTES = 256_000_000


@dataclass
class OnnxCache:
    """Keys and values of one sequence: `length` positions of [1, kv_heads, length, head_dim] in each tensor."""

    tensors: list[NDArray[Any]]
    length: int = 0


class OnnxModel:
    """A `LanguageModel` over `model.onnx` in a folder (or in its `onnx/`, the layout of the hub).

    `forward` may run in several threads at once as long as each has its own cache. Rows of one forward of n tokens
    and rows of n forwards of one token differ by rounding (5e-6 in fp32); quantised graphs by far more.
    """

    def __init__(self, folder: Path, *, threads: int | None = None, name: str | None = None) -> None:
        """Loads the graph.

        threads: of one forward; None takes 1 for a small model (under 256 MB), else ONNX Runtime's own choice.
        name: what the model is called; None takes the folder's name.
        Raises: `ModelError` if a file is missing or broken, or the graph is no decoder with past key-values.
        """
        path = graph_path(folder)
        config = read_config(folder)
        self.name = name if name is not None else folder.resolve().name
        self.vocab_size = config.vocab_size
        self.max_context = config.max_context
        self.eos_ids = config.eos_ids
        if threads is None:
            threads = 1 if weight_bytes(path) < _SMALL_BYTES else 0  # 0: one per physical core
        self._session = _open(path, threads)

        inputs = {row.name: row for row in self._session.get_inputs()}
        outputs = {row.name for row in self._session.get_outputs()}
        self._past = sorted((n for n in inputs if _PAST.fullmatch(n)), key=_layer_and_part)
        present = [name.replace("past_key_values", "present") for name in self._past]
        unknown = sorted(set(inputs) - _KNOWN - set(self._past))
        if unknown:
            raise ModelError(f"{path} wants inputs airdraft cannot give ({', '.join(unknown)}); {_EXPORT}")
        missing = sorted({"input_ids"} - set(inputs)) + sorted({"logits", *present} - outputs)
        if missing or not present:
            raise ModelError(f"{path} lacks {', '.join(missing) or 'past_key_values.*'}; {_EXPORT}")
        self._outputs = ["logits", *present]
        self._whole = {name: _dtype(path, inputs[name]) for name in inputs if name in _KNOWN}
        self._empty = [_empty(path, inputs[name], config.kv_heads, config.head_dim) for name in self._past]

    def new_cache(self) -> OnnxCache:
        """An empty cache for one sequence."""
        return OnnxCache(self._empty)

    def forward(self, cache: OnnxCache, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`. A forward that raises leaves the cache as it was."""
        n, total = len(tokens), keep + len(tokens)
        check(self, cache.length, keep, tokens, rows)
        feeds: dict[str, NDArray[Any]] = {}
        for name, dtype in self._whole.items():
            if name == "input_ids":
                feeds[name] = np.array([tokens], dtype)
            elif name == "attention_mask":
                feeds[name] = np.ones((1, total), dtype)
            elif name == "position_ids":
                feeds[name] = np.arange(keep, total, dtype=dtype)[None]
            else:  # num_logits_to_keep, in newer exports; 0 would mean all
                feeds[name] = np.array(max(rows, 1), dtype)
        # Plain arrays: rolling back is a slice, which ONNX Runtime copies on the way in. Binding OrtValues instead
        # spares the copies out but costs as much or more: at 500 positions of 7 M parameters plain arrays took 0.92
        # to 1.01 of the bound time (median 0.94), feeding one token as well as six after a rollback.
        for name, tensor in zip(self._past, cache.tensors, strict=True):
            feeds[name] = tensor[:, :, :keep]
        try:
            logits, *present = self._session.run(self._outputs, feeds)
        except Exception as problem:  # ONNX Runtime's errors share no base class of their own
            raise ModelError(f"{self.name} cannot run {n} tokens after {keep}: {_first_line(problem)}") from problem
        if logits.shape[-1] != self.vocab_size:
            scored = logits.shape[-1]
            raise ModelError(f"{self.name} scores {scored} tokens, not the vocab_size of its config.json; mend that")
        cache.tensors, cache.length = present, total
        held = logits.shape[1]
        # A copy where rows are left behind, so that a prefill's unused rows do not stay in memory with the last one.
        last: FloatArray = logits[0, held - rows :].astype(np.float32, copy=rows < held)
        return last


def graph_path(folder: Path) -> Path:
    """Where the graph of a model's folder lies. Raises `ModelError` if there is none."""
    for path in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if path.is_file():
            return path
    raise ModelError(f"{folder} has no model.onnx; {_EXPORT}")


def _open(path: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Device, edge and link may share the cores: a thread that waits must sleep.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A plan of memory is kept per input shape, and here each forward has a new one: they would only pile up.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # ONNX Runtime's errors share no base class of their own
        raise ModelError(f"{path} cannot be loaded ({_first_line(problem)}); fetch or export it again") from problem


def _dtype(path: Path, row: Any) -> Any:
    if row.type not in _DTYPES:
        raise ModelError(f"{path} has {row.name} as {row.type}; export it in fp32 or fp16")
    return _DTYPES[row.type]


def _empty(path: Path, row: Any, kv_heads: int | None, head_dim: int | None) -> NDArray[Any]:
    """Zero positions of one past tensor, [1, kv_heads, 0, head_dim]; the graph's own sizes go before the config's."""
    if len(row.shape) != 4:
        raise ModelError(f"{path} has {row.name} with {len(row.shape)} axes, not 4; {_EXPORT}")
    heads = row.shape[1] if isinstance(row.shape[1], int) else kv_heads
    width = row.shape[3] if isinstance(row.shape[3], int) else head_dim
    if heads is None or width is None:
        raise ModelError(
            f"{path} leaves the size of {row.name} open; add num_key_value_heads and head_dim to config.json"
        )
    return np.zeros((1, heads, 0, width), _dtype(path, row))


def _layer_and_part(name: str) -> tuple[int, str]:
    _, layer, part = name.split(".")
    return int(layer), part


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
