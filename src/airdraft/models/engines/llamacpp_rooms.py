"""Memory of llama.cpp: a room of its own for each sequence, in one context that grows with what the texts need.

In a pool that all sequences share, positions lie where there is room, so a sum over them is added up in an order that
depends on what else is there. In a room it does not. Memory of a context is touched when it is made, so there is little
at first; a larger context takes over what the rooms hold.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_int8, c_int32, c_uint8, memmove
from dataclasses import dataclass
from typing import Any

import numpy as np

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray

_BLOCK = 256
"""Positions by which rooms grow; llama.cpp rounds up to it as well."""
_FIRST = (2, 512)
"""Rooms and positions in each at first."""
_CALL = 128
"""Most tokens of one decode: as many as a scheduler feeds of prompts. More take memory and no less time on a CPU."""
_HEAD, _NUMBER = 8, 4
"""Bytes of a state's head, and of a number in it."""
_NO_FLASH, _FLASH = 0, 1  # LLAMA_FLASH_ATTN_TYPE_DISABLED, _ENABLED


@dataclass(frozen=True)
class KvType:
    """A type in which llama.cpp keeps keys and values: blocks of numbers, each of so many bytes."""

    name: str
    code: int
    block: int
    bytes: int

    def size(self, numbers: int) -> int:
        """Bytes of so many numbers."""
        return numbers * self.bytes // self.block


KV_TYPES = (KvType("f32", 0, 1, 4), KvType("f16", 1, 1, 2), KvType("q8_0", 8, 32, 34))
"""The default first. The codes are GGML_TYPE_*."""


@dataclass(eq=False)
class Seat:
    """Where a sequence lies."""

    room: int | None = None
    """None until something is fed."""
    held: int = 0
    """Positions."""


