"""GGUF models run by llama.cpp, through the low-level functions of llama-cpp-python (extra `llamacpp`)."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_int8, c_int32, create_string_buffer, memmove
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import EngineInfo, FloatArray, LocalEngine, Part, check, check_copy
from airdraft.models.llamacpp_rooms import Rooms, Seat

# A small model is over before a second thread has woken, as in ONNX Runtime; workers of llama.cpp also spin.
_SMALL_BYTES = 256_000_000
_MOST_CACHE_BYTES = 4_000_000_000
"""By default, of all caches together: 15,000 positions of a Llama 3 of 8 B parameters."""
_UNEVEN = ("kv_lora_rank", "shared_kv_layers", "key_length_swa")
"""Of a model's attention: where there is one of these, layers keep other keys and values than the heads tell."""
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
_MOST_32_BITS = 2**31 - 1
_MOST_THREADS = 512  # GGML_MAX_N_THREADS
_NARROW = 16
"""Parts of up to so many tokens share a decode, padded to the widest of them."""
_ERROR_LEVEL = 3  # GGML_LOG_LEVEL_ERROR


@dataclass(eq=False)
class LlamaCppCache:
    """One sequence of the context that all caches of a model share. Dropping it gives its room back."""

    seat: Seat

    @property
    def length(self) -> int:
        return self.seat.held


