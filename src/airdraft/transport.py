"""Drives one machine over one WebSocket: bytes in and out, model forwards in worker threads, time.

Device and edge are the same here; they differ in what they do with the events that are not forwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

from websockets.asyncio.connection import Connection as WebSocket
from websockets.exceptions import ConnectionClosed

from airdraft.core.device import DeviceMachine
from airdraft.core.edge import EdgeMachine
from airdraft.core.events import Event, Failed, Finished, Forward
from airdraft.errors import AirdraftError
from airdraft.models.base import LanguageModel

_log = logging.getLogger(__name__)


def websocket_header(length: int, masked: bool) -> int:
    """Bytes that a WebSocket puts before a message of `length` bytes (RFC 6455 §5.2). Devices mask, edges do not."""
    return 2 + (0 if length < 126 else 2 if length < 1 << 16 else 8) + 4 * masked


class Driver:
    """One machine, one WebSocket, one model, and a cache for each session."""

    def __init__(
        self,
        machine: DeviceMachine | EdgeMachine,
        socket: WebSocket,
        model: LanguageModel,
        executor: Executor,
        on_event: Callable[[Event], None],
    ) -> None:
        self.machine = machine
        self._socket = socket
        self._model = model
        self._executor = executor
        self._on_event = on_event
        self._caches: dict[int, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = asyncio.Lock()
        self._is_device = isinstance(machine, DeviceMachine)
        self.bytes_in = 0
        """Received, WebSocket headers included."""
        self.bytes_out = 0
        """Sent, WebSocket headers included."""

    async def run(self) -> None:
        """Serve the connection until either side ends it. Returns normally then; the events say why."""
        clock = asyncio.create_task(self._keep_time())
        try:
            await self.flush()
            async for data in self._socket:
                if isinstance(data, str):
                    self.handle([self.machine.fail("garbage", "a text message arrived; the protocol is binary")])
                else:
                    self.bytes_in += len(data) + websocket_header(len(data), not self._is_device)
                    self.handle(self.machine.receive(data, self._now()))
                await self.flush()
                if self.machine.closed:
                    break
        except ConnectionClosed:
            pass  # the caller reads the close code off the socket
        finally:
            for task in {clock, *self._tasks}:
                task.cancel()
            await asyncio.gather(clock, *self._tasks, return_exceptions=True)
            await self._socket.close()

    def handle(self, events: Iterable[Event]) -> None:
        """Start the forwards that are asked for, pass everything else on. Call `flush` afterwards."""
        for event in events:
            if isinstance(event, Forward):
                task = asyncio.create_task(self._forward(event))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                continue
            if isinstance(event, Finished | Failed) and event.session is not None:
                self._caches.pop(event.session, None)
            self._on_event(event)

    async def flush(self) -> None:
        """Send what the machine has to say."""
        async with self._sending:
            if data := self.machine.take():
                self.bytes_out += len(data) + websocket_header(len(data), self._is_device)
                await self._socket.send(data)

    async def _forward(self, event: Forward) -> None:
        loop = asyncio.get_running_loop()
        try:
            cache = self._caches.get(event.session)
            if cache is None:
                cache = self._caches[event.session] = self._model.new_cache()
            run = self._model.forward
            logits = await loop.run_in_executor(self._executor, run, cache, event.keep, event.tokens, event.rows)
            self.handle(self.machine.forwarded(event.session, logits))
        except AirdraftError as error:
            self.handle(self.machine.failed(event.session, "engine", str(error)))
        except Exception:  # whatever an engine throws ends its session and no other
            _log.exception("a forward of %s failed", self._model.name)
            why = f"{self._model.name} failed to run; see the log of the side that runs it"
            self.handle(self.machine.failed(event.session, "engine", why))
        with contextlib.suppress(ConnectionClosed):  # `run` notices
            await self.flush()

    async def _keep_time(self) -> None:
        while (deadline := self.machine.deadline()) is not None:
            await asyncio.sleep(max(0.0, deadline - self._now()))
            self.handle(self.machine.tick(self._now()))
            await self.flush()
        await self._socket.close()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
