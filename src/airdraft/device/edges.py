"""One live connection to whichever of several edges answers, made again when it dies, moved when another is nearer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from airdraft.core.policy import Facts
from airdraft.core.resume import Backoff
from airdraft.device.client import STANDS, Connection
from airdraft.errors import AirdraftError, LinkError, RefusedError

_log = logging.getLogger(__name__)

PASSING = ("busy", "engine", "idle", "quota", "silent")
"""Refusals that another edge may not have, or this one later. Any other would be the same everywhere."""
WATCH_S = 15.0
"""Seconds between looks at the other edges: a handshake and a few small pings each."""
NEARER, NEARER_S, TIMES = 0.7, 0.010, 3
"""Texts move to an edge whose round trip is shorter than so much of the present one's, and by so many seconds at least,
so many times in a row."""

_Identity = tuple[str, int, frozenset[int]]
"""What a text depends on, tokenizer apart, of what an edge says: model, context, end tokens."""


class Edges:
    """Edges that serve one and the same target, by their URLs, in the order in which they are tried."""

    def __init__(
        self,
        urls: Sequence[str],
        connect: Callable[[str], Coroutine[Any, Any, Connection]],
        told: Callable[[str], None],
    ) -> None:
        """`told` is called with `state` whenever it changes."""
        self.state = "away: not connected yet"
        self._urls = tuple(urls)
        self._connect = connect
        self._told = told
        self._at = 0  # who is tried first
        self._live: Connection | None = None
        self._dialling = asyncio.Lock()
        self._backoff = Backoff(seed=secrets.randbits(32))
        self._fruitless = False  # nothing was committed over the last connection yet
        self._target: tuple[str, _Identity] | None = None  # who serves what
        self._users: Counter[Connection] = Counter()
        self.midst: set[object] = set()
        """Texts of which something is committed, and not all; kept by who writes them."""
        self._open: set[Connection] = set()
        self._closing: dict[Connection, asyncio.Task[None]] = {}
        self._over = asyncio.Event()
        self._bytes_out = self._bytes_in = 0  # of connections that are over
        self.connects = 0
        """Connections that came into use when there was none: the first, and those after one was lost."""
        self.moves = 0
        """Times that a nearer edge was moved to."""

    @property
    def url(self) -> str | None:
        """The edge in use."""
        return self._live.url if self._live is not None and self._live.alive else None

    @property
    def bytes_out(self) -> int:
        """Bytes sent over all connections."""
        return self._bytes_out + sum(each.bytes_out for each in (*self._open, *self._closing))

    @property
    def bytes_in(self) -> int:
        """Bytes received over all connections."""
        return self._bytes_in + sum(each.bytes_in for each in (*self._open, *self._closing))

    @property
    def away(self) -> bool:
        """Whether no edge answered when one was wanted last. One that has gone since shows when it is wanted again, or
        when `watch` looks."""
        return self._live is None

    def facts(self) -> Facts | None:
        """What is known of the link in use, and of the models at its ends; None if there is none."""
        return self._live.facts() if self._live is not None and self._live.alive else None

    async def get(self, once: bool = False) -> Connection:
        """The live connection; if there is none, the first that can be had.

        once: try every edge, but only once. Otherwise for ever, less and less often.
        Raises: `RefusedError` or `RemoteProtocolError` for what waiting does not mend, or with `once`, `LinkError`.
        """
        async with self._dialling:
            while True:
                if self._over.is_set():
                    raise self._closed()
                if self._live is not None and self._live.alive:
                    return self._live
                if self._live is not None:
                    self.lost(self._live, f"{self._live.url} went away")
                if self._fruitless and not once:
                    await self.pause(self._backoff.failed())
                    self._fruitless = False
                    continue
                try:
                    return await self._first_that_answers()
                except (LinkError, RefusedError) as error:
                    if once or (isinstance(error, RefusedError) and error.code not in PASSING):
                        raise
                    self._say(f"away: {error}")
                    self._fruitless = True

    async def _first_that_answers(self) -> Connection:
        errors: list[LinkError | RefusedError] = []
        for at in range(len(self._urls)):
            url = self._urls[(self._at + at) % len(self._urls)]
            try:
                connection = await self._dial(url)
            except (LinkError, RefusedError) as error:
                if self._over.is_set() or (isinstance(error, RefusedError) and error.code not in PASSING):
                    raise
                errors.append(error)
                continue
            self._fruitless = True
            self._use(connection)
            return connection
        if len(errors) == 1:
            raise errors[0]
        raise LinkError("; ".join(str(error) for error in errors))

    async def _dial(self, url: str) -> Connection:
        """A connection to an edge that serves the same target as those before."""
        connection = await self._unless_over(self._connect(url))
        self._open.add(connection)
        found = _identity(connection)
        # An edge that was started again with another model is as good as new, if nobody is in the midst of a text.
        anew = not (self._users or self.url or self.midst)
        if self._target is None or (self._target[0] == url and anew):
            self._target = url, found
        begun, expected = self._target
        if found != expected:
            self._part(connection)
            raise RefusedError(
                "model",
                f"the edge at {url} serves {found[0]} (context {found[1]}), and the one at {begun} {expected[0]} "
                f"(context {expected[1]}); name edges with one and the same target",
            )
        return connection

    async def _unless_over(self, dialling: Coroutine[Any, Any, Connection]) -> Connection:
        """What takes seconds where nobody answers. Raises: `LinkError` at the end of it all, as itself."""
        task, over = asyncio.create_task(dialling), asyncio.create_task(self._over.wait())
        wanted = False
        try:
            await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._closed()
            wanted = True
            return task.result()
        finally:
            for each in (task, over):
                each.cancel()
            found, _ = await asyncio.gather(task, over, return_exceptions=True)
            if isinstance(found, Connection) and not wanted:
                await found.close()

    @staticmethod
    def _closed() -> LinkError:
        return LinkError(f"the writer was closed{STANDS}")

    def _use(self, connection: Connection) -> None:
        before, self._live = self._live, connection
        if before is None:
            self.connects += 1
        else:
            self.moves += 1
        self._at = self._urls.index(connection.url)
        self._say(f"connected to {connection.url}")
        if before is not None and not self._users[before]:
            self._part(before)

    def is_live(self, connection: Connection) -> bool:
        """Whether texts should go on over it, rather than over another."""
        return connection is self._live

    @contextlib.asynccontextmanager
    async def using(self, connection: Connection) -> AsyncIterator[Connection]:
        """While a text is written over it. A connection that is not the live one any more ends with its last text."""
        self._users[connection] += 1
        try:
            yield connection
        finally:
            self._users[connection] -= 1
            if not self._users[connection]:
                del self._users[connection]
                if connection is not self._live:
                    self._part(connection)

    def fruitful(self) -> None:
        """Something was committed: whatever goes wrong next goes wrong for the first time."""
        self._fruitless = False
        self._backoff.succeeded()

    def lost(self, connection: Connection, why: object) -> None:
        """No more of it; the next edge is to be tried first. Texts under way leave at their next commit."""
        if connection is not self._live:
            return
        self._live = None
        self._at = (self._at + 1) % len(self._urls)
        self._say(f"away: {str(why).removesuffix(STANDS)}")
        if not self._users[connection]:
            self._part(connection)

    def pass_by(self, connection: Connection, why: object, alone: bool) -> None:
        """As `lost`, if there is another edge to try. alone: and if no other text is written at this one."""
        if len(self._urls) > 1 and not (alone and self._users[connection]):
            self.lost(connection, why)

    async def pause(self, seconds: float) -> None:
        """Sleep, but not longer than until the end of it all."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    async def watch(self) -> None:
        """Look at the other edges now and then, and move to one that is nearer; without one, whether one is back.

        Never returns.
        """
        nearer: Counter[str] = Counter()
        while True:
            await asyncio.sleep(WATCH_S)
            # An edge that found us idle is there all the same, and to come back at once would defeat its limit.
            if self._live is not None and not self._live.alive and self._live.ended != "idle":
                self.lost(self._live, f"{self._live.url} went away")
            if self.away:
                try:
                    await self.get(once=True)
                except AirdraftError as error:
                    self._say(f"away: {error}")
            for url in self._urls:
                live = self._live
                if live is None or not live.alive or url == live.url:
                    continue
                try:
                    nearer[url] = nearer[url] + 1 if await self._is_nearer(url, live, nearer[url] + 1 >= TIMES) else 0
                except AirdraftError as error:
                    _log.info("not moving to %s: %s", url, error)
                    nearer[url] = 0
            if self._live is not None:
                del nearer[self._live.url]

    async def _is_nearer(self, url: str, live: Connection, move: bool) -> bool:
        """Whether the edge at `url` answers sooner; with `move` it is used from then on, if it does."""
        other = await self._dial(url)
        try:
            own_s, other_s = await live.round_trip_s(), await other.round_trip_s()
            if not (other_s < NEARER * own_s and own_s - other_s > NEARER_S):
                return False
            if move and live is self._live:
                self._use(other)
            return True
        finally:
            if other is not self._live:
                self._part(other)

    def _part(self, connection: Connection) -> None:
        """Close it, in the background."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._closing[connection] = asyncio.create_task(self._close(connection))

    async def _close(self, connection: Connection) -> None:
        try:
            await connection.close()
        finally:
            self._bytes_out += connection.bytes_out
            self._bytes_in += connection.bytes_in
            del self._closing[connection]

    async def close(self) -> None:
        """End every connection."""
        self._over.set()
        self._live = None
        async with self._dialling:  # whoever is connecting just now
            for connection in list(self._open):
                self._part(connection)
        await asyncio.gather(*self._closing.values())
        self._say("closed")

    def _say(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._told(state)


def _identity(connection: Connection) -> _Identity:
    welcome = connection.welcome
    if welcome is None:
        raise LinkError(f"{connection.url} has not said what it serves")
    return welcome.model, welcome.max_context, frozenset(welcome.eos_ids)
