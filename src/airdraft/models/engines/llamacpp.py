"""GGUF models run by llama.cpp, through the low-level functions of llama-cpp-python (extra `llamacpp`)."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from ctypes import create_string_buffer
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import EngineInfo, FloatArray, LocalEngine, Part, Threads, check, check_copy
from airdraft.models.engines.llamacpp_rooms import KV_TYPES, KvType, Rooms, Seat
from airdraft.models.files.digest import words
from airdraft.models.files.weights import gguf_files, visible
from airdraft.models.fit import context_of, cores

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

    switch_s = 0.0
    """See `Threaded`."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        name: str | None = None,
        sequences: int = 8,
        positions: int | None = None,
        context: int | None = None,
        kv_type: str | None = None,
        gpu_layers: int | None = None,
    ) -> None:
        """Loads the model.

        path: a GGUF file, or a folder that holds one.
        threads: of one call; None takes 1 for a small model (under 256 MB), else one per core.
        name: what the model is called; None takes the folder's name, or the file's.
        sequences: most caches at once, up to 256.
        positions: most in all caches together, each as long as the longest; None takes the model's context times
        `sequences`, but at most 4 GB. Memory is taken as texts need it. A text never exceeds it, so it may lower
        `max_context`.
        context: most positions of a text that somebody will ask for, for which memory must be there; None: as many as
        `positions` leave.
        kv_type: of keys and values, one of `KV_TYPES`; None: f32.
        gpu_layers: that run on a GPU; None: all, if there is one that llama.cpp was built for.
        Raises: `ModelError` if llama-cpp-python or the file is missing, the file is broken, or the model is none whose
        cache rolls back.
        """
        self._library = _library()
        api = self._library.api
        _within("sequences", sequences, api.llama_max_parallel_sequences())
        _within("positions", positions, _MOST_32_BITS)
        _within("threads", threads, _MOST_THREADS)
        kept = _kv_type(kv_type)
        file = gguf_file(path)
        if context is not None or kept.block > 1:
            self._library.check(file, context, kept)
        model = self._library.load(file, gpu_layers)
        free = weakref.finalize(self, api.llama_model_free, model)
        _refuse(api, model, file)

        vocabulary = api.llama_model_get_vocab(model)
        vocab_size = int(api.llama_vocab_n_tokens(vocabulary))
        trained = int(api.llama_model_n_ctx_train(model))
        numbers, even = _position_numbers(api, model)
        bytes_each = kept.size(numbers)
        if positions is None:
            positions = max(min(trained * sequences, _MOST_CACHE_BYTES // bytes_each), (context or 0) + _NARROW)
        self._positions = positions
        started = Threads(threads or (1 if file.stat().st_size < _SMALL_BYTES else cores()))
        self.info = EngineInfo(
            name=name if name is not None else path.resolve().stem if path.is_file() else path.resolve().name,
            vocab_size=vocab_size,
            # Some more than are asked for: a forward may feed its last token again.
            max_context=min(trained, positions, *([] if context is None else [context + _NARROW])),
            eos_ids=tuple(i for i in range(vocab_size) if api.llama_vocab_is_eog(vocabulary, i)),
            max_batch=sequences, max_caches=sequences, max_positions=positions, rooms=True, threads=started,
            position_bytes=bytes_each if even else None,
            # The default says nothing, so that it is the same target as ever.
            digest=words("keys and values", kept.name) if kept is not KV_TYPES[0] else b"",
        )  # fmt: skip
        self._rooms = Rooms(
            api, model, self._library.complaint, threads=started.count, kv_type=kept, count=sequences,
            length=self.info.max_context + _NARROW, positions=positions,
        )  # fmt: skip
        free.detach()
        if not self._rooms.memory:
            raise ModelError(f"{file} has no key-value cache, so it writes no text; choose a causal decoder")
        self._seats: set[Seat] = set()
        # A cache is dropped in whatever thread, during a call maybe: its seat waits here for the next one.
        self._dropped: deque[Seat] = deque()
        self._turn = threading.Lock()

    def use_threads(self, threads: Threads) -> None:
        """See `Threaded.use_threads`."""
        with self._turn:
            self._rooms.use_threads(threads.count)
            self.info = replace(self.info, threads=threads)

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
        return self.branch(Part(cache, keep, tokens, rows))

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
        tokens, positions, rooms, wanted = zip(*_flat(parts, start, end), strict=True)
        try:
            rows = self._rooms.decode(tokens, positions, rooms, wanted, self.vocab_size)
        except ModelError as problem:
            what = f"{self.name} cannot run {len(tokens)} tokens ({problem})"
            raise ModelError(f"{what}; its caches are empty now, feed the texts again") from problem
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


def _flat(parts: Sequence[Part], start: int, end: int) -> Iterator[tuple[int, int, int, bool]]:
    """Token, position, room, and whether its row is wanted, of the tokens from `start` to `end` of each part."""
    for part in parts:
        n = len(part.tokens)
        for i in range(start, end):
            yield part.tokens[min(i, n - 1)], part.keep + i, part.cache.seat.room, n - part.rows <= i < n


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


def _kv_type(name: str | None) -> KvType:
    """The type called so, or the default. Raises: `ModelError`."""
    found = [each for each in KV_TYPES if name in (None, each.name)]
    if not found:
        known = ", ".join(each.name for each in KV_TYPES)
        raise ModelError(f"llama.cpp keeps no keys and values in {name!r} here; choose one of {known}")
    return found[0]


def _position_numbers(api: Any, model: Any) -> tuple[int, bool]:
    """Numbers in one position's keys and values, if all layers are like the first; and whether they are."""
    facts = _metadata(api, model)
    prefix = f"{facts.get('general.architecture')}.attention."
    heads, kv_heads = int(api.llama_model_n_head(model)), int(api.llama_model_n_head_kv(model))
    shared = str(api.llama_model_n_embd(model) // max(1, heads))
    width = sum(int(facts.get(f"{prefix}{part}_length", shared)) for part in ("key", "value"))
    # Numbers that differ from layer to layer are no scalar, so the metadata here lack them.
    even = int(facts.get(f"{prefix}head_count_kv", heads)) == kv_heads
    even = even and not any(prefix + name in facts for name in _UNEVEN)
    return max(1, kv_heads * width) * int(api.llama_model_n_layer(model)), even


def _within(what: str, value: int | None, most: int) -> None:
    """llama.cpp aborts the process on some numbers that make no sense. Raises: `ModelError`."""
    if value is not None and not 1 <= value <= most:
        raise ModelError(f"llama.cpp takes 1 to {most} {what}, not {value}; choose a number between")


def gguf_file(path: Path) -> Path:
    """The one GGUF file that `path` is or holds, the first part of one in parts. Raises: `ModelError`."""
    if path.is_file():
        return path
    found = sorted(file for file in visible(path, "*.gguf") if not _LATER_PART.search(file.name))
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

    def load(self, file: Path, gpu_layers: int | None = None, header_only: bool = False) -> Any:
        """The model in `file`, or its metadata and vocabulary alone. Raises: `ModelError`."""
        if gpu_layers and not self.api.llama_supports_gpu_offload():
            raise ModelError(
                f"{gpu_layers} layers are to run on a GPU, and this llama.cpp was built without; leave the option out, "
                "or build llama-cpp-python for the GPU"
            )
        params = self.api.llama_model_default_params()
        params.vocab_only = header_only
        if gpu_layers is not None:
            params.n_gpu_layers = gpu_layers
        # The buffers for repacked weights end in a segmentation fault on CPUs with AMX.
        params.use_extra_bufts = False
        self._errors.clear()
        model = self.api.llama_model_load_from_file(os.fsencode(file), params)
        if not model:
            raise ModelError(f"{file} cannot be loaded ({self.complaint()}); fetch or write it again")
        return model

    def check(self, file: Path, context: int | None, kept: KvType) -> None:
        """Check before weights are read that `file` can keep so many positions so. Raises: `ModelError`."""
        header = self.load(file, header_only=True)
        facts = _metadata(self.api, header)
        self.api.llama_model_free(header)
        prefix = facts.get("general.architecture", "")

        def number(*names: str) -> int:
            said = (facts.get(f"{prefix}.{name}", "") for name in names)
            return next((int(each) for each in said if each.isdecimal()), 0)

        heads, width = number("attention.head_count"), number("embedding_length")
        widths = [number(f"attention.{part}_length") or width // max(1, heads) for part in ("key", "value")]
        if any(each % kept.block for each in widths):
            raise ModelError(
                f"{file} has heads of {widths[0]} numbers, and {kept.name} takes blocks of {kept.block}; keep keys and "
                "values in f16 or f32"
            )
        numbers = number("block_count") * number("attention.head_count_kv", "attention.head_count") * sum(widths)
        weights = sum(each.stat().st_size for each in gguf_files(file))
        context_of(file, context, number("context_length") or _MOST_32_BITS, kept.size(numbers), weights)

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
