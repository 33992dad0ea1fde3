"""The device's side of a connection to an edge, as an asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidURI, WebSocketException

from airdraft import __version__
from airdraft.core.device import DeviceMachine, Request
from airdraft.core.events import Committed, Echo, Event, Failed, Finished, Ready
from airdraft.core.messages import MAX_FILLER, MAX_FRAME, VERSION, Hello, SchemeSpec, Welcome
from airdraft.core.sampling import SamplingParams
from airdraft.device.probe import Probe, measure
from airdraft.errors import AirdraftError, LinkError, ModelError, RefusedError, RemoteProtocolError
from airdraft.models.base import LanguageModel, OneByOne
from airdraft.scheduler import Scheduler
from airdraft.transport import Driver

_log = logging.getLogger(__name__)

CONNECT_S = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROBE_UP_BYTES = 1 << 18
"""Filler of the longest ping of a probe: 20 ms at 100 Mbit/s."""
PING_BYTES = 64
"""More than a ping takes around its filler."""
PROBE_TOKENS, PROBE_S = 8, 1.0
"""A text that makes the edge run forwards, if it has run none yet, and the time after which it is stopped."""


class Client:
    """One connection to an edge. Several texts may be written over it at once.

    >>> async with await Client.connect("ws://edge:8571", draft, tokenizer.digest, tokenizer.vocab_size) as client:
    ...     async for event in client.write(request):
    ...         print(event)
    """

    def __init__(self, url: str, socket: ClientConnection, draft: LanguageModel, hello: Hello) -> None:
        """Use `connect`."""
        self.url = url
        self.welcome: Welcome | None = None
        self._socket = socket
        self._scheduler = Scheduler(OneByOne(draft), "draft")
        machine = DeviceMachine(hello, draft.max_context, asyncio.get_running_loop().time())
        self._machine = machine
        self._driver = Driver(machine, socket, self._scheduler, self._on_event)
        self._greeting: asyncio.Queue[Event] = asyncio.Queue()
        self._texts: dict[int, asyncio.Queue[Event]] = {}
        self._echoes: asyncio.Queue[Event] = asyncio.Queue()
        self._probing = asyncio.Lock()
        self._task = asyncio.create_task(self._run())

    @classmethod
    async def connect(cls, url: str, draft: LanguageModel, tokenizer: bytes, vocab_size: int) -> Self:
        """Connect and shake hands. `tokenizer` is the digest, `vocab_size` the size of the draft's vocabulary.

        Raises: `LinkError` if the edge cannot be reached, `RefusedError` or `RemoteProtocolError` if it and this
        device cannot work together.
        """
        try:
            host = urlsplit(url).hostname
            socket = await connect(
                url,
                compression=None,
                max_size=MAX_FRAME + 16,
                ping_interval=None,
                open_timeout=CONNECT_S,
                proxy=None if host in LOOPBACK else True,  # no proxy leads back to this machine
            )
        except (InvalidURI, ValueError) as error:  # ValueError: a port or a host that cannot be
            raise LinkError(f"{url!r} is no address of an edge; write it as ws://HOST:PORT") from error
        except (OSError, TimeoutError, WebSocketException) as error:
            why = str(error) or type(error).__name__
            raise LinkError(f"no edge answers at {url} ({why}); start one with `airdraft edge`") from error
        client = cls(url, socket, draft, Hello(VERSION, f"airdraft {__version__}", draft.name, tokenizer, vocab_size))
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

    async def write(self, request: Request) -> AsyncGenerator[Committed | Finished, None]:
        """The events of one text, as they happen; the last is `Finished`. `request.counts` says what it has cost.

        Raises: `BadParameterError` before anything is sent, `RefusedError` if the edge refuses the text,
        `RemoteProtocolError` if it breaks the protocol, `ModelError` if the draft model fails, `LinkError` if the edge
        goes away. What was committed until then has been handed out and stands.
        """
        if self._machine.closed or self._task.done():
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

    async def _ping(self, filler: int, want: int) -> Echo:
        """One ping and its answer, let through by `_on_event`."""
        if self._machine.closed or self._task.done():
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
        if isinstance(event, Ready):
            self._greeting.put_nowait(event)
        elif isinstance(event, Failed) and event.session is None:
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
            return LinkError(f"the edge at {self.url} went silent: {event.message}; the text so far stands")
        if event.code == "engine":
            return ModelError(event.message)
        return RemoteProtocolError(event.code, f"the edge at {self.url} broke the protocol: {event.message}")

    def _gone(self) -> LinkError:
        code = self._socket.close_code
        if code == 1009:
            return LinkError(f"the edge at {self.url} takes no message that long; lower --draft-length or --k")
        return LinkError(f"the edge at {self.url} went away (close code {code}); the text so far stands")
