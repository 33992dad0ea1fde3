"""The device's side of one connection to one edge. `airdraft.device.writer` writes texts that survive it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl as tls
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidMessage, InvalidStatus, InvalidURI, WebSocketException
from websockets.uri import parse_uri

from airdraft.core.device import DeviceMachine, Request
from airdraft.core.events import Committed, Echo, Event, Failed, Finished, Ready
from airdraft.core.messages import MAX_FILLER, MAX_FRAME, VERSION, Hello, SchemeSpec, Welcome
from airdraft.core.policy import Facts
from airdraft.core.sampling import SamplingParams
from airdraft.device.probe import Probe, measure
from airdraft.device.tracing import Tracing
from airdraft.errors import (
    AirdraftError,
    BadParameterError,
    LinkError,
    ModelError,
    RefusedError,
    RemoteProtocolError,
    first_line,
)
from airdraft.models.base import LanguageModel, OneByOne
from airdraft.scheduler import Scheduler
from airdraft.telemetry.trace import Traces
from airdraft.transport import Driver
from airdraft.version import __version__

_log = logging.getLogger(__name__)

CONNECT_S = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROBE_UP_BYTES = 1 << 18
"""Filler of the longest ping of a probe: 20 ms at 100 Mbit/s."""
PING_BYTES = 64
"""More than a ping takes around its filler."""
PINGS = 3
"""Of which the least tells the round trip: what waited behind something else does not count."""
PROBE_TOKENS, PROBE_S = 8, 1.0
"""A text that makes the edge run forwards, if it has run none yet, and the time after which it is stopped."""


STANDS = "; the text so far stands"
STATUSES = {
    401: ("unauthorised", "it wants another token; pass the one it was given, --token or AIRDRAFT_TOKEN"),
    403: ("unauthorised", "this token may not use it; ask whoever runs the edge"),
    429: ("quota", "what this token may use is used up; try again later, or ask whoever runs the edge for more"),
    503: ("busy", "it has no room, or is about to end; try again later, or name another edge"),
}
"""What an edge's HTTP server answers instead of a connection: the code of the refusal, and the remedy."""


def check_address(url: str) -> None:
    """Raises: `LinkError` if `url` cannot be the address of an edge."""
    try:
        uri = parse_uri(url)
        uri.host.encode("idna")
    except (InvalidURI, ValueError) as error:  # ValueError: a port or a host that cannot be
        raise LinkError(f"{url!r} is no address of an edge; write it as ws://HOST:PORT or wss://HOST:PORT") from error


