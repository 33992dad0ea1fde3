"""Prompts at an edge: blocks of a store, fetched while their prompt is computed.

Reads only. What a store loses, damages or keeps back is computed, as if it had never been there.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airdraft.errors import AirdraftError
from airdraft.models.base import TargetEngine, Tensors
from airdraft.prompts.blocks import BLOCK, Layout, chain, folder_of
from airdraft.prompts.codecs import EXACT
from airdraft.prompts.codecs.base import Codec
from airdraft.prompts.pace import WINDOW, Meeting, Speeds
from airdraft.prompts.store import Prompt, PromptStore
from airdraft.scheduler.turns import Splice, Step

_log = logging.getLogger(__name__)

FEWEST = 2
"""Blocks of a prompt that are worth asking for."""
RENEW_S = 60.0
"""Seconds after which it is looked again what is published."""
REST_S = 30.0
"""Seconds in which a store that failed is not asked."""
FAILURES = 3
"""Blocks of one prompt that may fail before the rest of it is computed."""
MOST_BYTES = 1 << 30
"""Of blocks that are on their way, or wait to be taken over, of all prompts together."""


class StoredPrompts:
    """The published prompts of one target, for the scheduler; see `Elsewhere`."""

    def __init__(self, store: PromptStore) -> None:
        """Looks at what there is. A store that does not answer is asked again later."""
        self.store = store
        self.pace = Speeds()
        self._pool = ThreadPoolExecutor(WINDOW, "prompts")
        self._known: dict[bytes, Prompt] = {}
        self._lost: set[bytes] = set()
        self._renewed_s = self._rests_s = -math.inf
        self._renewing: asyncio.Future[None] | None = None
        self._bytes = 0
        self._renew()

    @classmethod
    def at(
        cls, url: str, engine: TargetEngine, codec: Codec = EXACT, options: Mapping[str, Any] | None = None
    ) -> StoredPrompts:
        """Those at a URL that this engine can use, written by `codec`. options: as of `PromptStore`.

        Raises: `ModelError`, `BadParameterError`.
        """
        layout = Layout.of(engine, codec)
        return cls(PromptStore(url, folder_of(engine, layout), layout, options))

    def ask(self, tokens: Sequence[int], at: int, wake: Callable[[], None]) -> Arriving | None:
        """See `Elsewhere.ask`."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._renewed_s > RENEW_S and self._renewing is None:
            self._renewed_s = now
            self._renewing = loop.run_in_executor(self._pool, self._renew)
            self._renewing.add_done_callback(self._renewal)
        if now < self._rests_s or not (self._known or self.store.unlisted):
            return None
        names = chain(tokens)
        while names and not self._may_have(names[-1]):
            names.pop()
        size = len(names) * self.store.layout.held_bytes
        if len(names) - at // BLOCK < FEWEST or self._bytes + size > MOST_BYTES:
            return None
        if names[-1] in self._known:
            loop.run_in_executor(self._pool, self.store.touch, self._known[names[-1]])
        return Arriving(self, loop, names, at, wake)

    def held(self, count: int) -> None:
        """Count bytes that are on their way or here; less than 0: they are gone."""
        self._bytes += count

    def lost(self, name: bytes, why: BaseException) -> None:
        """A block is not asked for again until the store was looked at anew."""
        if not self._lost:
            _log.warning("a block of a prompt is computed instead: %s", why)
        self._lost.add(name)

    def _may_have(self, name: bytes) -> bool:
        return name not in self._lost and (self.store.unlisted or name in self._known)

    def rest(self, now: float) -> None:
        """Ask the store for nothing for a while."""
        self._rests_s = now + REST_S

    def _renew(self) -> None:
        """Look what is published. In a thread, but for the first time."""
        try:
            found = self.store.prompts()
        except AirdraftError as problem:
            _log.warning("prompts are computed: %s", problem)
            return
        self._known = {block: prompt for prompt in reversed(found) for block in prompt.blocks}
        self._lost = set()
        if not found and not self.store.unlisted:
            others = self.store.others()
            rounds = f", but {others} kinds whose last bits differ; publish on such a processor, and --splice as here"
            _log.warning("%s has no prompts of this target%s", self.store.shown, rounds if others else "")

    def _renewal(self, done: asyncio.Future[None]) -> None:
        self._renewing = None
        if not done.cancelled() and (problem := done.exception()) is not None:
            _log.error("%s was not looked at", self.store.shown, exc_info=problem)

    async def block(self, name: bytes) -> Tensors:
        """A block. Who cancels this gives the link back to others. Raises: `AirdraftError`."""
        loop, asked = asyncio.get_running_loop(), self.store.asked(name)
        if asked is None:
            return await loop.run_in_executor(self._pool, self.store.block, name)
        objects = await asyncio.wrap_future(asked)
        return await loop.run_in_executor(self._pool, self.store.opened, name, objects)


