"""Any decoder exported to ONNX with the usual past key-values, run by ONNX Runtime."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from airdraft.errors import AirdraftError, ModelError, first_line
from airdraft.models.base import EngineInfo, FloatArray, LocalEngine, Part, Threads, check, check_copy
from airdraft.models.engines.onnx_batch import OnnxCache, Rule, Stack, Tensor
from airdraft.models.engines.onnx_rooms import bound, grown, is_in_place, run
from airdraft.models.engines.onnx_trees import SHIFT, TreeInputs
from airdraft.models.files.config import read_config, read_json
from airdraft.models.files.weights import model_folder, visible, weight_bytes
from airdraft.models.fit import context_of, cores
from airdraft.models.sharing import SEGMENT, Beginning
from airdraft.models.trees import Fed, picked

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
# the time of two for 7 M parameters, and about the same time for 60 M (0.24 GB). Nor did batches gain from the second,
# on two cores that others use too: 16 sequences of 100 and 400 positions took 1.0 to 1.1 of the time with two.
_SMALL_BYTES = 256_000_000
# How far a row may be from the same one computed alone, in standard deviations of a row. Measured on the shipped pair:
# 1e-5 in fp32 and with 4-bit weights, 0.004 in fp16; 0.08 to 0.8 with 8-bit activations that share one scale.
_SAME = 0.02
# How long a thread of a session looks for work before it sleeps: longer than what lies between two steps of a forward
# that threads share. Without, the second thread sleeps 150 times in a forward of the chat pair's target. Device, edge
# and link may share the cores, so it does sleep between forwards; left to itself, ONNX Runtime spins far longer.
_SPIN_US = 50
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
"""What configs call the most positions that some layers look back."""
_MAX_BATCH = 64


class OnnxModel(LocalEngine):
    """A `LanguageModel` and a `TargetEngine` over the graph in a folder (or in its `onnx/`, the layout of the hub).

    `forward` may run in several threads at once as long as each has its own cache. Rows of one forward of n tokens,
    rows of n forwards of one token and rows of a batch differ by rounding: 2e-5 in fp32 and where only weights have
    fewer bits, 0.01 in fp16, 1.0 with dynamic 8-bit activations (logits of the shipped pair: standard deviation 3).
    """

    def __init__(
        self, folder: Path, *, threads: int | None = None, context: int | None = None, name: str | None = None,
        splice: bool | None = None,
    ) -> None:  # fmt: skip
        """Loads the graph.

        folder: that of the model, or the graph itself, below which the folder is found.
        threads: of one forward; None takes 1 for a small model (under 256 MB), else one per core.
        context: most positions of a text that somebody will ask for, for which memory must be there. None: the model's
        own; memory is taken as texts need it.
        name: what the model is called; None takes the folder's name.
        splice: whether attention runs over a beginning that texts share, see `Sharing`, and their own keys and values.
        Raises: `ModelError` if a file is missing or broken, or the graph is no decoder with past key-values.
        """
        path, folder = graph_path(folder), model_folder(folder)
        config = read_config(folder)
        size = weight_bytes(path)
        # Before anything is loaded: if keys and values have 16 bits. Of more the graph tells.
        context_of(folder, context, config.max_context, 2 * config.kv_numbers, size)
        if threads is None:
            threads = 1 if size < _SMALL_BYTES else cores()
        began_s = time.perf_counter()
        self._path, self._graph = path, _spliced(path) if splice else None
        self._session = _open(path, threads, self._graph)
        self.switch_s = time.perf_counter() - began_s

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
        self._unshared: dict[Any, Any] = {}
        self._in_place = is_in_place(self._session)
        self._trees = TreeInputs.of(self._session, in_place=self._in_place)
        self._whole = {name: _dtype(path, inputs[name]) for name in inputs if name in _KNOWN}
        self._empty = [_empty(path, inputs[name], config.kv_heads, config.head_dim) for name in self._past]

        bytes_each = sum(tensor.shape[1] * tensor.shape[3] * tensor.itemsize for tensor in self._empty)
        context_of(folder, context, config.max_context, bytes_each, size)
        self._rule = Rule.of(size, bytes_each)
        # Of the first, second... group of a call behind each beginning.
        self._stacks: WeakValueDictionary[tuple[int, int], Stack] = WeakValueDictionary()
        name = name if name is not None else folder.resolve().name
        self.info = EngineInfo(
            name, config.vocab_size, config.max_context, config.eos_ids, position_bytes=bytes_each,
            threads=Threads(threads), trees=self._trees is not None, erases=True,
        )  # fmt: skip
        told = self._in_place or {"attention_mask", "position_ids"} <= set(self._whole)
        if told and _batches(self, folder, self._together):
            self.info = replace(self.info, max_batch=_MAX_BATCH)

    def use_threads(self, threads: Threads) -> None:
        """See `Threaded.use_threads`: the graph is loaded again."""
        if self.info.threads is None or threads.count != self.info.threads.count:
            del self._session  # before there are two
            self._session = _open(self._path, threads.count, self._graph)
        self.info = replace(self.info, threads=threads)

    def new_cache(self) -> OnnxCache:
        """An empty cache for one sequence."""
        return OnnxCache(self._empty)

    def copy(self, cache: OnnxCache, length: int) -> OnnxCache:
        """See `Copier.copy`."""
        check_copy(self.info, cache, length)
        return cache.copy(length)

    def forward(self, cache: OnnxCache, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`. If a graph that writes in place fails, the cache holds what was to be kept."""
        part = Part(cache, keep, tokens, rows)
        check(self.info, part)
        return self._alone(part)

    def _alone(self, part: Part, beginning: Beginning | None = None) -> FloatArray:
        cache, keep, fed = part.cache, part.keep, Fed.of(part)
        ids, positions = np.array([part.tokens]), np.array([fed.positions])
        total, n = keep + len(part.tokens), len(part.tokens)
        if self._in_place:
            cache.make_room(keep, total)
            if cache.binding is None or cache.binding[0] is not self._session:
                cache.binding = self._session, self._bound(cache.tensors)
            tree = self._tree([fed], n, cache.tensors[0].shape[2])
            logits, _ = self._run(ids, None, positions, cache.tensors, part.rows, tree, cache.binding[1], beginning)
            cache.length, cache.lineage = total, fed.lineage
            return _rows(logits[0], logits.shape[1], part.rows)
        past, binding = [tensor[:, :, :keep] for tensor in cache.tensors], None
        if cache.private:  # of plain arrays that it returns, ONNX Runtime keeps a copy in memory of its own
            binding, past = grown(self._session, self._past, self._outputs[1:], cache.cut(keep), n)
        mask, tree = np.ones((1, total), np.int64), self._tree([fed], n, total)
        logits, present = self._run(ids, mask, positions, past, part.rows, tree, binding)
        cache.replace(present)
        cache.lineage = fed.lineage
        return _rows(logits[0], logits.shape[1], part.rows)

    def verify(self, batch: Sequence[Part], beginning: Beginning | None = None) -> list[FloatArray | AirdraftError]:
        """See `Splicer.verify`."""
        found: dict[int, FloatArray | AirdraftError] = {}
        fit, parts = [], list(batch)
        for i, part in enumerate(batch):
            try:
                check(self.info, part)
                parts[i] = picked(part)
                fit.append(i)
            except ModelError as error:
                found[i] = error.with_traceback(None)  # which would hold on to the cache
        alike = [i for i in fit if not parts[i].cache.private]  # a shared call has copies of what its texts hold
        groups = self._rule.groups([(len(parts[i].tokens), parts[i].keep) for i in alike])
        alone = [[i] for i in fit if parts[i].cache.private]
        for which, group in enumerate([*([alike[j] for j in group] for group in groups), *alone]):
            if len(group) > 1 and self.info.max_batch > 1:
                try:
                    rows = self._together([parts[i] for i in group], which, beginning)
                    found.update(zip(group, rows, strict=True))
                    continue
                except ModelError:
                    pass  # whose it is shows one by one
            for i in group:
                try:
                    found[i] = self._alone(parts[i], beginning)
                except ModelError as error:
                    found[i] = error.with_traceback(None)
        return [found[i] for i in range(len(batch))]

    def _together(self, parts: Sequence[Part], which: int = 0, beginning: Beginning | None = None) -> list[FloatArray]:
        """One run of the graph. Raises: `ModelError`; all caches are then as they were."""
        stack = self._stacks[id(beginning), which] = self._stacks.get((id(beginning), which)) or Stack()
        n = max(len(part.tokens) for part in parts)
        new = n if self._in_place else 0
        past, rows = stack.fill([part.cache for part in parts], [part.keep for part in parts], new)
        held = past[0].shape[2]
        # Keys carry their positions, so a gap between the past and the new tokens does no harm if it is masked.
        ids = np.zeros((len(parts), n), np.int64)
        mask = np.zeros((len(parts), held + n), np.int64)
        positions = np.zeros((len(parts), n), np.int64)
        fed = {row: Fed.of(part) for row, part in zip(rows, parts, strict=True)}
        for row, part in zip(rows, parts, strict=True):
            end = len(part.tokens)
            ids[row, :end] = part.tokens
            mask[row, : part.keep] = mask[row, held : held + end] = 1
            positions[row, :end] = fed[row].positions
        columns, first = (held, None) if self._in_place else (held + n, held)
        tree = self._tree([fed[row] for row in sorted(fed)], n, columns, first)
        scored = n - min(len(part.tokens) - part.rows for part in parts)
        logits, present = self._run(ids, mask, positions, past, scored, tree, None, beginning)
        for row, part in zip(rows, parts, strict=True):
            at = part.keep if self._in_place else held
            part.cache.append(part.keep, [tensor[row, :, at : at + len(part.tokens)] for tensor in present])
            part.cache.lineage = fed[row].lineage
        unscored = n - logits.shape[1]
        return [
            _rows(logits[row], len(part.tokens) - unscored, part.rows) for row, part in zip(rows, parts, strict=True)
        ]

    def _run(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, past: list[Tensor], rows: int,
        tree: dict[str, Tensor], binding: Any = None, beginning: Beginning | None = None,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        """Feed `ids` [batch, n] after `past`. Returns: logits of the last `rows` columns or more, and the presents.

        A graph that writes in place takes no mask, and needs room in `past`, which is then the presents, too. So it is
        for any graph with a `binding` of what it reads and writes.
        """
        if self._graph is not None:
            before = 0 if beginning is None else beginning.length
            positions, tree = positions + before, tree | {SHIFT: tree[SHIFT] - before} | self._shared(beginning)
        whole = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "num_logits_to_keep": np.array(max(rows, 1)),  # in newer exports; 0 would mean all
        }
        feeds = {name: np.asarray(whole[name], dtype) for name, dtype in self._whole.items()}
        present = past
        try:
            if binding is not None or self._in_place:
                logits = run(self._session, binding or self._bound(past), feeds, tree)
            else:
                feeds.update(zip(self._past, past, strict=True))
                logits, *present = self._session.run(self._outputs, feeds | tree)
        except Exception as problem:  # ONNX Runtime's errors share no base class of their own
            many = f"{ids.shape[1]} tokens after {past[0].shape[2]}"
            raise ModelError(f"{self.name} cannot run {many}: {first_line(problem)}") from problem
        if logits.shape[-1] != self.vocab_size:
            scored = logits.shape[-1]
            raise ModelError(f"{self.name} scores {scored} tokens, not the vocab_size of its config.json; mend that")
        return logits, present

    def _tree(self, *call: Any) -> dict[str, Tensor]:
        """See `TreeInputs.feeds`."""
        return {} if self._trees is None else self._trees.feeds(*call)

    def _shared(self, beginning: Beginning | None) -> dict[str, Any]:
        """The inputs of a graph that is spliced, with keys and values of `beginning`."""
        made = self._unshared if beginning is None else beginning.made
        if self not in made:
            shapes = [(0, each.shape[1], SEGMENT, each.shape[3]) for each in self._empty]
            tensors = [np.zeros(shape, np.float32) for shape in shapes] if beginning is None else beginning.tensors
            names = [name.replace("past_key_values", "shared") for name in self._past]
            made[self] = {
                name: ort.OrtValue.ortvalue_from_numpy(tensor) for name, tensor in zip(names, tensors, strict=True)
            }
        found: dict[str, Any] = made[self]
        return found

    def _bound(self, rooms: list[Tensor]) -> Any:
        return bound(self._session, self._past, self._outputs[1:], rooms)


