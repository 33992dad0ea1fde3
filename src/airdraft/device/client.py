"""The device's side of one connection to one edge. `airdraft.device.writer` writes texts that survive it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl as tls
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Self

from airdraft import values
from airdraft.control.machine import device_machine
from airdraft.core.device import DeviceMachine
from airdraft.core.events import Committed, Echo, Event, Failed, Finished, Ready
from airdraft.core.law import Guide
from airdraft.core.messages import MAX_FILLER, VERSION, Hello, SchemeSpec, Welcome
from airdraft.core.policy import Facts
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.dial import DeviceSocket, dial
from airdraft.device.probe import PING_BYTES, Pinger, Probe, measure
from airdraft.device.stall import STALL_S, Debts
from airdraft.device.tracing import Tracing
from airdraft.errors import (
    AirdraftError,
    Code,
    GuideError,
    LinkError,
    ModelError,
    RefusedError,
    RemoteProtocolError,
    StallError,
)
from airdraft.models.base import LanguageModel, OneByOne
from airdraft.models.fit import kept_bytes
from airdraft.scheduler import Scheduler
from airdraft.telemetry.trace import Traces
from airdraft.transport import Driver
from airdraft.version import __version__

_log = logging.getLogger(__name__)

CONNECT_S = 10.0
TOO_BIG = 1009
"""WebSocket close code for a message longer than the edge takes (RFC 6455 §7.4.1)."""
PROBE_UP_BYTES = 1 << 18
"""Filler of the longest ping of a probe: 20 ms at 100 Mbit/s."""
PROBE_TOKENS, PROBE_S = 8, 1.0
"""A text that makes the edge run forwards if it has run none yet, and the time after which it is stopped."""
STANDS = "; the text so far stands"


class EdgeConnection:
    """One connection to an edge. Several texts may be written over it at once.

    >>> async with await EdgeConnection.connect("ws://edge:8571", draft, tokenizer.digest, vocab_size) as edge:
    ...     async for event in edge.write(request):
    ...         print(event)
    """

    def __init__(
        self,
        url: str,
        socket: DeviceSocket,
        draft: LanguageModel,
        hello: Hello,
        scheduler: Scheduler | None = None,
        traces: Traces | None = None,
        stall_s: float | None = STALL_S,
        machine: Callable[..., DeviceMachine] = device_machine,
    ) -> None:
        """Use `connect`."""
        self.url = url
        self.welcome: Welcome | None = None
        self.ended: str | None = None
        """The code of the error that ended the connection; `Code.GONE` if it ended without one."""
        self._socket = socket
        self._shares = scheduler is not None
        self._scheduler = scheduler or Scheduler(OneByOne(draft), "draft", kept_bytes=kept_bytes())
        wide, clock = self._scheduler.engine.info.trees, asyncio.get_running_loop().time
        self._machine = device = machine(hello, draft.max_context, clock(), wide=wide)
        self.learner = device.learner
        """What is learned of the link and the models at its ends."""
        self._tracing = Tracing(traces, url, device, clock) if traces else None
        self._driver = Driver(device, socket, self._scheduler, self._on_event, self._tracing)
        self._greeting: asyncio.Queue[Event] = asyncio.Queue()
        self._texts: dict[int, asyncio.Queue[Event]] = {}
        self._pinger = Pinger(self._ping, self._error)
        self._debts = Debts(device, stall_s, self._texts, self._ask, self._on_event, clock)
        self._task = asyncio.create_task(self._run())

    @classmethod
    async def connect(
        cls,
        url: str,
        draft: LanguageModel,
        tokenizer: bytes,
        vocab_size: int,
        *,
        token: str | None = None,
        ssl: tls.SSLContext | None = None,
        scheduler: Scheduler | None = None,
        traces: Traces | None = None,
        stall_s: float | None = STALL_S,
        machine: Callable[..., DeviceMachine] = device_machine,
    ) -> Self:
        """Connect and shake hands. `tokenizer` is the digest, `vocab_size` the size of the draft's vocabulary.

        Args:
            token: proves to the edge who we are; sent in the clear unless the URL begins with wss://.
            ssl: what to trust, for wss://; None: the authorities this machine trusts.
            scheduler: runs the draft, and outlives the connection; None: one of its own.
            traces: where a trace of every text goes; None: nowhere.
            stall_s: patience in seconds, at least, with an edge that answers pings and does not go on with a text; 0 or
                None: for ever. See `Debts.allowed_s`.
            machine: makes this end of the connection, as `device_machine` does.
        Raises: `LinkError` if the edge cannot be reached, `RefusedError` or `RemoteProtocolError` if it and this
        device cannot work together, `BadParameterError` for a token that no HTTP header can carry.
        """
        socket = await dial(url, token, ssl, CONNECT_S)
        hello = Hello(VERSION, f"airdraft {__version__}", draft.name, tokenizer, vocab_size)
        client = cls(url, socket, draft, hello, scheduler, traces, stall_s, machine)
        try:
            async with asyncio.timeout(CONNECT_S):
                event = await client._greeting.get()
            if isinstance(event, Ready):
                client.welcome = event.welcome
                client._machine.measure(asyncio.get_running_loop().time())
                client._driver.flush()
                return client
        except TimeoutError:
            raise LinkError(f"{url} took the connection and says nothing; is an airdraft edge there?") from None
        finally:
            if client.welcome is None:
                await client.close()
        raise _in_words_of(draft, client._error(event))

    @property
    def alive(self) -> bool:
        """Whether texts can be written over it, to the knowledge of this side."""
        return not (self._machine.closed or self._task.done())

    async def write(self, request: Request, guide: Guide | None = None) -> AsyncGenerator[Committed | Finished, None]:
        """Yield the events of one text as they happen; the last is `Finished`. `request.counts` adds up its cost.

        `guide`: what the request's says. Raises: `BadParameterError` before anything is sent, `RefusedError` if the
        edge refuses the text, `RemoteProtocolError` if it breaks the protocol, `ModelError` if the draft model fails,
        `LinkError` if the edge goes away, `StallError` if it stays and does not go on. Tokens committed before an error
        are handed out and stand.
        """
        values.instance(Request)("request", request)
        if not self.alive:
            raise self._error()
        number, events = self._machine.open(request, asyncio.get_running_loop().time(), guide)
        queue = self._texts[number] = asyncio.Queue()
        try:
            self._driver.handle(events)
            self._driver.flush()
            while True:
                event = await queue.get()
                if isinstance(event, Failed):
                    raise self._error(event)
                if isinstance(event, Committed | Finished):
                    yield event
                if isinstance(event, Finished):
                    return
        finally:
            del self._texts[number]
            self._debts.paid(number)
            self._machine.cancel(number)
            if self._tracing is not None:
                self._tracing.left(number)
            self._driver.forget(number)
            self._driver.flush()

    async def probe(self) -> Probe:
        """Measure the link and the edge, in a second or two; best while nothing is written over this connection.

        Sends 1 MB at most, and far less over a slow link. An edge that has run no forward yet is given a few tokens to
        write. Later texts over this connection profit from what is learnt.
        Raises: as `write`.
        """
        async with self._pinger.turn:
            most = PROBE_UP_BYTES if self.welcome is None else self.welcome.max_frame - PING_BYTES
            rtt_s, up_bps, down_bps = await measure(self._pinger.ask, max(1, min(most, PROBE_UP_BYTES)), MAX_FILLER)
            if not self._machine.verify_s:
                await self._write_a_little()
                await self._pinger.ask(0, 0)
            return Probe(rtt_s, up_bps, down_bps, self._machine.verify_s)

    async def round_trip_s(self) -> float:
        """Return the seconds that a small message takes there and back, at best. Raises: as `write`."""
        return await self._pinger.round_trip_s()

    def _ping(self, filler: int, want: int) -> None:
        if not self.alive:
            raise self._error()
        self._machine.ping(asyncio.get_running_loop().time(), filler, want)
        self._driver.flush()

    async def _write_a_little(self) -> None:
        now = asyncio.get_running_loop().time
        deadline = now() + PROBE_S
        request = Request((0,), SchemeSpec("server"), SamplingParams(0.0), 0, PROBE_TOKENS)
        async with contextlib.aclosing(self.write(request)) as events:
            async for _ in events:
                if now() > deadline:
                    return

    def facts(self) -> Facts:
        """Return what is known of the link and the models at its ends, or assumed until it is measured."""
        return self.learner.facts()

    @property
    def bytes_out(self) -> int:
        """Bytes sent so far, protocol and WebSocket headers included."""
        return self._driver.bytes_out

    @property
    def bytes_in(self) -> int:
        """Bytes received so far, headers included."""
        return self._driver.bytes_in

    async def close(self) -> None:
        """End the connection."""
        await self._driver.close()
        await self._task
        if not self._shares:
            self._scheduler.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _ask(self) -> None:
        self._machine.ping(asyncio.get_running_loop().time())
        self._driver.flush()

    async def _run(self) -> None:
        watching = asyncio.create_task(self._debts.watch())
        try:
            await self._driver.run()
        except Exception:
            _log.exception("the connection to %s failed", self.url)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self._on_event(Failed(None, Code.GONE, "", ours=False))

    def _on_event(self, event: Event) -> None:
        self._debts.event(event)
        if self._tracing is not None:
            self._tracing.event(event)
        if isinstance(event, Ready):
            self._greeting.put_nowait(event)
        elif isinstance(event, Failed) and event.session is None:
            self.ended = self.ended or event.code
            self._pinger.take(event)
            for queue in (self._greeting, *self._texts.values()):
                queue.put_nowait(event)
        elif isinstance(event, Echo):
            self._pinger.take(event)
        elif isinstance(event, Committed | Finished | Failed) and event.session in self._texts:
            self._texts[event.session].put_nowait(event)

    def _error(self, event: Event | None = None) -> AirdraftError:
        """Return what to raise after `event`; None: the connection is over."""
        return _error_of(event, self.url, self._socket.close_code)


def _in_words_of(draft: LanguageModel, error: AirdraftError) -> AirdraftError:
    """The error of a greeting, which speaks of no draft model where there is none."""
    if draft.max_context or not isinstance(error, RefusedError) or error.code != Code.VOCABULARY:
        return error
    what = "the target has another vocabulary than the tokenizer here; name the target's own, --tokenizer MODEL"
    return RefusedError(error.code, what)


def _error_of(event: Event | None, url: str, close_code: int | None) -> AirdraftError:
    if not isinstance(event, Failed) or event.code == Code.GONE:
        if close_code == TOO_BIG:
            return RefusedError(
                Code.FRAME, f"the edge at {url} takes no message that long; lower --draft-length or --k"
            )
        return LinkError(f"the edge at {url} went away (close code {close_code}){STANDS}")
    if not event.ours:
        return RefusedError(event.code, event.message)
    if event.code == Code.STALLED:
        return StallError(f"the edge at {url} {event.message}{STANDS}")
    if event.code == Code.SILENT:
        return LinkError(f"the edge at {url} went silent: {event.message}{STANDS}")
    if event.code in (Code.ENGINE, Code.GUIDE):
        return (ModelError if event.code == Code.ENGINE else GuideError)(event.message)
    return RemoteProtocolError(event.code, f"the edge at {url} broke the protocol: {event.message}")
