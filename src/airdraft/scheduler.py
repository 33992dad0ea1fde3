"""Whose turn it is: forwards of many texts share the calls of one engine, and its memory.

Every call takes all forwards that are ready at that moment, so a batch is what has gathered while the last one ran;
nobody waits for it to fill. A long prompt is fed piece by piece, so that it holds no other text up for longer than a
piece takes (Agrawal et al. 2024, Sarathi-Serve §4). Who was served least lately goes first, connection by connection.
When memory is full, the text that has rested longest loses its cache; what it needs of that is fed again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from airdraft.core.events import Forward
from airdraft.errors import AirdraftError, ModelError, RefusedError
from airdraft.models.base import FloatArray, Part, TargetEngine

_log = logging.getLogger(__name__)

PIECE = 128
"""Tokens of prompts in one call, at most."""
SHORT_S = 0.004
"""A call that takes less runs in the loop's own thread, if there is but one text. To hand it to another, and to wake
for its result, takes up to half a millisecond on a small machine, and is worth it only to keep the loop free."""
SHORT_TOKENS = 16
"""Tokens that such a call may feed: the time of the last one says nothing about a long prompt."""
TURNS = 3
"""Turns of the loop before such a call: what came while the last one ran is read in the first, acted on in the second,
and answered in the third. Else a commit, or a draft, would leave only after the forward that follows it."""


@dataclass
class Owner:
    """Whoever texts belong to: a connection."""

    served: int = 0
    """When it was served last, in calls."""


@dataclass(frozen=True)
class Call:
    """One call of the engine, for who measures."""

    seconds: float
    texts: int
    tokens: int
    """Fed, of all texts."""


@dataclass(eq=False)
class Text:
    """One sequence in the engine."""

    owner: Owner
    tokens: list[int] = field(default_factory=list)
    """As fed last."""
    cache: Any = None
    """None before the first call, and after an eviction."""
    cached: int = 0
    """The first so many tokens are in the cache."""
    used: int = 0
    """When it was run last, in calls."""
    running: bool = False
    since: float = math.inf
    """Arrival of the forward that it is halfway through, more pieces to come. No later one may take its cache, or two
    long texts would for ever take it from each other."""
    over: bool = False
    on_call: Callable[[Call], None] | None = None
    """Told after every call that it had a part in."""


@dataclass(eq=False)
class _Job:
    text: Text
    latest: Callable[[], Forward]
    done: asyncio.Future[FloatArray]
    arrival: int


@dataclass(frozen=True, eq=False)
class _Piece:
    """What a job gets in one call."""

    job: _Job
    tokens: list[int]
    """The whole text, to the end of the forward."""
    start: int
    end: int
    rows: int
    """0 unless this piece is the last."""

    @property
    def last(self) -> bool:
        return self.end == len(self.tokens)


class Scheduler:
    """Forwards of one engine, in an event loop."""

    def __init__(
        self,
        engine: TargetEngine,
        name: str,
        *,
        max_batch: int | None = None,
        max_positions: int | None = None,
        max_texts: int | None = None,
    ) -> None:
        """
        Args:
            name: of its threads.
            max_batch: texts in one call; None: as many as the engine takes.
            max_positions: key-value positions that all caches together may hold, if more than one text is there.
            max_texts: that may be open at once. Each waits for at most one forward, so this bounds the queue.
        """
        self.engine = engine
        self._max_batch = min(engine.info.max_batch, max_batch or engine.info.max_batch)
        self._max_positions = min(engine.info.max_positions or math.inf, max_positions or math.inf)
        self._max_texts = max_texts
        self._executor = ThreadPoolExecutor(engine.info.max_calls, name)
        self._texts: set[Text] = set()
        self._waiting: list[_Job] = []
        self._closed = False
        self._calls = 0
        self._under_way = 0
        self._took_s = SHORT_S  # the last call; unknown is not short
        self._arrivals = itertools.count()
        self.on_call: Callable[[Call], None] | None = None
        """Told after every call."""
        self.evictions = 0
        """Caches taken from texts that were still being written."""

    def open(self, owner: Owner) -> Text:
        """A place for a text. Raises: `RefusedError` ("busy") if there is none."""
        if self._max_texts is not None and len(self._texts) >= self._max_texts:
            raise RefusedError("busy", f"the edge writes {len(self._texts)} texts at once already; try again later")
        text = Text(owner)
        self._texts.add(text)
        return text

    def drop(self, text: Text) -> None:
        """The text is over; its cache is freed, once no call runs on it."""
        text.over = True
        if not text.running:
            self._forget(text)
            self._start()  # somebody may wait for a cache

    def _forget(self, text: Text) -> None:
        self._texts.discard(text)
        text.cache = None

    async def run(self, text: Text, latest: Callable[[], Forward]) -> FloatArray:
        """Wait for a turn, then run what `latest` says by then. One at a time for each text.

        Returns: float32 [rows, vocab]. Raises: `ModelError`, `RefusedError` ("busy") once the scheduler is closed.
        """
        if self._is_short():
            for _ in range(TURNS):
                await asyncio.sleep(0)
        if self._closed:
            raise _closed()
        job = _Job(text, latest, asyncio.get_running_loop().create_future(), next(self._arrivals))
        self._waiting.append(job)
        self._start()
        try:
            return await job.done
        finally:
            if job in self._waiting:  # cancelled before its turn
                self._waiting.remove(job)
                text.since = math.inf
            del job  # a traceback would hold on to it, and through it to itself

    @property
    def texts(self) -> int:
        """Texts that are open."""
        return len(self._texts)

    @property
    def waiting(self) -> int:
        """Forwards that wait for their turn."""
        return len(self._waiting)

    @property
    def positions(self) -> int:
        """Key-value positions held."""
        return sum(text.cached for text in self._texts if text.cache is not None)

    def close(self) -> None:
        """Nothing more is to be run. What waits, and what still comes, ends with an error."""
        self._closed = True
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            if not job.done.done():
                job.done.set_exception(_closed())
        self._executor.shutdown(cancel_futures=True)

    def _start(self) -> None:
        """Calls, as long as the engine takes one and something is ready."""
        while not self._closed and self._under_way < self.engine.info.max_calls and (batch := self._gather()):
            self._calls += 1
            self._under_way += 1
            for piece in batch:
                text = piece.job.text
                text.running, text.used, text.owner.served = True, self._calls, self._calls
                self._waiting.remove(piece.job)
            if self._is_short() and batch[0].end - batch[0].start <= SHORT_TOKENS:
                self._settle(batch, *self._call(batch))
                continue
            future = asyncio.get_running_loop().run_in_executor(self._executor, self._call, batch)
            future.add_done_callback(lambda done, batch=batch: self._settled(batch, done))  # type: ignore[misc]

    def _is_short(self) -> bool:
        """Whether the next call is to run in the loop's thread, if it feeds few tokens.

        Not where several may run at once: such an engine waits for a server, which may not answer for long.
        """
        return self._took_s < SHORT_S and len(self._texts) == 1 and self.engine.info.max_calls == 1

    def _call(self, batch: Sequence[_Piece]) -> tuple[Sequence[FloatArray | AirdraftError], float]:
        """What the engine gave, and the seconds it took."""
        parts = [Part(each.job.text.cache, each.start, each.tokens[each.start : each.end], each.rows) for each in batch]
        began_s = perf_counter()
        found: Sequence[FloatArray | AirdraftError]
        try:
            found = self.engine.verify(parts)
        except Exception:  # the engine's own fault: it ends these texts and no others
            name = self.engine.info.name
            _log.exception("a forward of %s failed", name)
            found = [ModelError(f"{name} failed to run; see the log of the side that runs it") for _ in parts]
        self._took_s = took_s = perf_counter() - began_s
        return found, took_s

    def _settled(
        self, batch: list[_Piece], done: asyncio.Future[tuple[Sequence[FloatArray | AirdraftError], float]]
    ) -> None:
        if done.cancelled():
            self._settle(batch, [_closed() for _ in batch], 0.0)
        else:
            self._settle(batch, *done.result())
        self._start()

    def _settle(self, batch: list[_Piece], found: Sequence[FloatArray | AirdraftError], took_s: float) -> None:
        """Hand the results out. A text with more to feed waits for its next turn."""
        self._under_way -= 1
        call = Call(took_s, len(batch), sum(piece.end - piece.start for piece in batch))
        if self.on_call is not None:
            self.on_call(call)
        for piece, rows in zip(batch, found, strict=True):
            job, text = piece.job, piece.job.text
            text.running, text.since = False, math.inf
            if text.on_call is not None:
                text.on_call(call)
            if not isinstance(rows, AirdraftError):
                text.tokens, text.cached = piece.tokens, piece.end
            if text.over:
                self._forget(text)
            if job.done.done():  # cancelled meanwhile
                continue
            if isinstance(rows, AirdraftError):
                job.done.set_exception(rows)
            elif piece.last:
                job.done.set_result(rows)
            elif self._closed:
                job.done.set_exception(_closed())
            else:
                text.since = job.arrival
                self._waiting.append(job)

    def _gather(self) -> list[_Piece]:
        """The next batch, with caches for all of it."""
        ready = [(job, job.latest()) for job in self._waiting if not job.done.done() and not job.text.running]
        batch: list[_Piece] = []
        left = PIECE
        for job, forward in _in_turn(ready):
            if len(batch) == self._max_batch:
                break
            piece = self._piece(job, forward, left)
            if piece is None or not self._has_room(piece, batch):
                continue
            if piece.end - piece.start > max(piece.rows, 1):
                left -= piece.end - piece.start
            batch.append(piece)
        return batch

    def _piece(self, job: _Job, forward: Forward, left: int) -> _Piece | None:
        """What of a forward to run now, where prompts may have `left` tokens. None: nothing."""
        text = job.text
        tokens = [*text.tokens[: forward.keep], *forward.tokens]
        start, end = min(forward.keep, text.cached), len(tokens)  # less is cached where it lost its cache
        while start < text.cached and start < end and tokens[start] == text.tokens[start]:
            start += 1  # a piece of it is there already
        start = min(start, end - max(forward.rows, 1))
        # An engine that runs calls side by side takes whole prompts: nobody waits for them.
        if self.engine.info.max_calls > 1 or end - start <= max(forward.rows, 1):
            return _Piece(job, tokens, start, end, forward.rows)
        if left <= 0:
            return None
        if end - start <= left:
            return _Piece(job, tokens, start, end, forward.rows)
        return _Piece(job, tokens, start, min(start + left, end - max(forward.rows, 1)), 0)

    def _has_room(self, piece: _Piece, batch: list[_Piece]) -> bool:
        """See that its text has a cache and there is room in it, if need be by taking those of others.

        False: what there is, is needed by who runs just now or came before; or there is none at all.
        """
        text = piece.job.text
        if not self._takes_room(piece, batch):
            return False
        if text.cache is None:
            try:
                text.cache = self.engine.new_cache()
            except AirdraftError as error:
                piece.job.done.set_exception(error)
                return False
        return True

    def _takes_room(self, piece: _Piece, batch: list[_Piece]) -> bool:
        """Evicts whom it must, or says that it cannot."""
        text = piece.job.text
        if self._max_positions == math.inf and (text.cache is not None or self.engine.info.max_caches is None):
            return True  # no limit: with a thousand texts at rest it would take long to look
        held = [each for each in self._texts if each.cache is not None and each is not text]
        busy = {each.job.text for each in batch}
        free = [each for each in held if not (each.running or each in busy) and each.since > piece.job.arrival]
        free.sort(key=lambda each: each.used)
        positions = (
            sum(each.cached for each in held) + sum(each.end - each.job.text.cached for each in batch) + piece.end
        )
        over = positions - self._max_positions
        missing = 0 if text.cache is not None else len(held) + 1 - (self.engine.info.max_caches or math.inf)
        taken = 0
        while taken < len(free) and (over > 0 or taken < missing):
            over -= free[taken].cached
            taken += 1
        if (over > 0 or taken < missing) and taken < len(held):
            return False  # a text that has all memory to itself may try, however long it is
        for each in free[:taken]:
            each.cache, each.cached = None, 0
            self.evictions += 1
        return True


def _closed() -> RefusedError:
    return RefusedError("busy", "no more is written here; go on elsewhere, or here later")


def _in_turn(ready: list[tuple[_Job, Forward]]) -> list[tuple[_Job, Forward]]:
    """Spare forwards last; the first of every owner before the second of any; who was served least lately first."""
    ready.sort(key=lambda each: (each[1].spare, each[0].text.owner.served, each[0].arrival))
    seen: dict[int, int] = {}
    ranked = []
    for at, (job, forward) in enumerate(ready):
        owner = id(job.text.owner)
        seen[owner] = seen.get(owner, 0) + 1
        ranked.append((forward.spare, seen[owner], at))
    return [ready[at] for _, _, at in sorted(ranked)]
