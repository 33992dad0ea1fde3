"""GGUF models run by llama.cpp, through the low-level functions of llama-cpp-python (extra `llamacpp`)."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from ctypes import POINTER, c_int8, c_int32, create_string_buffer, memmove
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import EngineInfo, FloatArray, LocalEngine, Part, check, check_copy

# A small model is over before a second thread has woken, as in ONNX Runtime; workers of llama.cpp also spin.
_SMALL_BYTES = 256_000_000
_MOST_CACHE_BYTES = 4_000_000_000
"""By default, of all caches together: 15,000 positions of a Llama 3 of 8 B parameters."""
_UNEVEN = ("kv_lora_rank", "shared_kv_layers", "key_length_swa")
"""Of a model's attention: where there is one of these, layers keep other keys and values than the heads tell."""
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
_MOST_32_BITS = 2**31 - 1
_MOST_THREADS = 512  # GGML_MAX_N_THREADS
_F32 = 0  # GGML_TYPE_F32
_NO_FLASH = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
_ERROR_LEVEL = 3  # GGML_LOG_LEVEL_ERROR


@dataclass(eq=False)
class LlamaCppCache:
    """One sequence of the context that all caches of a model share. Dropping it gives the sequence back."""

    sequence: int
    held: list[int]
    """Positions that each sequence of the context holds; the model's own list."""

    @property
    def length(self) -> int:
        return self.held[self.sequence]


