"""The live connection to one of several edges, made again when it dies and moved when another edge is nearer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from airdraft.core.messages import Welcome
from airdraft.core.policy import Facts
from airdraft.device.client import STANDS, EdgeConnection
from airdraft.device.pool import Pool
from airdraft.device.resume import Backoff
from airdraft.errors import AirdraftError, Code, LinkError, RefusedError, StallError
from airdraft.models.files.digest import same

_log = logging.getLogger(__name__)

WATCH_S = 15.0
"""Seconds between looks at the other edges. Each look takes a handshake and a few small pings."""
NEARER, NEARER_S, TIMES = 0.7, 0.010, 3
"""Texts move to an edge whose round trip is this fraction of the present one's or less, and this many seconds shorter,
at this many looks in a row."""
STALL_REST_S = 600.0
"""Seconds for which texts do not move to an edge for its nearness after it did not go on with one."""


@dataclass(frozen=True)
class Connected:
    """An edge is in use."""

    url: str

    def __str__(self) -> str:
        return f"connected to {self.url}"


@dataclass(frozen=True)
class Away:
    """No edge is in use."""

    why: str

    def __str__(self) -> str:
        return f"away: {self.why}"


@dataclass(frozen=True)
class Closed:
    """The device has ended every connection, for good."""

    def __str__(self) -> str:
        return "closed"


EdgesState = Connected | Away | Closed


@dataclass(frozen=True)
class _Served:
    """What a text depends on at an edge."""

    model: str
    """For people only: one target may have two names, and two targets one."""
    context: int
    eos_ids: frozenset[int]
    target: bytes
    """See docs/protocol.md, "The same target"."""

    def same(self, other: _Served) -> bool:
        """Whether a text may go on from one to the other."""
        facts = (self.context, self.eos_ids) == (other.context, other.eos_ids)
        return facts and same(self.target, other.target)

    def __str__(self) -> str:
        weights = f"weights {self.target[:4].hex()}" if self.target else "of weights that it does not tell"
        ends = ", ".join(map(str, sorted(self.eos_ids)[:8])) or "nothing"
        return f"{self.model} (context {self.context}, ends at {ends}, {weights})"


class Edges:
    """Edges that serve one and the same target, by their URLs, in the order in which they are tried."""

    def __init__(
        self,
        urls: Sequence[str],
        connect: Callable[[str], Coroutine[Any, Any, EdgeConnection]],
        told: Callable[[EdgesState], object],
    ) -> None:
        """`told` is called with `state` whenever it changes."""
        self.state: EdgesState = Away("not connected yet")
        self.pool = Pool()
        self._urls = tuple(urls)
        self._connect = connect
        self._told = told
        self._at = 0  # index of the edge to try first
        self._live: EdgeConnection | None = None
        self._dialling = asyncio.Lock()
        self._backoff = Backoff(seed=secrets.randbits(32))
        self._fruitless = False  # whether nothing was committed over the last connection yet
        self._stalled_s: dict[str, float] = {}  # when an edge last did not go on with a text
        self._target: tuple[str, _Served] | None = None  # the edge that came first, and what it serves
        self.midst: set[object] = set()
        """Texts of which some but not all is committed. Their writer keeps the set."""
        self._over = asyncio.Event()
        self.welcome: Welcome | None = None
        """What the edge in use, or the last one in use, has said of itself."""
        self.connects = 0
        """Connections that came into use when there was none: the first, and those after one was lost."""
        self.moves = 0
        """Times that texts moved to a nearer edge."""

    @property
    def url(self) -> str | None:
        """The edge in use."""
        return self._live.url if self._live is not None and self._live.alive else None

    @property
    def away(self) -> bool:
        """Whether no edge answered the last time that one was wanted. An edge that has gone since is noticed when one
        is wanted again, or when `watch` looks."""
        return self._live is None

    def facts(self) -> Facts | None:
        """Return what is known of the link in use and the models at its ends; None if there is none."""
        return self._live.facts() if self._live is not None and self._live.alive else None

    async def get(self, once: bool = False) -> EdgeConnection:
        """Return the live connection, or make one with the first edge that answers.

        once: try every edge, but only once. Otherwise try for ever, less and less often.
        Raises: `RefusedError` or `RemoteProtocolError` if waiting does not help; with `once`, `LinkError`, too.
        """
        async with self._dialling:
            while True:
                if self._over.is_set():
                    raise _closed()
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
                    if once or not _passes(error):
                        raise
                    self._say(Away(str(error)))
                    self._fruitless = True

    async def _first_that_answers(self) -> EdgeConnection:
        errors: list[LinkError | RefusedError] = []
        for at in range(len(self._urls)):
            url = self._urls[(self._at + at) % len(self._urls)]
            try:
                connection = await self._dial(url)
            except (LinkError, RefusedError) as error:
                if self._over.is_set() or not _passes(error):
                    raise
                errors.append(error)
                continue
            self._fruitless = True
            self._use(connection)
            return connection
        if len(errors) == 1:
            raise errors[0]
        raise LinkError("; ".join(str(error) for error in errors))

    async def _dial(self, url: str) -> EdgeConnection:
        """Connect to an edge. Raises: `RefusedError` if it serves another target than those before."""
        connection = await _unless(self._over, self._connect(url))
        self.pool.add(connection)
        found = _served(connection)
        # An edge that was started again with another model is as good as new, unless a text is half written.
        anew = not (self.pool.texts() or self.url or self.midst)
        if self._target is None or (self._target[0] == url and anew):
            self._target = url, found
        elif not found.same(self._target[1]):
            self.pool.part(connection)
            first, expected = self._target
            raise RefusedError(
                Code.MODEL,
                f"the edge at {url} serves {found}, and the one at {first} {'served' if url == first else 'serves'} "
                f"{expected}; name edges with one and the same target",
            )
        return connection

    def _use(self, connection: EdgeConnection) -> None:
        before, self._live = self._live, connection
        self.welcome = connection.welcome
        if before is None:
            self.connects += 1
        else:
            self.moves += 1
        self._at = self._urls.index(connection.url)
        self._say(Connected(connection.url))
        if before is not None and not self.pool.texts(before):
            self.pool.part(before)

    def is_live(self, connection: EdgeConnection) -> bool:
        """Whether texts should go on over this connection, rather than over another."""
        return connection is self._live

    @contextlib.asynccontextmanager
    async def using(self, connection: EdgeConnection) -> AsyncIterator[EdgeConnection]:
        """Write a text over a connection. One that is no longer the live one is closed after its last text."""
        try:
            with self.pool.text(connection):
                yield connection
        finally:
            if not self.pool.texts(connection) and connection is not self._live:
                self.pool.part(connection)

    def fruitful(self) -> None:
        """Something was committed: the next failure is a first one again."""
        self._fruitless = False
        self._backoff.succeeded()

    def lost(self, connection: EdgeConnection, why: object) -> None:
        """Give a connection up, and try the next edge first. Texts under way leave it at their next commit."""
        if isinstance(why, StallError):
            self._stalled_s[connection.url] = asyncio.get_running_loop().time()
        if connection is not self._live:
            return
        self._live = None
        self._at = (self._at + 1) % len(self._urls)
        self._say(Away(str(why).removesuffix(STANDS)))
        if not self.pool.texts(connection):
            self.pool.part(connection)

    def pass_by(self, connection: EdgeConnection, why: object, alone: bool) -> None:
        """As `lost`, if there is another edge to try and, with `alone`, no other text is written over this one."""
        if len(self._urls) > 1 and not (alone and self.pool.texts(connection)):
            self.lost(connection, why)

    async def pause(self, seconds: float) -> None:
        """Sleep, but wake up when everything is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    async def watch(self) -> None:
        """Look at the other edges now and then: move to one that is nearer, or use one that is back. Never return."""
        nearer: Counter[str] = Counter()
        while True:
            await asyncio.sleep(WATCH_S)
            # An edge that found us idle is still there, and reconnecting at once would defeat its limit.
            if self._live is not None and not self._live.alive and self._live.ended != Code.IDLE:
                self.lost(self._live, f"{self._live.url} went away")
            if self.away:
                try:
                    await self.get(once=True)
                except AirdraftError as error:
                    self._say(Away(str(error)))
            for url in self._urls:
                live = self._live
                if live is None or not live.alive or url == live.url or _rests(self._stalled_s.get(url)):
                    continue
                try:
                    nearer[url] = nearer[url] + 1 if await self._is_nearer(url, live, nearer[url] + 1 >= TIMES) else 0
                except AirdraftError as error:
                    _log.info("not moving to %s: %s", url, error)
                    nearer[url] = 0
            if self._live is not None:
                del nearer[self._live.url]

    async def _is_nearer(self, url: str, live: EdgeConnection, move: bool) -> bool:
        """Whether the edge at `url` answers sooner than the live one; with `move`, use it from now on if it does."""
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
                self.pool.part(other)

    async def close(self) -> None:
        """End every connection."""
        self._over.set()
        self._live = None
        async with self._dialling:  # a connection that is being made just now is closed as well
            self.pool.part_all()
        await self.pool.closed()
        self._say(Closed())

    def _say(self, state: EdgesState) -> None:
        if state != self.state:
            self.state = state
            self._told(state)


