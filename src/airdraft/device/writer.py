"""Texts that survive the link: written over whichever edge answers, without a token lost or doubled.

A text is what was committed. When its connection dies, it is resumed from there, at the same edge or at another with
the same target (`airdraft.device.resume`). Meanwhile `offline` decides what a user is shown: nothing, an error, or what
the draft model would write, labelled as such until an edge has confirmed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import secrets
import ssl as tls
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self, get_args

from msgspec import structs

from airdraft import values
from airdraft.control.forecast import Forecaster
from airdraft.control.foresight import Foreseeing
from airdraft.control.machine import device_machine
from airdraft.core import schemes
from airdraft.core.drafting import Drafter
from airdraft.core.events import Committed, Finished
from airdraft.core.law import Guide
from airdraft.core.policy import Facts
from airdraft.core.request import Request
from airdraft.device.client import STANDS, EdgeConnection
from airdraft.device.dial import check_address
from airdraft.device.edges import Edges, EdgesState
from airdraft.device.offline import Corrected, Guess, Unverified, meanwhile
from airdraft.device.resume import Backoff, Resumable
from airdraft.device.stall import STALL_S
from airdraft.errors import BadParameterError, Code, LinkError, RefusedError, StallError
from airdraft.models.base import Exactness, LanguageModel, OneByOne
from airdraft.models.fit import kept_bytes
from airdraft.scheduler import Scheduler
from airdraft.scheduler.elsewhere import Elsewhere
from airdraft.telemetry.trace import Traces
from airdraft.transport import GuideReader

__all__ = ["Committed", "Corrected", "Finished", "Offline", "Unverified", "Writer", "Written"]

Offline = Literal["stall", "draft", "error"]
Written = Committed | Unverified | Corrected | Finished

ALONE_TRIES = 3
"""Refusals of one text in a row after which all texts move to another edge with it."""
ENGINE_TRIES = 3
"""Failures of an edge over one text in a row, of its model or because it ended the text, after which the text is given
up."""


class Writer:
    """Writes any number of texts at once, over one connection to one of `edges` at a time.

    >>> async with Writer(["ws://a:8571", "ws://b:8571"], draft, tokenizer.digest, tokenizer.vocab_size) as writer:
    ...     async for event in writer.write(request):
    ...         print(event)
    """

    def __init__(
        self,
        edges: Sequence[str],
        draft: LanguageModel,
        tokenizer: bytes,
        vocab_size: int,
        *,
        offline: Offline = "stall",
        token: str | None = None,
        ssl: tls.SSLContext | None = None,
        give_up_s: float | None = None,
        stall_s: float | None = STALL_S,
        told: Callable[[EdgesState], object] = lambda state: None,
        traces: Traces | None = None,
        lookup: bool = False,
        drafter: Callable[[], Drafter] | None = None,
        kept_mb: int | None = None,
        branches: int | None = None,
        prompts: Elsewhere | None = None,
        reader: GuideReader | None = None,
        forecast: Callable[[], Forecaster] | None = None,
    ) -> None:
        """Make a writer without a connection: the first text connects, or `connect` does.

        Args:
            edges: ws:// or wss://HOST:PORT, tried in this order; all must serve one and the same target.
            draft: `NoDraft` for none: every text is then written by `server`, unless `lookup` or a `drafter` proposes.
            tokenizer, vocab_size: the digest and the size of the draft's vocabulary.
            offline: while no edge answers, `stall` waits, `error` raises at once, and `draft` waits and meanwhile
                yields what the draft model would write, as `Unverified`: also while a `forecast` takes the link to be
                down.
            token, ssl: see `EdgeConnection.connect`.
            give_up_s: how long a text waits without a commit while there is no edge; None: for ever.
            stall_s: see `EdgeConnection.connect`. A text leaves such an edge for the next one. It is given up when
                every edge, and the first one again, has not gone on with it.
            told: called with `state` whenever it changes.
            traces: where a trace of every session goes; None: nowhere. A resumed text leaves several.
            lookup: whether to copy drafts from prompt and text, too, or only if there is no draft model.
            drafter: makes each text's drafter, in the place of the usual ones.
            kept_mb: of the draft's keys and values of ended texts, see `fit.kept_bytes`.
            branches: as in `Request`, for those that leave it open.
            prompts: from where the draft's keys and values of prompts may come.
            reader: reads the guides of texts; None: texts have none.
            forecast: makes a forecaster of each connection's link, one of `FORECASTERS`; None: drafts are made anyway.
        Raises: `LinkError` for a URL that cannot be an edge's, `BadParameterError`.
        """
        give_up_s, stall_s = check_options(edges, offline, token, ssl, give_up_s, stall_s)
        if offline == "draft" and not draft.max_context:
            what = "offline is 'draft', and there is no draft model to write meanwhile; choose stall or error"
            raise BadParameterError(what, field="offline")
        self._scheduler = Scheduler(OneByOne(draft), "draft", kept_bytes=kept_bytes(kept_mb))
        self._scheduler.caches.elsewhere = prompts
        self.dial = connect = functools.partial(
            EdgeConnection.connect,
            draft=draft, tokenizer=tokenizer, vocab_size=vocab_size, token=token, ssl=ssl, scheduler=self._scheduler,
            traces=traces, stall_s=stall_s,
            machine=functools.partial(device_machine, lookup=lookup, drafter=drafter, forecast=forecast),
        )  # fmt: skip
        urls = list(dict.fromkeys(edges))
        self._edges, self._count = Edges(urls, connect, told), len(urls)
        self._draft, self._vocab_size, self._branches = draft, vocab_size, branches
        self._proposes = lookup or drafter is not None
        self._offline, self._give_up_s, self._reader = offline, give_up_s, reader
        self._watch: asyncio.Task[None] | None = None

    @property
    def state(self) -> EdgesState:
        """`Connected` to an edge, `Away`, or `Closed`. As a string it gives the URL or the reason."""
        return self._edges.state

    @property
    def edge(self) -> str | None:
        """The URL of the edge in use."""
        return self._edges.url

    @property
    def context(self) -> int | None:
        """The target's context in tokens; None before an edge has answered."""
        return None if self._edges.welcome is None else self._edges.welcome.max_context

    @property
    def exactness(self) -> Exactness | None:
        """What the target's rows depend on at the edge in use; None if it does not tell, or before one has answered."""
        told = () if self._edges.welcome is None else self._edges.welcome.exactness
        return Exactness.of(told) if told else None

    @property
    def losses(self) -> dict[str, float | None]:
        """See `Exactness.losses`; empty where nothing is known."""
        return {} if self.exactness is None else self.exactness.losses

    def health(self) -> str | None:
        """Return the reason if texts stand still now: `state` while away, unless the draft model fills in."""
        return str(self.state) if self._edges.away and self._offline != "draft" else None

    def facts(self) -> Facts | None:
        """Return what is known of the link in use and the models at its ends; None while there is no edge."""
        return self._edges.facts()

    @property
    def connects(self) -> int:
        """Connections that came into use when there was none: the first, and those after one was lost."""
        return self._edges.connects

    @property
    def moves(self) -> int:
        """Times that texts moved to a nearer edge."""
        return self._edges.moves

    @property
    def bytes_out(self) -> int:
        """Bytes sent so far over all connections, headers included."""
        return self._edges.pool.bytes_out

    @property
    def bytes_in(self) -> int:
        """Bytes received so far, headers included."""
        return self._edges.pool.bytes_in

    @property
    def fetched(self) -> int:
        """Tokens of prompts that the draft model did not read, as their keys and values came from elsewhere."""
        return self._scheduler.caches.fetched

    async def connect(self) -> None:
        """Connect now, before the first text. Raises: the reason if no edge answers at the first attempt."""
        await self._edges.get(once=True)

    async def write(self, request: Request) -> AsyncGenerator[Written, None]:
        """Yield the events of one text; the last is `Finished`. `request.counts` adds up its cost, over all sessions.

        Raises: `LinkError` when there was no edge for too long, `StallError` if no edge goes on with the text,
        `RefusedError` if every edge would refuse the text or an edge ends it again and again,
        `RemoteProtocolError`, `ModelError` and `BadParameterError` as `EdgeConnection.write` does. Tokens committed
        before an error stand.
        """
        values.instance(Request)("request", request)
        if self._draft.max_context:
            self._scheduler.caches.check(request.private)
        if request.branches is None:
            request = replace(request, branches=self._branches)
        if not self._draft.max_context:
            request = _by_copies(request) if self._proposes else _without_drafts(request)
        guess = None
        if self._offline == "draft" and request.guide is None:  # what is shown meanwhile keeps to no grammar
            guess = Guess(request, self._scheduler, self._vocab_size, self._draft.eos_ids)
        text = _Text(request, self._edges, guess, self._offline, self._give_up_s, self._count, self._reader)
        if request.committed:
            self._edges.midst.add(text)
        try:
            async with contextlib.aclosing(text.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._edges.midst.discard(text)
            if guess is not None:
                guess.close()

    async def close(self) -> None:
        """End every connection. Texts under way end with a `LinkError`."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._edges.close()
        self._scheduler.close()

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(self._edges.watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def check_options(
    edges: Sequence[str],
    offline: Offline,
    token: str | None,
    ssl: tls.SSLContext | None,
    give_up_s: float | None,
    stall_s: float | None,
) -> tuple[float | None, float]:
    """Check options of a `Writer`. Returns: `give_up_s` and `stall_s` as plain numbers.

    Raises: `LinkError` for a URL that cannot be an edge's, `BadParameterError`.
    """
    if isinstance(edges, str) or not isinstance(edges, Sequence) or not edges:
        raise BadParameterError("no edge is named; give at least one, ws://HOST:PORT", field="edge")
    for url in edges:
        check_address(values.words("edge", url))
    values.one_of("offline", offline, get_args(Offline))
    values.optional(values.words)("token", token)
    values.optional(values.instance(tls.SSLContext))("ssl", ssl)
    give_up_s = values.optional(values.number)("give_up_s", give_up_s)
    if give_up_s is not None and not give_up_s > 0:
        what = f"give-up is {give_up_s:g} s; give a time above 0, or none to wait for ever"
        raise BadParameterError(what, field="give_up_s")
    stall_s = values.number("stall_s", stall_s or 0.0)
    if not 0 <= stall_s < math.inf:
        what = f"stall-s is {stall_s:g}; give a time above 0, or 0 to wait for ever"
        raise BadParameterError(what, field="stall_s")
    return give_up_s, stall_s


def _by_copies(request: Request) -> Request:
    """The request of a device that drafts without a model. That costs nothing, so a policy has nothing to choose."""
    if request.policy is None:
        return request
    return replace(request, scheme=structs.replace(request.scheme, name=schemes.STREAM), policy=None)


def _without_drafts(request: Request) -> Request:
    """The request of a device that has no draft model. Raises: `BadParameterError` for a scheme that drafts."""
    if request.policy is not None:
        return replace(request, scheme=structs.replace(request.scheme, name=schemes.SERVER), policy=None)
    if schemes.traits(request.scheme.name).drafts:
        what = (
            f"scheme {request.scheme.name} drafts, and there is no draft model; choose server or auto, or name a draft"
        )
        raise BadParameterError(what, field="scheme")
    return request


class _Text:
    """A text, written over one session after another."""

    def __init__(
        self,
        request: Request,
        edges: Edges,
        guess: Guess | None,
        offline: Offline,
        give_up_s: float | None,
        most_stalls: int,
        reader: GuideReader | None,
    ) -> None:
        self._text = Resumable(request)
        self._begin = len(request.prompt)
        self._edges = edges
        self._guess = guess
        self._offline = offline
        self._give_up_s = give_up_s
        self._left_s = give_up_s  # patience left for times without an edge, since the last commit
        self._most_stalls = most_stalls
        self._reader, self._spec = reader, request.guide
        self._deadline: float | None = None  # when it ends; set only while there is no edge
        self._backoff = Backoff(seed=secrets.randbits(32))
        self._refusals = self._engine_failures = self._stalls = 0  # in a row

    async def events(self) -> AsyncGenerator[Written, None]:
        """See `Writer.write`."""
        text = self._text
        while text.finished is None:
            if self._guess is not None and self._edges.url is None:
                async with contextlib.aclosing(self._alone(self._guess)) as shown:
                    async for unverified in shown:
                        yield unverified
            connection = await self._connected()
            if connection.welcome is not None and text.ends_with(connection.welcome.eos_ids):
                break
            guide = await self._guide(connection)
            try:
                async with (
                    self._edges.using(connection),
                    contextlib.aclosing(connection.write(text.next_request(), guide)) as session,
                    contextlib.aclosing(self._shown(connection, session)) as events,
                ):
                    async for event in events:
                        for each in self._taken(event):
                            yield each
                        if isinstance(event, Finished):
                            return
                        if text.finished is None and not self._edges.is_live(connection):
                            break  # to another edge
            except LinkError as error:
                self._edges.lost(connection, error)
                self._stalls += isinstance(error, StallError)
                if self._stalls > self._most_stalls:
                    raise
            except RefusedError as error:
                await self._refused(connection, error)
        for each in self._taken(Finished(0, text.finished or "")):  # complete, but no session has said so
            yield each

    def _shown(
        self, connection: EdgeConnection, session: AsyncGenerator[Committed | Finished, None]
    ) -> AsyncGenerator[Committed | Finished | Unverified, None]:
        """The events of a session, and what is shown while a forecast says that its link is down."""
        learner, now = connection.learner, asyncio.get_running_loop().time
        if self._guess is None or not isinstance(learner, Foreseeing):
            return session
        return meanwhile(session, self._guess, lambda: self._text.tokens, lambda: learner.down(now()))

    async def _guide(self, connection: EdgeConnection) -> Guide | None:
        """Read the text's guide, if it has one. A text that goes on at another edge may have another end."""
        if self._spec is None:
            return None
        if self._reader is None:
            raise BadParameterError("no guides are read here; give none, or give the writer a reader", "guide")
        return await self._reader.read(self._spec, () if connection.welcome is None else connection.welcome.eos_ids)

    def _taken(self, event: Committed | Finished | Unverified) -> list[Written]:
        """Return the events for the reader: a session's own, after a correction of what was shown if it differs."""
        if isinstance(event, Unverified):
            return [event]
        length = self._begin + len(self._text.tokens)
        corrected = self._guess.judge(event, length) if self._guess is not None else None
        self._text.take(event)
        if isinstance(event, Committed):
            self._edges.midst.add(self)
            self._left_s, self._deadline = self._give_up_s, None
            self._refusals = self._engine_failures = self._stalls = 0
            self._backoff.succeeded()
            self._edges.fruitful()
        return [event] if corrected is None else [corrected, event]

    async def _connected(self) -> EdgeConnection:
        """Wait for a connection, but not beyond the user's patience."""
        self._start_waiting()
        try:
            async with asyncio.timeout_at(self._deadline):
                connection = await self._edges.get(once=self._offline == "error")
        except TimeoutError:
            raise LinkError(
                f"given up after {self._give_up_s:g} s without an edge ({self._edges.state}){STANDS}"
            ) from None
        if self._deadline is not None:
            self._left_s, self._deadline = self._deadline - asyncio.get_running_loop().time(), None
        return connection

    def _start_waiting(self) -> None:
        if self._deadline is None and self._left_s is not None:
            self._deadline = asyncio.get_running_loop().time() + self._left_s

    async def _refused(self, connection: EdgeConnection, error: RefusedError) -> None:
        """Wait if the refusal may pass, here or at another edge; raise it again otherwise."""
        self._engine_failures += error.code in (Code.ENGINE, Code.CLOSED)
        self._start_waiting()
        too_late = self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline
        passing = error.passes and self._engine_failures < ENGINE_TRIES
        if self._offline == "error" or too_late or not passing:
            raise error
        self._refusals += 1
        self._edges.pass_by(connection, error, alone=self._refusals < ALONE_TRIES)
        await self._edges.pause(self._backoff.failed())

    async def _alone(self, guess: Guess) -> AsyncGenerator[Unverified, None]:
        """Yield what the draft model would write, until there is an edge."""
        connecting = asyncio.create_task(self._connected())
        drafting: asyncio.Task[Unverified | None] | None = None
        try:
            while not connecting.done():
                drafting = asyncio.create_task(guess.more(self._text.tokens))
                await asyncio.wait({connecting, drafting}, return_when=asyncio.FIRST_COMPLETED)
                if not drafting.done():
                    break
                unverified = drafting.result()
                if unverified is not None:
                    yield unverified
                if unverified is None or unverified.ended:
                    await asyncio.wait({connecting})
                    break
            connecting.result()
        finally:
            ending = [task for task in (connecting, drafting) if task is not None]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