class LlamaCppModel(LocalEngine):
    """A `LanguageModel` and a `TargetEngine` over a GGUF file: a batch is one `llama_decode`, whatever its lengths.

    All caches share one context. Calls from several threads take turns.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        name: str | None = None,
        sequences: int = 8,
        positions: int | None = None,
    ) -> None:
        """Loads the model.

        path: a GGUF file, or a folder that holds one.
        threads: of one call; None takes 1 for a small model (under 256 MB), else half the logical cores.
        name: what the model is called; None takes the folder's name, or the file's.
        sequences: most caches at once, up to 256.
        positions: most in all caches together, whose memory is taken now; None takes the model's context times
        `sequences`, but at most 4 GB. A text never exceeds it, so it may lower `max_context`.
        Raises: `ModelError` if llama-cpp-python or the file is missing, the file is broken, or the model is none whose
        cache rolls back.
        """
        self._library = _library()
        api = self._library.api
        _within("sequences", sequences, api.llama_max_parallel_sequences())
        _within("positions", positions, _MOST_32_BITS)
        _within("threads", threads, _MOST_THREADS)
        file = gguf_file(path)
        model = self._library.load(file)
        free = weakref.finalize(self, api.llama_model_free, model)
        _refuse(api, model, file)

        vocabulary = api.llama_model_get_vocab(model)
        vocab_size = int(api.llama_vocab_n_tokens(vocabulary))
        trained = int(api.llama_model_n_ctx_train(model))
        bytes_each, even = _position_bytes(api, model)
        if positions is None:
            positions = min(trained * sequences, _MOST_CACHE_BYTES // bytes_each)
        self._positions = positions
        self.info = EngineInfo(
            name=name if name is not None else path.resolve().stem if path.is_file() else path.resolve().name,
            vocab_size=vocab_size,
            max_context=min(trained, positions),
            eos_ids=tuple(i for i in range(vocab_size) if api.llama_vocab_is_eog(vocabulary, i)),
            max_batch=sequences,
            max_caches=sequences,
            max_positions=positions,
            position_bytes=bytes_each if even else None,
        )

        if threads is None:
            threads = 1 if file.stat().st_size < _SMALL_BYTES else max(1, (os.cpu_count() or 1) // 2)
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = positions, sequences
        params.n_threads = params.n_threads_batch = threads
        # Where there is room for a whole context each, each has its own. Else one pool, where texts of any lengths
        # share the room, and pay with attention to what all of them hold, masked: with 5 M parameters, a token after
        # one of 8 texts of 200 positions takes 1.5 ms in the pool and 0.6 ms in a room of its own.
        params.kv_unified = positions < trained * sequences
        # Of sliding-window models keep everything: what has slid out of the window could not be rolled back to.
        params.swa_full = True
        # A row must not depend on how many tokens are fed at once, or a verification takes another token for the most
        # likely one than a forward would. Flash attention and half-precision keys and values set rows of 1 and of 6
        # tokens 6e-3 apart in fp32, and rows of 1 and of 64 0.24 in Q8_0. Without either it is 1e-5, and nothing.
        params.type_k = params.type_v = _F32
        params.flash_attn_type = _NO_FLASH
        self._context = api.llama_init_from_model(model, params)
        if not self._context:
            raise ModelError(
                f"llama.cpp cannot hold {positions} positions of {file} ({self._library.complaint()}); give fewer"
            )
        free.detach()
        weakref.finalize(self, _free, api, self._context, model)
        self._memory = api.llama_get_memory(self._context)
        if not self._memory:
            raise ModelError(f"{file} has no key-value cache, so it writes no text; choose a causal decoder")
        self._width = int(api.llama_n_batch(self._context))
        """Most tokens of one llama_decode."""
        self._held = [0] * sequences
        """Positions each sequence holds."""
        self._unused = list(reversed(range(sequences)))
        # A cache is dropped in whatever thread, during a call maybe: its sequence waits here for the next one.
        self._dropped: deque[int] = deque()
        self._turn = threading.Lock()

    def new_cache(self) -> LlamaCppCache:
        """An empty cache. Raises: `ModelError` if `max_caches` are in use."""
        with self._turn:
            return self._new()

    def copy(self, cache: LlamaCppCache, length: int) -> LlamaCppCache:
        """See `Copier.copy`."""
        with self._turn:
            check_copy(self.info, cache, length)
            made, free = self._new(), self._positions - sum(self._held)
            if length > free:
                raise ModelError(
                    f"{self.name} has {free} of its {self._positions} positions free, and a copy needs {length}; "
                    "drop a cache, or load it with more positions"
                )
            api = self._library.api
            # Between rooms of their own llama.cpp copies whole sequences only.
            api.llama_memory_seq_cp(self._memory, cache.sequence, made.sequence, -1, -1)
            if length < cache.length:
                api.llama_memory_seq_rm(self._memory, made.sequence, length, -1)
            self._held[made.sequence] = length
            return made

    def _new(self) -> LlamaCppCache:
        self._reclaim()
        if not self._unused:
            raise ModelError(
                f"{self.name} has all {self.info.max_caches} caches in use; drop one, or load it with more"
            )
        made = LlamaCppCache(self._unused.pop(), self._held)
        weakref.finalize(made, self._dropped.append, made.sequence)
        return made

    def forward(self, cache: LlamaCppCache, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`."""
        [found] = self.verify([Part(cache, keep, tokens, rows)])
        if isinstance(found, AirdraftError):
            try:
                raise found
            finally:
                del found  # its traceback holds this frame: a circle in which the cache would stay
        return found

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`. If llama.cpp itself fails, the caches of the batch are empty afterwards."""
        with self._turn:
            self._reclaim()
            found = [self._roll_back(part) for part in batch]
            fed = [part for part, error in zip(batch, found, strict=True) if error is None]
            try:
                rows = iter(self._decode(fed))
            except ModelError as failure:
                for part in fed:
                    self._empty(part.cache.sequence)
                return [error or failure.with_traceback(None) for error in found]
            return [error or next(rows) for error in found]

    def _roll_back(self, part: Part) -> ModelError | None:
        """Make room for a part of a batch and count it as fed; or say why not, and leave its cache as it is."""
        sequence, keep, n = part.cache.sequence, part.keep, len(part.tokens)
        held = self._held[sequence]
        try:
            check(self.info, part)
        except ModelError as error:
            return error.with_traceback(None)  # which would hold on to the cache
        free = self._positions - sum(self._held)
        if keep + n - held > free:
            return ModelError(
                f"{self.name} has {free} of its {self._positions} positions free, and a text needs "
                f"{keep + n - held} more; drop a cache, or load it with more positions"
            )
        if keep < held and not self._library.api.llama_memory_seq_rm(self._memory, sequence, keep, -1):
            return ModelError(f"llama.cpp cannot roll {self.name} back to {keep} positions; choose another model")
        self._held[sequence] = keep + n
        return None

    def _decode(self, parts: Sequence[Part]) -> list[FloatArray]:
        """The rows of each part, float32 [rows, vocab_size]."""
        api = self._library.api
        ids = {part.cache.sequence: (c_int32 * 1)(part.cache.sequence) for part in parts}
        fed = [
            (token, part.keep + i, ids[part.cache.sequence], i >= len(part.tokens) - part.rows)
            for part in parts
            for i, token in enumerate(part.tokens)
        ]
        logits = np.empty((sum(part.rows for part in parts), self.vocab_size), np.float32)
        done = 0
        for start in range(0, len(fed), self._width):
            tokens, positions, sequences, wanted = zip(*fed[start : start + self._width], strict=True)
            n = len(tokens)
            code = api.llama_decode(self._context, api.llama_batch(
                n, (c_int32 * n)(*tokens), None, (c_int32 * n)(*positions), (c_int32 * n)(*[1] * n),
                (POINTER(c_int32) * n)(*sequences), (c_int8 * n)(*wanted),
            ))  # fmt: skip
            if code != 0:
                raise ModelError(
                    f"{self.name} cannot run {n} tokens (llama_decode: {code}, {self._library.complaint()}); "
                    "its caches are empty now, feed the texts again"
                )
            if rows := sum(wanted):
                # llama.cpp's own buffer, which the next call overwrites: the rows wanted, in order.
                wanted_rows = logits[done : done + rows]
                memmove(wanted_rows.ctypes.data, api.llama_get_logits(self._context), wanted_rows.nbytes)
                done += rows
        ends = list(accumulate(part.rows for part in parts))
        return [logits[end - part.rows : end] for part, end in zip(parts, ends, strict=True)]

    def _reclaim(self) -> None:
        while self._dropped:
            sequence = self._dropped.popleft()
            self._empty(sequence)
            self._unused.append(sequence)

    def _empty(self, sequence: int) -> None:
        self._library.api.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._held[sequence] = 0


def _position_bytes(api: Any, model: Any) -> tuple[int, bool]:
    """Of one position's keys and values in fp32, if all layers are like the first; and whether they are."""
    facts = _metadata(api, model)
    prefix = f"{facts.get('general.architecture')}.attention."
    heads, kv_heads = int(api.llama_model_n_head(model)), int(api.llama_model_n_head_kv(model))
    shared = str(api.llama_model_n_embd(model) // max(1, heads))
    width = sum(int(facts.get(f"{prefix}{part}_length", shared)) for part in ("key", "value"))
    # Numbers that differ from layer to layer are no scalar, so the metadata here lack them.
    even = int(facts.get(f"{prefix}head_count_kv", heads)) == kv_heads
    even = even and not any(prefix + name in facts for name in _UNEVEN)
    return 4 * max(1, kv_heads * width) * int(api.llama_model_n_layer(model)), even


def _within(what: str, value: int | None, most: int) -> None:
    """llama.cpp aborts the process on some numbers that make no sense. Raises: `ModelError`."""
    if value is not None and not 1 <= value <= most:
        raise ModelError(f"llama.cpp takes 1 to {most} {what}, not {value}; choose a number between")


def gguf_file(path: Path) -> Path:
    """The one GGUF file that `path` is or holds, the first part of one in parts. Raises: `ModelError`."""
    if path.is_file():
        return path
    found = sorted(file for file in path.glob("*.gguf") if not _LATER_PART.search(file.name))
    if not found:
        raise ModelError(f"{path} has no .gguf file; fetch one, or write it with `airdraft gguf`")
    if len(found) > 1:
        raise ModelError(f"{path} has {', '.join(file.name for file in found)}; name the file you mean")
    return found[0]


class _Library:
    """llama.cpp, loaded once and silent: the last error it logged goes into ours."""

    def __init__(self) -> None:
        try:
            from llama_cpp import llama_cpp as api  # noqa: PLC0415  # an extra, and half a second
        except ImportError as problem:
            raise ModelError("the llamacpp engine needs llama-cpp-python; install airdraft[llamacpp]") from problem
        self.api: Any = api
        self._errors: deque[str] = deque(maxlen=1)

        def listen(level: int, text: bytes, _: object) -> None:
            if level == _ERROR_LEVEL:
                self._errors.append(" ".join(text.decode(errors="replace").split()))

        self._listener = api.llama_log_callback(listen)  # kept: llama.cpp calls it for as long as the process lives
        api.llama_log_set(self._listener, None)
        api.llama_backend_init()

    def load(self, file: Path) -> Any:
        """The model in `file`. Raises: `ModelError`."""
        params = self.api.llama_model_default_params()
        # The buffers for repacked weights end in a segmentation fault on CPUs with AMX.
        params.use_extra_bufts = False
        self._errors.clear()
        model = self.api.llama_model_load_from_file(os.fsencode(file), params)
        if not model:
            raise ModelError(f"{file} cannot be loaded ({self.complaint()}); fetch or write it again")
        return model

    def complaint(self) -> str:
        """The last error llama.cpp logged, one line."""
        return self._errors[-1] if self._errors else "llama.cpp does not say why"


@cache
def _library() -> _Library:
    return _Library()


def _free(api: Any, context: Any, model: Any) -> None:
    api.llama_free(context)
    api.llama_model_free(model)


def _metadata(api: Any, model: Any) -> dict[str, str]:
    """The scalar metadata of a model, as llama.cpp spells it."""

    def text(read: Any, i: int) -> str:
        buffer = create_string_buffer(256)
        read(model, i, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    names = range(api.llama_model_meta_count(model))
    key, value = api.llama_model_meta_key_by_index, api.llama_model_meta_val_str_by_index
    return {text(key, i): text(value, i) for i in names}


def _refuse(api: Any, model: Any, file: Path) -> None:
    """Raises: `ModelError` naming the architecture if it is no causal decoder whose cache rolls back."""
    facts = _metadata(api, model)
    family = facts.get("general.architecture", "unknown")
    kind = None
    if api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model):
        kind = "its recurrent state cannot be rolled back"
    elif api.llama_model_has_encoder(model) or not api.llama_model_has_decoder(model):
        kind = "it has an encoder"
    elif api.llama_model_is_diffusion(model) or facts.get(f"{family}.attention.causal") == "false":
        kind = "it is not causal"
    elif facts.get(f"{family}.pooling_type", "0") != "0":
        kind = "it makes embeddings"
    if kind is not None:
        raise ModelError(f"{file} is a {family} model and {kind}; choose a causal decoder with attention throughout")