def _passes(error: LinkError | RefusedError) -> bool:
    """Whether another edge, or the same one later, may do better."""
    return isinstance(error, LinkError) or error.passes


def _rests(stalled_s: float | None) -> bool:
    """Whether an edge that did not go on with a text at that time is passed by."""
    return stalled_s is not None and asyncio.get_running_loop().time() < stalled_s + STALL_REST_S


def _closed() -> LinkError:
    return LinkError(f"the writer was closed{STANDS}")


def _served(connection: EdgeConnection) -> _Served:
    welcome = connection.welcome
    if welcome is None:
        raise LinkError(f"{connection.url} has not said what it serves")
    return _Served(welcome.model, welcome.max_context, frozenset(welcome.eos_ids), welcome.target)


async def _unless(over: asyncio.Event, dialling: Coroutine[Any, Any, EdgeConnection]) -> EdgeConnection:
    """Wait for a connection, which takes seconds if nobody answers, but no longer than until `over` is set."""
    task, ended = asyncio.create_task(dialling), asyncio.create_task(over.wait())
    wanted = False
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _closed()
        wanted = True
        return task.result()
    finally:
        for each in (task, ended):
            each.cancel()
        found, _ = await asyncio.gather(task, ended, return_exceptions=True)
        if isinstance(found, EdgeConnection) and not wanted:
            await found.close()