class Connection:
    """One connection to an edge. Several texts may be written over it at once.

    >>> async with await Connection.connect("ws://edge:8571", draft, tokenizer.digest, tokenizer.vocab_size) as edge:
    ...     async for event in edge.write(request):
    ...         print(event)
    """

    def __init__(
        self,
        url: str,
        socket: ClientConnection,
        draft: LanguageModel,
        hello: Hello,
        scheduler: Scheduler | None = None,
        traces: Traces | None = None,
    ) -> None:
        """Use `connect`."""
        self.url = url
        self.welcome: Welcome | None = None
        self.ended: str | None = None
        """The code of the error that the connection ended with; `gone` if it went away without one."""
        self._socket = socket
        self._shares = scheduler is not None
        self._scheduler = scheduler or Scheduler(OneByOne(draft), "draft")
        clock = asyncio.get_running_loop().time
        machine = DeviceMachine(hello, draft.max_context, clock())
        self._machine = machine
        self._tracing = Tracing(traces, url, machine, clock) if traces else None
        self._driver = Driver(
            machine, socket, self._scheduler, self._on_event, self._tracing.call if self._tracing else None
        )
        self._greeting: asyncio.Queue[Event] = asyncio.Queue()
        self._texts: dict[int, asyncio.Queue[Event]] = {}
        self._echoes: asyncio.Queue[Event] = asyncio.Queue()
        self._probing = asyncio.Lock()
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
    ) -> Self:
        """Connect and shake hands. `tokenizer` is the digest, `vocab_size` the size of the draft's vocabulary.

        Args:
            token: proves to the edge who we are; sent in the clear unless the URL begins with wss://.
            ssl: what to trust, for wss://; None: the authorities this machine trusts.
            scheduler: runs the draft, and outlives the connection; None: one of its own.
            traces: where a trace of every text goes; None: nowhere.
        Raises: `LinkError` if the edge cannot be reached, `RefusedError` or `RemoteProtocolError` if it and this
        device cannot work together, `BadParameterError` for a token that is none.
        """
        check_address(url)
        parts = urlsplit(url)
        options: dict[str, Any] = {}
        if token is not None:
            options["additional_headers"] = {"Authorization": f"Bearer {_checked(token)}"}
        if ssl is not None and parts.scheme == "wss":
            options["ssl"] = ssl
        try:
            socket = await connect(
                url,
                compression=None,
                max_size=MAX_FRAME + 16,
                ping_interval=None,
                open_timeout=CONNECT_S,
                proxy=None if parts.hostname in LOOPBACK else True,  # no proxy leads back to this machine
                **options,
            )
        except InvalidStatus as error:
            if known := STATUSES.get(error.response.status_code):
                code, remedy = known
                raise RefusedError(code, f"the edge at {url} refuses this device: {remedy}") from error
            raise _unreachable(url, error) from error
        except tls.SSLCertVerificationError as error:
            raise RefusedError(
                "unauthorised",
                f"the certificate of {url} is not to be trusted ({error.verify_message}); if it is your own, name its "
                "authority, --ca FILE",
            ) from error
        except (InvalidMessage, tls.SSLError, ConnectionResetError) as error:
            # Most likely one side speaks TLS and the other does not.
            other = "a certificate, write wss://" if parts.scheme == "ws" else "no certificate, write ws://"
            raise LinkError(f"no edge answers at {url} ({first_line(error)}); if it has {other}") from error
        except (OSError, TimeoutError, WebSocketException) as error:
            raise _unreachable(url, error) from error
        software = f"airdraft {__version__}"
        hello = Hello(VERSION, software, draft.name, tokenizer, vocab_size)
        client = cls(url, socket, draft, hello, scheduler, traces)
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
        raise client._error(event)

    @property
    def alive(self) -> bool:
        """Whether texts can be written over it, as far as this side knows."""
        return not (self._machine.closed or self._task.done())

    async def write(self, request: Request) -> AsyncGenerator[Committed | Finished, None]:
        """The events of one text, as they happen; the last is `Finished`. `request.counts` says what it has cost.

        Raises: `BadParameterError` before anything is sent, `RefusedError` if the edge refuses the text,
        `RemoteProtocolError` if it breaks the protocol, `ModelError` if the draft model fails, `LinkError` if the edge
        goes away. What was committed until then has been handed out and stands.
        """
        if not self.alive:
            raise self._gone()
        number, events = self._machine.open(request, asyncio.get_running_loop().time())
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
            self._machine.cancel(number)
            if self._tracing is not None:
                self._tracing.left(number)
            self._driver.forget(number)
            self._driver.flush()

    async def probe(self) -> Probe:
        """Measure the link and the edge, in a second or two; at its best while nothing is written over this connection.

        It sends 1 MB at most, far less where that is slow. An edge that has run no forward yet is given a few tokens to
        write. Texts that are written later over this connection profit from what it has learnt.
        Raises: as `write`.
        """
        async with self._probing:
            most = PROBE_UP_BYTES if self.welcome is None else self.welcome.max_frame - PING_BYTES
            rtt_s, up_bps, down_bps = await measure(self._ping, max(1, min(most, PROBE_UP_BYTES)), MAX_FILLER)
            if not self._machine.verify_s:
                await self._write_a_little()
                await self._ping(0, 0)
            return Probe(rtt_s, up_bps, down_bps, self._machine.verify_s)

    async def round_trip_s(self) -> float:
        """Seconds that a small message takes there and back: the least of a few. Raises: as `write`."""
        async with self._probing:
            return min([(await self._ping(0, 0)).seconds for _ in range(PINGS)])

    async def _ping(self, filler: int, want: int) -> Echo:
        """One ping and its answer, let through by `_on_event`."""
        if not self.alive:
            raise self._gone()
        while not self._echoes.empty():  # heartbeats'
            self._echoes.get_nowait()
        self._machine.ping(asyncio.get_running_loop().time(), filler, want)
        self._driver.flush()
        while True:
            event = await self._echoes.get()
            if not isinstance(event, Echo):
                raise self._error(event)
            if 0 < event.bytes_out - filler <= PING_BYTES and 0 < event.bytes_in - want <= PING_BYTES:
                return event  # any other answers a ping of the machine's own

    async def _write_a_little(self) -> None:
        now = asyncio.get_running_loop().time
        deadline = now() + PROBE_S
        request = Request((0,), SchemeSpec("server"), SamplingParams(0.0), 0, PROBE_TOKENS)
        async with contextlib.aclosing(self.write(request)) as events:
            async for _ in events:
                if now() > deadline:
                    return

    def facts(self) -> Facts:
        """What is known of the link and of the models at its ends, or assumed until it is measured."""
        return self._machine.estimator.facts()

    @property
    def bytes_out(self) -> int:
        """Bytes sent so far, every header of ours and of the WebSocket's included."""
        return self._driver.bytes_out

    @property
    def bytes_in(self) -> int:
        """Bytes received so far, likewise."""
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

    async def _run(self) -> None:
        try:
            await self._driver.run()
        except Exception:
            _log.exception("the connection to %s failed", self.url)
        finally:
            self._on_event(Failed(None, "gone", "", ours=False))

    def _on_event(self, event: Event) -> None:
        if self._tracing is not None:
            self._tracing.event(event)
        if isinstance(event, Ready):
            self._greeting.put_nowait(event)
        elif isinstance(event, Failed) and event.session is None:
            self.ended = self.ended or event.code
            for queue in (self._greeting, self._echoes, *self._texts.values()):
                queue.put_nowait(event)
        elif isinstance(event, Echo) and self._probing.locked():
            self._echoes.put_nowait(event)
        elif isinstance(event, Committed | Finished | Failed) and event.session in self._texts:
            self._texts[event.session].put_nowait(event)

    def _error(self, event: Event) -> AirdraftError:
        if not isinstance(event, Failed) or event.code == "gone":
            return self._gone()
        if not event.ours:
            return RefusedError(event.code, event.message)
        if event.code == "silent":
            return LinkError(f"the edge at {self.url} went silent: {event.message}{STANDS}")
        if event.code == "engine":
            return ModelError(event.message)
        return RemoteProtocolError(event.code, f"the edge at {self.url} broke the protocol: {event.message}")

    def _gone(self) -> AirdraftError:
        code = self._socket.close_code
        if code == 1009:
            why = f"the edge at {self.url} takes no message that long; lower --draft-length or --k"
            return RefusedError("frame", why)
        return LinkError(f"the edge at {self.url} went away (close code {code}){STANDS}")


def _checked(token: str) -> str:
    if not (token and token.isascii() and token.isprintable()) or " " in token:
        raise BadParameterError("the token is empty or holds what no HTTP header may; give it as it was issued")
    return token


def _unreachable(url: str, error: Exception) -> LinkError:
    return LinkError(f"no edge answers at {url} ({first_line(error)}); start one with `airdraft edge`")