def graph_path(folder: Path) -> Path:
    """Where the graph of a model's folder lies, or that path if it is the graph's own.

    Raises: `ModelError` if there is none, or no telling which.
    """
    if folder.is_file():
        return folder
    for path in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if path.is_file():
            return path
    others = sorted([*visible(folder, "*.onnx"), *visible(folder, "onnx/*.onnx")])
    if not others:
        raise ModelError(f"{folder} has no model.onnx; {_EXPORT}")
    if len(others) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in others)
        raise ModelError(f"{folder} has no model.onnx but {names}; name the one you mean")
    return others[0]


def _batches(model: OnnxModel, folder: Path, together: Callable[[Sequence[Part]], list[FloatArray]]) -> bool:
    """Whether sequences of different lengths in one call have the rows they have alone. A trial tells.

    Graphs may have no mask, a fixed batch of one, take a mask for nothing but a length (GroupQueryAttention), or
    round activations by a scale of the whole batch (dynamic 8-bit): a text must not depend on its company. A
    sliding window counts columns, gaps included, which a trial of few tokens does not show.
    """
    config = read_json(folder / "config.json")
    windows = [config.get(name) for name in _WINDOWS] if config.get("use_sliding_window", True) else []
    if any(isinstance(window, int) and 0 < window < model.max_context for window in windows):
        return False
    # Never one token alone, whose rows quantised weights round otherwise, see `steady`.
    texts = [[i * model.vocab_size // 7 for i in text] for text in ([0, 6, 3, 2, 4], [5, 1, 3])]
    held, fed = [texts[0][:3], texts[1][:2]], [texts[0][3:], texts[1][2:] * 3]
    try:
        runs = []
        for at_once in (True, False):
            parts = [Part(model.new_cache(), len(old), new, 1) for old, new in zip(held, fed, strict=True)]
            for part, old in zip(parts, held, strict=True):
                model.forward(part.cache, 0, old, 0)
            if at_once:
                runs.append(together(parts))
            else:
                runs.append([model.forward(part.cache, part.keep, part.tokens, part.rows) for part in parts])
    except ModelError:  # a graph that cannot run alone either says so when it is asked to
        return False
    return all(np.abs(a - b).max() < _SAME * b.std() for a, b in zip(*runs, strict=True))


def _spliced(path: Path) -> tuple[bytes, Path]:
    """The graph, made one whose attention has two places, and the folder of its weights. Raises: `ModelError`."""
    from airdraft.models.engines.onnx_spliced import spliced  # noqa: PLC0415  # onnx takes half a second

    return spliced(path)


def _open(path: Path, threads: int, spliced: tuple[bytes, Path] | None = None) -> Any:
    """A session of the graph at `path`, or of what was made of it, whose weights lie in the folder beside that."""
    graph, folder = spliced or (None, path.parent)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    # A plan of memory is kept per input shape, and here each forward has a new one: they would only pile up.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # what goes wrong is raised
    if graph is not None:  # else ONNX Runtime would refuse weights behind links, as the hub's cache keeps them
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        return ort.InferenceSession(graph or str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # ONNX Runtime's errors share no base class of their own
        raise ModelError(f"{path} cannot be loaded ({first_line(problem)}); fetch or export it again") from problem


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


def _rows(logits: Tensor, end: int, rows: int) -> FloatArray:
    """A copy of the `rows` before `end`: one row must not keep those of a whole prefill or batch in memory."""
    copy: FloatArray = logits[end - rows : end].astype(np.float32)
    return copy