class Rooms:
    """A context of llama.cpp with `count` rooms of `length` positions each. It frees the model in the end."""

    def __init__(
        self,
        api: Any,
        model: Any,
        complaint: Callable[[], str],
        *,
        threads: int,
        kv_type: KvType,
        count: int,
        length: int,
        positions: int,
    ) -> None:
        """
        Args:
            complaint: tells what llama.cpp said last.
            count, length, positions: most rooms, most positions of a room, and of all rooms together.

        Raises: `ModelError` if there is no memory for the first few.
        """
        self._api, self._model, self._complaint, self._threads = api, model, complaint, threads
        self._kv_type = kv_type
        self._most = (count, length, positions)
        self.count, self.length = min(_FIRST[0], count), _blocks(min(_FIRST[1], length, -(-positions // count)))
        if api.llama_model_n_swa(model) > 0:  # two memories, whose states nobody can tell apart: all is taken now
            self.count, self.length = max(1, min(count, positions // length)), _blocks(min(length, positions))
        self._alive = [self._made(self.count, self.length)]
        weakref.finalize(self, _free, api, self._alive, model)
        self.call = min(_CALL, int(api.llama_n_batch(self.context)))
        """Most tokens of one decode."""

    @property
    def context(self) -> Any:
        """What llama.cpp decodes with; another one after `fit`."""
        return self._alive[0]

    @property
    def memory(self) -> Any:
        """The keys and values of the context; None where the model has none."""
        return self._api.llama_get_memory(self.context)

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], rooms: Sequence[int], wanted: Sequence[bool], width: int
    ) -> FloatArray:
        """Feed each token at its position of its room. Returns: the rows wanted, float32 [sum(wanted), width].

        Raises: `ModelError`, without a word of the model or a remedy.
        """
        n, api = len(tokens), self._api
        sequences: Any = [(c_int32 * 1)(room) for room in rooms]
        code = api.llama_decode(self.context, api.llama_batch(
            n, (c_int32 * n)(*tokens), None, (c_int32 * n)(*positions), (c_int32 * n)(*[1] * n),
            (POINTER(c_int32) * n)(*sequences), (c_int8 * n)(*wanted),
        ))  # fmt: skip
        if code != 0:
            raise ModelError(f"llama_decode: {code}, {self._complaint()}")
        rows = np.empty((sum(wanted), width), np.float32)
        if len(rows):
            # llama.cpp's own buffer, which the next call overwrites: the rows wanted, in order.
            memmove(rows.ctypes.data, api.llama_get_logits(self.context), rows.nbytes)
        return rows

    def use_threads(self, count: int) -> None:
        """Decode on so many threads from now on."""
        self._threads = count
        self._api.llama_set_n_threads(self.context, count, count)

    def fit(self, seats: Sequence[Seat], length: int) -> None:
        """Make rooms for `seats`, the only ones that hold anything, each of up to `length` positions.

        Raises: `ModelError` if there is no memory; all is then as it was.
        """
        free = sorted(set(range(self.count)) - {seat.room for seat in seats})
        homeless = [seat for seat in seats if seat.room is None]
        if length <= self.length and len(homeless) <= len(free):
            for seat, room in zip(homeless, free, strict=False):
                seat.room = room
            return
        count, wide = self._larger(len(seats), length)
        context = self._made(count, wide)
        try:
            for room, seat in enumerate(seats):
                if seat.held:
                    self._copy(seat, context, count, room)
        except ModelError:
            self._api.llama_free(context)
            raise
        self._api.llama_free(self.context)
        self._alive[0], self.count, self.length = context, count, wide
        for room, seat in enumerate(seats):
            seat.room = room

    def _larger(self, count: int, length: int) -> tuple[int, int]:
        """Rooms and positions in each, twice as many as now where that is not enough, if there is so much memory."""
        most_count, most_length, most = self._most
        more = self.count if count <= self.count else min(most_count, max(count, 2 * self.count))
        longer = (
            self.length if length <= self.length else min(_blocks(most_length), _blocks(max(length, 2 * self.length)))
        )
        if more * longer > most:
            return count, _blocks(length)
        return more, longer

    def copy(self, seat: Seat, to: Seat) -> None:
        """Put what `seat` holds into the room of another. Raises: `ModelError`."""
        self._copy(seat, self.context, self.count, to.room or 0)

    def _copy(self, seat: Seat, context: Any, count: int, room: int) -> None:
        """Put what `seat` holds into a room of another context, which has `count` of them."""
        api = self._api
        size = int(api.llama_state_seq_get_size(self.context, seat.room))
        state = (c_uint8 * size)()
        api.llama_state_seq_get_data(self.context, state, size, seat.room)
        moved = _state_of(bytes(state), self.count, int(seat.room or 0), count)
        if not api.llama_state_seq_set_data(context, (c_uint8 * len(moved)).from_buffer_copy(moved), len(moved), room):
            raise ModelError(
                f"llama.cpp cannot move a text to a larger room ({self._complaint()}); write shorter texts"
            )

    def _made(self, count: int, length: int) -> Any:
        params = self._api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = count * length, count
        params.n_batch = params.n_ubatch = _CALL
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = False
        # Of sliding-window models keep everything: what has slid out of the window could not be rolled back to.
        params.swa_full = True
        # Flash attention adds up in an order that depends on how many tokens are fed, whatever their number: it sets
        # rows of 2 and of 100 tokens 0.3 apart in Q8_0. Keys and values of 16 bits would be as steady as these.
        params.type_k = params.type_v = self._kv_type.code
        # Without it llama.cpp takes no values in blocks.
        params.flash_attn_type = _FLASH if self._kv_type.block > 1 else _NO_FLASH
        context = self._api.llama_init_from_model(self._model, params)
        if not context:
            raise ModelError(
                f"llama.cpp has no memory for {count} texts of {length} positions ({self._complaint()}); "
                "load the model with fewer sequences or positions"
            )
        return context


def _state_of(state: bytes, count: int, room: int, to: int) -> bytes:
    """The state of one sequence out of a context with `count` rooms, for one with `to`.

    After a head llama.cpp writes the number of rooms, and for each how many positions of the sequence it holds, and
    them: 0 for all but one. It reads only states of as many rooms, and puts what it finds where it is told.
    """
    head, sequence = state[:_HEAD], state[_HEAD + _NUMBER * (1 + room) : len(state) - _NUMBER * (count - 1 - room)]
    return head + to.to_bytes(_NUMBER, sys.byteorder) + sequence + bytes(_NUMBER * (to - 1))


def _free(api: Any, contexts: Sequence[Any], model: Any) -> None:
    for context in contexts:
        api.llama_free(context)
    api.llama_model_free(model)


def _blocks(positions: int) -> int:
    """So many positions and some more, as many as llama.cpp makes of them."""
    return -(-positions // _BLOCK) * _BLOCK