class Arriving:
    """The blocks of one prompt on their way; see `Coming`."""

    def __init__(
        self,
        prompts: StoredPrompts,
        loop: asyncio.AbstractEventLoop,
        names: Sequence[bytes],
        at: int,
        wake: Callable[[], None],
    ) -> None:
        self._prompts, self._loop, self._names, self._wake = prompts, loop, names, wake
        layout = prompts.store.layout
        self._size = layout.held_bytes
        self._meeting = Meeting(prompts.pace, len(names), layout.block_bytes, at, loop.time())
        self._here: dict[int, Tensors] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._failures = 0
        self._at = at
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None
        self._closed = False
        self._ask()

    def step(self, at: int) -> Step:
        """See `Coming.step`."""
        now = self._loop.time()
        self._at = at
        self._unwait(now)
        self._forget(at // BLOCK)
        self._ask()
        advice = self._meeting.advise(at, now)
        if advice.blocks:
            first, *others = (self._here[block] for block in advice.blocks)
            begun = [each[:, at - BLOCK * advice.blocks.start :] for each in first]
            return Step(splice=Splice(at, BLOCK * advice.blocks.stop, [begun, *others]))
        if advice.wait_s:
            self._waits_since = now
            self._timer = self._loop.call_later(advice.wait_s, self._wake)
            return Step(waits=True)
        return Step(piece=advice.piece)

    def close(self) -> None:
        """Stop, and let go of everything."""
        self._closed = True
        self._unwait(self._loop.time())
        for task in self._tasks.values():
            task.cancel()  # one that has not begun runs no line of its own, so it is counted here
        self._prompts.held(-self._size * len(self._tasks))
        self._tasks.clear()
        self._forget(len(self._names))

    def _unwait(self, now: float) -> None:
        if self._waits_since is not None:
            self._meeting.waited(now - self._waits_since)
            self._waits_since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self, first: int) -> None:
        """Drop blocks before the first that may still be needed."""
        for block in [each for each in self._here if each < first]:
            del self._here[block]
            self._prompts.held(-self._size)

    def _ask(self) -> None:
        while not self._closed and self._failures < FAILURES:
            block = self._meeting.ask(self._at, self._loop.time())
            if block is None:
                return
            self._prompts.held(self._size)
            self._tasks[block] = self._loop.create_task(self._fetch(block))

    async def _fetch(self, block: int) -> None:
        found = None
        try:
            found = await self._prompts.block(self._names[block])
        except AirdraftError as problem:
            self._failures += 1
            self._prompts.lost(self._names[block], problem)
            if self._failures == FAILURES:
                self._prompts.rest(self._loop.time())
        if self._closed:
            return
        del self._tasks[block]
        if found is None:
            self._prompts.held(-self._size)
        else:
            self._here[block] = found
        self._meeting.settle(block, self._loop.time(), came=found is not None)
        self._ask()
        if self._waits_since is not None:
            self._wake()
