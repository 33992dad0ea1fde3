"""Any decoder that `AutoModelForCausalLM` of Hugging Face transformers loads, run by PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from airdraft.errors import AirdraftError, ModelError, first_line
from airdraft.models.base import Chosen, EngineInfo, FloatArray, LocalEngine, Part, Threads, check, check_copy
from airdraft.models.engines.hf_choice import chosen, rows_of
from airdraft.models.engines.hf_graphs import Graphs, Run, captured
from airdraft.models.engines.hf_inputs import Inputs
from airdraft.models.engines.hf_pages import Columns, HfCache, Pages, layer_class
from airdraft.models.engines.hf_spliced import Layers, behind, use
from airdraft.models.files.config import read_json
from airdraft.models.files.digest import words
from airdraft.models.files.weights import checkpoint_files
from airdraft.models.fit import context_of
from airdraft.models.sharing import Beginning
from airdraft.models.trees import Fed, picked

_PLAIN = "take a decoder with attention alone, such as Llama, Qwen3, Gemma or Mistral"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_DTYPES = ("float32", "bfloat16", "float16")
_ROLLS_BACK = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}
_MAX_BATCH, _MAX_BATCH_CPU = 64, 32
_LONG, _PART = 2048, 4
"""Positions of a text, and one part in so many of the free memory, for which a GPU has pages from the start: when they
move, all captured graphs are made again."""
_WIDE = 32
"""More tokens than this keep the machine busy by themselves, and would pad all others of a batch to their width."""


_Take = Callable[[Sequence[Part], Sequence[Any]], Sequence[Any]]
"""What becomes of the rows of a call, for each part a tensor [rows, vocab]: `rows_of` or `chosen`."""


class HfModel(LocalEngine):
    """A `LanguageModel` and a `TargetEngine` over a checkpoint: a folder with config.json and weights.

    Every layer's cache holds all positions, also where its attention slides: transformers masks what lies beyond the
    window, and a cache that forgets it could not roll back. One forward at a time. Rows of forwards of different
    widths or batches differ by rounding (1e-5 in fp32; far more in the 16-bit types).
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        context: int | None = None,
        splice: bool | None = None,
    ) -> None:
        """Loads the checkpoint and tries it out.

        name: what the model is called; None takes the folder's name.
        device: as PyTorch names it; None takes a CUDA GPU if there is one, else the CPU.
        dtype: float32, bfloat16 or float16; None takes float32 on the CPU and the checkpoint's own elsewhere.
        threads: of PyTorch on the CPU, in the whole process; None leaves them as they are.
        context: as in `OnnxModel`, of the memory of `device`. splice: as there.
        Raises: `ModelError` if torch or transformers is missing, a file is missing or broken, or the model cannot be
        rolled back.
        """
        self._torch, self._transformers = libraries()
        if threads is not None:
            self._torch.set_num_threads(threads)
        self._device = _device(self._torch, device)
        if dtype is None:
            dtype = "float32" if self._device.type == "cpu" else "auto"
        elif dtype not in _DTYPES:
            raise ModelError(f"no dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
        config, self._kinds = _config(self._transformers, folder)
        if splice and set(self._kinds) != {"DynamicLayer"}:
            raise ModelError(f"{folder} has layers that attend in ways that cannot be spliced; leave --splice out")
        max_context = _max_context(folder, config)
        weights = sum(file.stat().st_size for file in checkpoint_files(folder))
        numbers, memory = _kv_numbers(config), _memory(self._torch, self._device)
        context_of(folder, context, max_context, numbers * (4 if dtype == "float32" else 2), weights, memory)
        self._model = _load(self._transformers, folder, config, dtype).to(self._device)
        if splice:
            use(self._model)

        takes = set(inspect.signature(self._model.forward).parameters)
        self._past_as = past_name(self._model)
        self._takes = takes & {"attention_mask", "position_ids", "logits_to_keep", self._past_as}
        # In a batch positions start anywhere: a model that is not told them would have to count around the padding.
        most = _MAX_BATCH_CPU if self._device.type == "cpu" else _MAX_BATCH
        max_batch = most if {"attention_mask", "position_ids"} <= takes else 1
        self._pages = Pages(self._device)
        self._graphs: Graphs | None = None
        called = name if name is not None else folder.resolve().name
        precision = words(self._model.dtype)
        self.info = EngineInfo(
            called, 0, max_context, _eos_ids(self._model), max_batch=max_batch, digest=precision, erases=True,
            chooses=self._device.type != "cpu",  # where rows need not be moved, and few noises are computed
            threads=Threads(self._torch.get_num_threads(), "as asked for" if threads else "PyTorch's own choice"),
        )  # fmt: skip
        self._try_out(f"{folder} is a {config.model_type}", keeps=bool(self._past_as))
        if self._device.type == "cuda" and self.info.trees:  # a model that takes any mask
            self._pages.reserve(_reserved(self._torch, self._device, self.info))
            self.set_shapes(captured).warm()

    def set_shapes(self, capture: Callable[[Run], Run]) -> Graphs:
        """From now on run small calls in a few shapes, each made ready by `capture`."""
        self._graphs = Graphs(self._pages, self._device, self._model.dtype, self._logits, capture)
        return self._graphs

    @property
    def dtype(self) -> Any:
        """PyTorch's type of the weights."""
        return self._model.dtype

    @property
    def uncaptured(self) -> str:
        """Why small calls are not captured as graphs; empty: they are."""
        return "there is no GPU, or the model takes no mask" if self._graphs is None else self._graphs.off

    def new_cache(self) -> HfCache:
        """An empty cache for one sequence."""
        return HfCache(self._pages)

    def copy(self, cache: HfCache, length: int) -> HfCache:
        """See `Copier.copy`."""
        check_copy(self.info, cache, length)
        return cache.copy(length)

    def forward(self, cache: HfCache, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`. If the model itself fails, the cache was rolled back to `keep`."""
        part = Part(cache, keep, tokens, rows)
        check(self.info, part)
        [rows] = self._run([part])
        return np.asarray(rows)

    def verify(self, batch: Sequence[Part], beginning: Beginning | None = None) -> list[FloatArray | AirdraftError]:
        """See `Splicer.verify`. Parts of up to 32 tokens share forwards, longer ones run alone."""
        return self._each(batch, beginning, rows_of)

    def choose(
        self, batch: Sequence[Part], beginning: Beginning | None = None
    ) -> list[Chosen | FloatArray | AirdraftError]:
        """See `Chooser.choose`."""
        return self._each(batch, beginning, chosen)

    def _each(self, batch: Sequence[Part], beginning: Beginning | None, take: _Take) -> list[Any]:
        """What `take` makes of the rows of each part, or an error."""
        found: dict[int, Any] = {}
        narrow = []
        parts = list(batch)
        for i, part in enumerate(batch):
            try:
                check(self.info, part)
                parts[i] = picked(part)
                if len(part.tokens) <= _WIDE and not part.cache.private:
                    narrow.append(i)
                else:
                    found[i] = self._run([parts[i]], beginning, take)[0]
            except ModelError as error:
                found[i] = error.with_traceback(None)  # which would hold on to the cache, and to tensors
        most = self.info.max_batch
        for start in range(0, len(narrow), most):
            together = narrow[start : start + most]
            found.update(zip(together, self._together([parts[i] for i in together], beginning, take), strict=True))
        return [found[i] for i in range(len(batch))]

    def _together(self, parts: list[Part], beginning: Beginning | None, take: _Take) -> Sequence[Any]:
        """The same of all parts in one forward, or where that fails each for itself: one's error is no other's."""
        try:
            return self._run(parts, beginning, take)
        except ModelError as error:
            if len(parts) == 1:
                return [error.with_traceback(None)]
        # Not while the error is there, which holds on to what filled the memory.
        return [self._together([part], beginning, take)[0] for part in parts]

    def _run(self, parts: list[Part], beginning: Beginning | None = None, take: _Take = rows_of) -> Sequence[Any]:
        """One forward of all parts, and their caches grown."""
        torch = self._torch
        kept, fed = max(part.keep for part in parts), max(len(part.tokens) for part in parts)
        lines = [Fed.of(part) for part in parts]
        try:
            with torch.inference_mode(), behind(self._shared(beginning)):
                logits = None
                if self._graphs is not None and beginning is None:
                    logits = self._graphs.logits(parts, lines)
                if logits is not None:
                    fed = logits.shape[1]
                else:
                    dtype = self._model.dtype if any(line.lineage.parents for line in lines) else None
                    before = 0 if beginning is None else beginning.length
                    inputs = Inputs.of(parts, lines, kept, fed, before, dtype)
                    rows = max(1, *(fed - len(part.tokens) + part.rows for part in parts))  # 0 would mean all
                    call = self._pages.call(parts, kept, fed)
                    try:
                        logits = self._logits(Inputs(*(each.to(self._device) for each in inputs)), call, rows)
                    finally:
                        call.wipe()
                ends = [logits.shape[1] - fed + len(part.tokens) for part in parts]
                found = take(parts, [logits[i, end - parts[i].rows : end] for i, end in enumerate(ends)])
        except Exception as problem:  # PyTorch's errors and those of models' code share no base class
            raise ModelError(
                f"{self.name} cannot run {fed} tokens after {kept} in a batch of {len(parts)}: {first_line(problem)}"
            ) from problem.with_traceback(None)
        for part, line in zip(parts, lines, strict=True):
            part.cache.length, part.cache.lineage = line.lineage.length, line.lineage
        return found

    def _logits(self, inputs: Inputs, call: Columns, rows: int) -> Any:
        """Those of the last `rows` tokens of each line, [parts, rows, vocab]."""
        utils, paged = self._transformers.cache_utils, layer_class()
        layers = [utils.DummyLayer() if kind == "DummyLayer" else paged(call, i) for i, kind in enumerate(self._kinds)]
        options = {"attention_mask": inputs.mask, "position_ids": inputs.positions, "logits_to_keep": rows}
        options[self._past_as] = utils.Cache(layers)
        taken = {name: value for name, value in options.items() if name in self._takes}
        return self._model(input_ids=inputs.ids, use_cache=True, **taken).logits

    def _try_out(self, what: str, *, keeps: bool) -> None:
        """Run two short forwards, which also show what no file says.

        Raises: `ModelError` if the model is an encoder that loads as a decoder, or keeps its past in ways of its own.
        """
        cache = self.new_cache()
        tried = [self._run([Part(cache, 0, [0, token], 2)])[0] for token in (1, 2) if keeps]
        if not self._pages.layers:
            raise ModelError(f"{what}, which keeps no keys and values; {_PLAIN}")
        one, other = tried
        if np.abs(one[0] - other[0]).max() > 0.01 * np.ptp(one[0]):  # mixed experts may round otherwise
            raise ModelError(f"{what} that looks at later tokens; {_PLAIN}")
        tensors = [tensor for layer in self._pages.layers.values() for tensor in layer]
        bytes_each = sum(each[0].nbytes for each in tensors)
        self.info = replace(self.info, vocab_size=one.shape[1], position_bytes=bytes_each)
        told = {"attention_mask", "position_ids"} <= self._takes and set(self._kinds) == {"DynamicLayer"}
        self.info = replace(self.info, trees=told and self._branches(tried))

    def _branches(self, chains: list[FloatArray]) -> bool:
        """Whether a tree of both `chains` has their rows: models may build their masks in ways of their own."""
        try:
            [rows] = self._run([Part(self.new_cache(), 0, [0, 1, 2], 3, (-1, 0, 0))])
        except ModelError:
            return False
        wanted = np.array([chains[0][0], chains[0][1], chains[1][1]])
        return bool(np.abs(rows - wanted).max() < 0.01 * np.ptp(wanted))

    def _shared(self, beginning: Beginning | None) -> Layers | None:
        """The keys and values of a beginning as PyTorch has them: on the CPU the same memory."""
        if beginning is None:
            return None
        if self not in beginning.made:
            tensors = iter(beginning.tensors)
            beginning.made[self] = {
                index: tuple(self._torch.from_numpy(next(tensors)).view(each.dtype).to(self._device) for each in layer)
                for index, layer in self._pages.layers.items()
            }
        found: Layers = beginning.made[self]
        return found


def past_name(model: Any) -> str:
    """What a model's forward calls the past, since transformers 5.24 or before. Empty: it takes none."""
    takes = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in takes), "")


def libraries() -> tuple[Any, Any]:
    """torch and transformers, imported only when an engine is made: they take seconds, and an extra.

    Raises: `ModelError` if they are not installed.
    """
    try:
        torch, transformers = import_module("torch"), import_module("transformers")
    except ImportError as problem:
        raise ModelError("the hf engine needs torch and transformers; install airdraft[hf]") from problem
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)  # what goes wrong is raised
    transformers.logging.disable_progress_bar()
    return torch, transformers


def _device(torch: Any, name: str | None) -> Any:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except Exception as problem:  # a RuntimeError, or an AssertionError where PyTorch was built without the device
        raise ModelError(f"PyTorch has no device {name!r} here ({first_line(problem)}); try 'cpu'") from problem


def _config(transformers: Any, folder: Path) -> tuple[Any, list[str]]:
    """The checkpoint's configuration, and how each layer would keep its past. What cannot be rolled back is refused
    here, before gigabytes of weights are read."""
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"{folder} is of model_type {kind!r}, unknown to transformers {transformers.__version__}; "
            "install a newer transformers or take another model"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        layers = [type(layer).__name__ for layer in transformers.DynamicCache(config=config).layers]
    except Exception as problem:  # validation errors of several libraries
        raise ModelError(f"{folder}/config.json is no {kind} ({first_line(problem)}); fetch it again") from problem
    if config.is_encoder_decoder:
        raise ModelError(f"{folder} is a {kind}, an encoder with a decoder; {_PLAIN}")
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{folder} is a {kind}, which is no causal language model; {_PLAIN}")
    recurrent = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._is_stateful
    if recurrent or not set(layers) <= _ROLLS_BACK:
        raise ModelError(f"{folder} is a {kind}, whose layers keep a state that cannot be rolled back; {_PLAIN}")
    return config, layers


def _load(transformers: Any, folder: Path, config: Any, dtype: str) -> Any:
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise ModelError(f"{folder} has no weights ({_WEIGHTS[0]}, say); fetch them from where its config.json is from")
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as problem:  # safetensors, pickle and transformers share no base class
        raise ModelError(f"{folder} cannot be loaded ({first_line(problem)}); fetch it again") from problem
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would go on with random ones
        raise ModelError(f"{folder} lacks {len(missing)} tensors, {missing[0]} first; fetch its weights again")
    return model


def _max_context(folder: Path, config: Any) -> int:
    """Most positions. Where rotary angles change with the length of the text, those before they do: keys that are
    in the cache already would have been turned by other angles."""
    text = config.get_text_config(decoder=True)
    longest = getattr(text, "max_position_embeddings", None)
    if type(longest) is not int or longest <= 0:
        raise ModelError(f"{folder}/config.json does not say max_position_embeddings; add it")
    rope = getattr(text, "rope_parameters", None) or {}
    for angles in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if angles.get("rope_type") in ("dynamic", "longrope"):
            trained = angles.get("original_max_position_embeddings")
            longest = min(longest, trained or getattr(text, "original_max_position_embeddings", None) or longest)
    return longest


def _kv_numbers(config: Any) -> int:
    """Numbers in one position's keys and values; 0 where the config does not say."""
    text = config.get_text_config(decoder=True)
    layers, heads = getattr(text, "num_hidden_layers", None), getattr(text, "num_attention_heads", None)
    width = getattr(text, "head_dim", None) or (getattr(text, "hidden_size", None) or 0) // (heads or 1)
    return 2 * (layers or 0) * (getattr(text, "num_key_value_heads", None) or heads or 0) * width


def _memory(torch: Any, device: Any) -> int | None:
    """Memory of the GPU; None: of the machine."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


def _reserved(torch: Any, device: Any, info: EngineInfo) -> int:
    """Positions that a GPU has pages for from the start: in a part of what is free, for all texts of a batch."""
    free = int(torch.cuda.mem_get_info(device)[0])
    return int(min(info.max_batch * min(info.max_context, _LONG), free // _PART // (info.position_bytes or free)))


def _eos_ids(model: Any) -> tuple[int, ...]:
    """The generation config wins: chat models add their end-of-turn token only there."""
    value = model.generation_config.eos_token_id
    if value is None:
        value = model.config.get_text_config(decoder=True).eos_token_id
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)
