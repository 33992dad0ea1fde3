"""The loop: forwards wait for their turn, calls of the engine run in threads, results go back to who waits.

Every call takes all forwards that are ready at that moment, so a batch is what has gathered while the last one ran;
nobody waits for it to fill. `turns` decides who goes next, and `caches` who may.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import monotonic, perf_counter
from typing import TypeVar

import numpy as np

from airdraft.core.events import Forward
from airdraft.errors import AirdraftError, Code, ModelError, RefusedError
from airdraft.models.base import Chooser, FloatArray, Part, TargetEngine
from airdraft.scheduler.beside import Beside
from airdraft.scheduler.caches import KEPT_BYTES, Caches
from airdraft.scheduler.choices import answers
from airdraft.scheduler.turns import Batch, Call, Ledger, Owner, Sequenced, Share, Turn, in_turn, who_yields

_log = logging.getLogger(__package__)
T = TypeVar("T")

SHORT_S = 0.004
"""A call that takes less runs in the loop's own thread, if there is but one text. To hand it to another, and to wake
for its result, takes up to half a millisecond on a small machine, and is worth it only to keep the loop free."""
SHORT_TOKENS = 16
"""Tokens that such a call may feed: the time of the last one says nothing about a long prompt."""
TURNS = 3
"""Turns of the loop before such a call: what came while the last one ran is read in the first, acted on in the second,
and answered in the third. Else a commit, or a draft, would leave only after the forward that follows it."""


@dataclass(eq=False)
class _Job:
    text: Sequenced
    latest: Callable[[], Forward]
    done: asyncio.Future[FloatArray]
    arrival: int
    begun: bool = False
    """Whether a piece of it was fed: what its picks name is then what is kept."""

    def forward(self) -> Forward:
        """What to run by now."""
        forward = self.latest()
        if not self.begun:
            return forward
        return replace(forward, keep=forward.keep + len(forward.picks), picks=())


_Batch = list[tuple[_Job, Share]]
_Found = Sequence[np.ndarray | AirdraftError]


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
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        """
        Args:
            name: of its threads.
            max_batch: texts in one call; None: as many as the engine takes.
            max_positions: key-value positions that all caches together may hold, if more than one text is there.
            max_texts: that may be open at once. Each waits for at most one forward, so this bounds the queue.
            kept_bytes: see `Caches`.
        """
        self.engine = engine
        info = engine.info
        self._max_batch = min(info.max_batch, max_batch or info.max_batch)
        self._max_calls = info.max_calls
        self._max_texts = max_texts
        self.caches = Caches(engine, max_positions, kept_bytes)
        self.caches.wake = self._start
        self._executor = ThreadPoolExecutor(info.max_calls, name)
        self._beside = Beside(f"{name}-beside")
        self._ledger = Ledger()
        self._texts: set[Sequenced] = set()
        self._waiting: dict[int, _Job] = {}  # by their arrival
        self._closed = False
        self._calls = 0
        self._under_way = 0
        self._took_s = SHORT_S  # the last call; unknown is not short
        self._arrivals = itertools.count()
        self.tenant = Owner()
        """Of sequences that have no other: all of a device's."""
        self.on_call: Callable[[Call], None] | None = None
        """Told after every call."""

    def open(self, owner: Owner, private: int | None = None) -> Sequenced:
        """A place for a text, if need be that of one that rests. Raises: `RefusedError` ("busy") if there is none."""
        text = self.caches.text(owner, monotonic(), private)
        if self._max_texts is not None and len(self._texts) >= self._max_texts:
            yields = who_yields(self._texts, text)
            if yields is None:
                what = f"the edge writes {len(self._texts)} texts at once already"
                raise RefusedError(Code.BUSY, f"{what}; try again later")
            self.drop(yields)
            if yields.on_yield is not None:
                yields.on_yield()
        self._texts.add(text)
        return text

    def unread(self, text: Sequenced, forward: Forward) -> int:
        """Count the tokens of a forward that would be fed, were it to run now: of a prompt what no other text holds.

        What the edge proposes itself does not count.
        """
        held = 0 if forward.keep else self.caches.held(text.owner, text.public(forward.tokens))
        return forward.due - max(0, held)

    @staticmethod
    def fed(text: Sequenced, forward: Forward) -> int:
        """Count the same of a forward that has run."""
        return forward.due - (0 if forward.keep else text.reused)

    def drop(self, text: Sequenced) -> None:
        """The text is over, once no call runs on it. Its cache is kept for texts that begin alike, or freed."""
        text.over = True
        self._texts.discard(text)
        if not text.running:
            self.caches.end(text, keeps=not self._closed)
            self._start()  # somebody may wait for a cache

    async def run(self, text: Sequenced, latest: Callable[[], Forward]) -> FloatArray:
        """Wait for a turn, then run what `latest` says by then. One at a time for each text.

        Returns: float32 [rows, vocab], or as in `Forward.needs`. Raises: `ModelError`, `RefusedError` once closed.
        """
        if self._is_short():
            for _ in range(TURNS):
                await asyncio.sleep(0)
        if self._closed:
            raise _closed()
        if text.over:
            raise yielded()
        job = _Job(text, latest, asyncio.get_running_loop().create_future(), next(self._arrivals))
        self._waiting[job.arrival] = job
        text.rested_s, text.asked = math.inf, job.arrival
        self._ledger.arrived(text)
        self._start()
        try:
            return await job.done
        finally:
            text.asked = math.inf
            if self._waiting.pop(job.arrival, None):  # cancelled before its turn
                text.since = math.inf
            text.rested_s = monotonic()
            del job  # a traceback would hold on to it, and through it to itself

    async def aside(self, work: Callable[[FloatArray], T], rows: FloatArray) -> T:
        """Do work on rows beside the engine's, see `Beside`. Raises what it raises, and as `run` once closed."""
        await self._beside.turn()
        if self._closed:
            raise _closed()
        return await self._beside.do(work, rows)

    @property
    def texts(self) -> int:
        """Texts that are open."""
        return len(self._texts)

    @property
    def waiting(self) -> int:
        """Forwards that wait for their turn."""
        return len(self._waiting)

    def close(self) -> None:
        """Nothing more is to be run. What waits, and what still comes, ends with an error."""
        self._closed = True
        waiting, self._waiting = self._waiting, {}
        for job in waiting.values():
            if not job.done.done():
                job.done.set_exception(_closed())
        self._executor.shutdown(cancel_futures=True)
        self._beside.close()

    def _start(self) -> None:
        """Calls, as long as the engine takes one and something is ready."""
        while not self._closed and self._under_way < self._max_calls and (shares := self._gather()):
            self._calls += 1
            self._under_way += 1
            batch = [(self._waiting.pop(share.arrival), share) for share in shares]
            self._ledger.served(shares)
            for share in shares:
                share.text.used = self._calls
                for text in share.texts:
                    text.running = True
            if self._is_short() and shares[0].fed <= SHORT_TOKENS and shares[0].splice is None:
                self._settle(batch, *self._call(shares))
                continue
            future = asyncio.get_running_loop().run_in_executor(self._executor, self._call, shares)
            future.add_done_callback(lambda done, batch=batch: self._settled(batch, done))  # type: ignore[misc]

    def _is_short(self) -> bool:
        """Whether the next call is to run in the loop's thread, if it feeds few tokens.

        Not where several may run at once: such an engine waits for a server, which may not answer for long.
        """
        return self._took_s < SHORT_S and len(self._texts) == 1 and self._max_calls == 1

    def _gather(self) -> list[Share]:
        """The shares of the next call, with caches for all of them."""
        turns = list[Turn]()
        for job in self._waiting.values():
            if not job.done.done() and not job.text.running:
                with _ending(job):
                    turns.append(Turn(job.text, job.forward(), job.arrival))
        # An engine that runs calls side by side takes whole prompts: nobody waits for them.
        batch = Batch(self._max_batch, pieces=self._max_calls == 1)
        for turn in in_turn(turns):
            if batch.full:
                break
            with _ending(self._waiting[turn.arrival]):
                began = self.caches.begin(turn, self._calls) if batch.takes_prompts else turn
                share = batch.share(began) if began is not None else None
                if share is not None and self.caches.has_room(share, batch.shares):
                    batch.add(share)
        return batch.shares

    def _call(self, shares: Sequence[Share]) -> tuple[_Found, float]:
        """What the engine gave, and the seconds it took."""
        began_s = perf_counter()
        found: _Found
        try:
            found = _ran(self.engine, [self.caches.part(share) for share in shares])
        except Exception:  # the engine's own fault: it ends these texts and no others
            name = self.engine.info.name
            _log.exception("a forward of %s failed", name)
            found = [ModelError(f"{name} failed to run; see the log of the side that runs it") for _ in shares]
        self._took_s = took_s = perf_counter() - began_s
        return found, took_s

    def _settled(self, batch: _Batch, done: asyncio.Future[tuple[_Found, float]]) -> None:
        if done.cancelled():
            self._settle(batch, [_closed() for _ in batch], 0.0)
        else:
            self._settle(batch, *done.result())
        self._start()

    def _settle(self, batch: _Batch, found: _Found, took_s: float) -> None:
        """Hand the results out. A text with more to feed waits for its next turn."""
        self._under_way -= 1
        call = Call(took_s, len(batch), sum(share.fed for _, share in batch))
        self._ledger.spent([share for _, share in batch], took_s)
        if self.on_call is not None:
            self.on_call(call)
        for (job, share), rows in zip(batch, found, strict=True):
            text = job.text
            text.since = math.inf
            if text.on_call is not None:
                text.on_call(call)
            self.caches.settle(share, failed=isinstance(rows, AirdraftError), keeps=not self._closed)
            if job.done.done():  # cancelled meanwhile
                continue
            if isinstance(rows, AirdraftError):
                job.done.set_exception(rows)
            elif share.is_last:
                job.done.set_result(rows)
            elif self._closed:
                job.done.set_exception(_closed())
            else:
                text.since, job.begun = job.arrival, True
                self._waiting[job.arrival] = job


@contextlib.contextmanager
def _ending(job: _Job) -> Iterator[None]:
    """Let an error, whatever it is, end this forward: raised, it would end others, and come again at every call."""
    try:
        yield
    except Exception as error:
        job.done.set_exception(error)


def _ran(engine: TargetEngine, batch: list[Part]) -> _Found:
    """What an engine gives for each part: rows, or where it chooses an array of tokens and rows."""
    if not (isinstance(engine, Chooser) and any(part.choice is not None for part in batch)):
        return engine.verify(batch)
    return [answers(each) if isinstance(each, list) else each for each in engine.choose(batch)]


def yielded() -> RefusedError:
    """What a text ends with that rested while another needed its place."""
    return RefusedError(Code.BUSY, "the text rested, and its place was needed; open it again to go on")


def _closed() -> RefusedError:
    return RefusedError(Code.BUSY, "no more is written here; go on elsewhere, or here later")