class LlamaCppModel(LocalEngine):
    """A `LanguageModel` and a `TargetEngine` over a GGUF file.

    All caches share one context, each in a room of its own. Parts of few tokens share a `llama_decode`, fed as many
    tokens each, so that llama.cpp does not cut it into others. Calls from several threads take turns.
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
        positions: most in all caches together, each as long as the longest; None takes the model's context times
        `sequences`, but at most 4 GB. Memory is taken as texts need it. A text never exceeds it, so it may lower
        `max_context`.
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
            rooms=True,
        )

        if threads is None:
            threads = 1 if file.stat().st_size < _SMALL_BYTES else max(1, (os.cpu_count() or 1) // 2)
        self._rooms = Rooms(
            api,
            model,
            self._library.complaint,
            threads=threads,
            count=sequences,
            length=self.info.max_context + _NARROW,
            positions=positions,
        )
        free.detach()
        if not self._rooms.memory:
            raise ModelError(f"{file} has no key-value cache, so it writes no text; choose a causal decoder")
        self._seats: set[Seat] = set()
        # A cache is dropped in whatever thread, during a call maybe: its seat waits here for the next one.
        self._dropped: deque[Seat] = deque()
        self._turn = threading.Lock()

    def new_cache(self) -> LlamaCppCache:
        """An empty cache. Raises: `ModelError` if `max_caches` are in use."""
        with self._turn:
            return self._new()

    def copy(self, cache: LlamaCppCache, length: int) -> LlamaCppCache:
        """See `Copier.copy`."""
        with self._turn:
            check_copy(self.info, cache, length)
            made = self._new()
            holders = [*self._holders([]), made.seat]
            longest = max(seat.held for seat in holders)
            if len(holders) * longest > self._positions:
                raise self._full(len(holders), longest)
            if length > 0:
                self._rooms.fit(holders, longest + _NARROW)
                self._rooms.copy(cache.seat, made.seat)
                made.seat.held = cache.seat.held
                self._cut(made.seat, length)
            return made

    def _new(self) -> LlamaCppCache:
        self._reclaim()
        if len(self._seats) == self.info.max_caches:
            raise ModelError(
                f"{self.name} has all {self.info.max_caches} caches in use; drop one, or load it with more"
            )
        made = LlamaCppCache(Seat())
        self._seats.add(made.seat)
        weakref.finalize(made, self._dropped.append, made.seat)
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
            found = [self._refused(part) for part in batch]
            fed = [part for part, error in zip(batch, found, strict=True) if error is None]
            try:
                self._make_room(fed)
            except ModelError as failure:
                return [error or failure.with_traceback(None) for error in found]
            try:
                rows = self._decode(fed)
            except ModelError as failure:
                for part in fed:
                    self._empty(part.cache.seat)
                return [error or failure.with_traceback(None) for error in found]
            return [error or rows[id(part)] for part, error in zip(batch, found, strict=True)]

    def _refused(self, part: Part) -> ModelError | None:
        """Why a part cannot be run, if so."""
        try:
            check(self.info, part)
        except ModelError as error:
            return error.with_traceback(None)  # which would hold on to the cache
        holders = self._holders([part])
        longest = max(seat.held for seat in holders if seat is not part.cache.seat) if len(holders) > 1 else 0
        longest = max(longest, part.keep + len(part.tokens))
        return self._full(len(holders), longest) if len(holders) * longest > self._positions else None

    def _full(self, texts: int, longest: int) -> ModelError:
        return ModelError(
            f"{self.name} holds {self._positions} positions, and {texts} texts as long as the longest of them need "
            f"{texts * longest}; drop a cache, or load it with more positions"
        )

    def _holders(self, parts: Sequence[Part]) -> list[Seat]:
        """The seats that hold something, or are about to."""
        fed = {part.cache.seat for part in parts}
        return [seat for seat in self._seats if seat.room is not None or seat in fed]

    def _make_room(self, parts: Sequence[Part]) -> None:
        """Rooms for all parts, rolled back to what they keep. Raises: `ModelError`; all caches are then as before."""
        holders = self._holders(parts)
        ends = [part.keep + max(len(part.tokens), _NARROW) for part in parts]
        self._rooms.fit(holders, max([*ends, *(seat.held for seat in holders)], default=0))
        for part in parts:
            self._cut(part.cache.seat, part.keep)

    def _cut(self, seat: Seat, keep: int) -> None:
        if not self._library.api.llama_memory_seq_rm(self._rooms.memory, seat.room, keep, -1):
            raise ModelError(f"llama.cpp cannot roll {self.name} back to {keep} positions; choose another model")
        seat.held = keep

    def _decode(self, parts: Sequence[Part]) -> dict[int, FloatArray]:
        """The rows of each part, float32 [rows, vocab_size], by its id."""
        found: dict[int, FloatArray] = {}
        for group in _groups(parts, self._rooms.call):
            width = max(len(part.tokens) for part in group)
            # Pieces of like size: one that is left over would be narrower than others.
            count = -(-width // self._rooms.call)
            pieces = []
            for start, end in pairwise(width * i // count for i in range(count + 1)):
                pieces.append(self._run(group, start, end))
            for part, *rows in zip(group, *pieces, strict=True):
                found[id(part)] = rows[0] if count == 1 else np.concatenate(rows)
                self._cut(part.cache.seat, part.keep + len(part.tokens))
        return found

    def _run(self, parts: Sequence[Part], start: int, end: int) -> list[FloatArray]:
        """One decode of the tokens from `start` to `end` of each part; the last one again where there are fewer."""
        api, n = self._library.api, len(parts) * (end - start)
        tokens, positions, sequences, wanted = zip(*_flat(parts, start, end), strict=True)
        code = api.llama_decode(self._rooms.context, api.llama_batch(
            n, (c_int32 * n)(*tokens), None, (c_int32 * n)(*positions), (c_int32 * n)(*[1] * n),
            (POINTER(c_int32) * n)(*sequences), (c_int8 * n)(*wanted),
        ))  # fmt: skip
        if code != 0:
            raise ModelError(
                f"{self.name} cannot run {n} tokens (llama_decode: {code}, {self._library.complaint()}); "
                "its caches are empty now, feed the texts again"
            )
        rows = np.empty((sum(wanted), self.vocab_size), np.float32)
        if len(rows):
            # llama.cpp's own buffer, which the next call overwrites: the rows wanted, in order.
            memmove(rows.ctypes.data, api.llama_get_logits(self._rooms.context), rows.nbytes)
        each = np.reshape(wanted, (len(parts), end - start)).sum(1).tolist()
        return [rows[stop - own : stop] for own, stop in zip(each, accumulate(each), strict=True)]

    def _reclaim(self) -> None:
        while self._dropped:
            seat = self._dropped.popleft()
            self._empty(seat)
            self._seats.discard(seat)

    def _empty(self, seat: Seat) -> None:
        if seat.room is not None:
            self._library.api.llama_memory_seq_rm(self._rooms.memory, seat.room, -1, -1)
        seat.room, seat.held = None, 0


def _flat(parts: Sequence[Part], start: int, end: int) -> Iterator[tuple[int, int, Any, bool]]:
    """Token, position, sequence, and whether its row is wanted, of the tokens from `start` to `end` of each part."""
    for part in parts:
        sequence, n = (c_int32 * 1)(part.cache.seat.room), len(part.tokens)
        for i in range(start, end):
            yield part.tokens[min(i, n - 1)], part.keep + i, sequence, n - part.rows <= i < n


def _groups(parts: Sequence[Part], most: int) -> list[list[Part]]:
    """The parts by decode, of up to `most` tokens where a part does not have more itself.

    Wide ones run alone. In the order of their rooms: llama.cpp cuts a decode where one is left out.
    """
    found: list[list[Part]] = []
    room = 0
    width = max((len(part.tokens) for part in parts if len(part.tokens) <= _NARROW), default=1)
    for part in sorted(parts, key=lambda part: int(part.cache.seat.room)):
        if len(part.tokens) > _NARROW:
            found.insert(0, [part])
        elif room < width:
            found.append([part])
            room = most - width
        else:
            found[-1].append(part)
            room -= width
    return found


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
