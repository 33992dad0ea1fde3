"""The driver of one machine over one WebSocket: bytes, model forwards through the scheduler, and time.

Device and edge both use it. They differ in how they handle events other than forwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from airdraft.core.device import DeviceMachine
from airdraft.core.edge import EdgeMachine
from airdraft.core.events import Begun, Event, Failed, Finished, Forward, Progress
from airdraft.core.law import Guide
from airdraft.core.messages import GuideSpec, websocket_header
from airdraft.core.schemes import Ruling
from airdraft.errors import AirdraftError, Code, ending
from airdraft.scheduler import Call, Helped, Helping, Owner, Scheduler, Sequenced, yielded
from airdraft.sockets import ANSWER_S, MESSAGE_BYTES, SLICE_S, TEXT_S, TURN_S, Reined

_log = logging.getLogger(__name__)

MOST_UNSENT = 16 << 20
"""Most unsent bytes of a device that still reads, four of the longest frames. No honest edge asks for more. (An edge
stops reading from a device that does not take its data.)"""
LARGE = 1 << 16
"""Logits from which to choose tokens takes longer than to wake another thread for it."""
MOST_WAITING = 1 << 18
"""Most unsent bytes of an edge beyond which it runs no forward for the device: the answer could not be sent."""
MOST_HELD = 4 << 20
"""Most bytes of drafts that an edge holds for a device and has not judged, beyond which it reads no more."""
_COSTS_S: dict[type[Event], float] = {Forward: ANSWER_S, Begun: TEXT_S}
"""What events cost the loop later."""
CLOSE_S = 3.0
"""Seconds for the peer to read the last bytes and close."""


class GuideReader(Protocol):
    """Reads the guides of texts."""

    name: str
    """As in `Welcome.guides`."""

    async def read(self, spec: GuideSpec, eos_ids: Sequence[int]) -> Guide:
        """Return what `spec` says. Raises: `BadParameterError` for what is no guide."""
        ...


class Payer(Protocol):
    """Pays for forwards with tokens, a quota say."""

    owner: Owner
    """For fair turns."""

    async def pace(self, tokens: int) -> None:
        """Pay for so many tokens before they are fed, and wait until that is made up for."""
        ...

    def spend(self, tokens: int) -> None:
        """Pay for tokens that were fed beyond those; who comes next waits longer. Below 0: get that back."""
        ...


class Onlooker:
    """Sees what a model does for the texts of a connection. This one does not look."""

    def call(self, session: int, call: Call) -> None:
        """See a call of the engine that includes a session."""

    def rows(self, forward: Forward, logits: np.ndarray) -> None:
        """See the rows of a forward, before the machine does."""

    def latest(self, forward: Forward) -> Forward:
        """What to run instead of a forward: the same, with rows if it wants to see them."""
        return forward


async def judged(
    scheduler: Scheduler, judge: Callable[[np.ndarray], Ruling | None], logits: np.ndarray
) -> Ruling | None:
    """The ruling of `EdgeSession.judge`; over a large vocabulary in another thread, so that the loop stays free."""
    return await scheduler.aside(judge, logits) if logits.size > LARGE else judge(logits)


async def paid(
    scheduler: Scheduler, payer: Payer | None, text: Sequenced, forward: Forward, latest: Callable[[], Forward]
) -> np.ndarray:
    """Pay for a forward and run what `latest` says by then. What joins it while it waits, or is shared by then, is
    settled afterwards; who gives up before it has run gets everything back."""
    if payer is None:
        return await scheduler.run(text, latest)
    ran, due, used = forward, scheduler.unread(text, forward), text.used

    def noted() -> Forward:
        nonlocal ran
        ran = latest()
        return ran

    await payer.pace(due)
    try:
        rows = await scheduler.run(text, noted)
    finally:
        payer.spend(-due if text.used == used else max(0, ran.due - forward.due))
    payer.spend(scheduler.fed(text, forward) - due)
    return rows


class _Sender:
    """Sends a machine's bytes in their order, in WebSocket messages of at most `MESSAGE_BYTES`."""

    def __init__(self, machine: DeviceMachine | EdgeMachine, socket: Reined, is_device: bool) -> None:
        self._machine, self._socket, self._is_device = machine, socket, is_device
        self._unsent: deque[bytes] = deque()
        self._has_unsent = asyncio.Event()
        self.caught_up = asyncio.Event()
        """Set while everything was sent, or never will be."""
        self.caught_up.set()
        self.is_open = True
        self.bytes_out = 0

    def put(self, data: bytes) -> None:
        """Send bytes soon, if the connection is open."""
        if not self.is_open:
            return
        for at in range(0, len(data), MESSAGE_BYTES):
            message = data[at : at + MESSAGE_BYTES]
            self.bytes_out += len(message) + websocket_header(len(message), self._is_device)
            self._unsent.append(message)
            self._socket.share.charge(ANSWER_S)
        self._machine.backlog += len(data)
        if self._unsent:
            self.caught_up.clear()
            self._has_unsent.set()

    async def run(self) -> None:
        """Send until the connection ends. It is a task of its own: a caller cancelled half-way would tear a frame."""
        try:
            while True:
                await self._has_unsent.wait()
                while self._unsent:
                    message = self._unsent.popleft()
                    await self._socket.send(message)
                    self._machine.backlog -= len(message)
                self._has_unsent.clear()
                self.caught_up.set()
        except ConnectionClosed:
            pass  # the driver notices
        finally:
            self.is_open = False
            self.caught_up.set()


class Driver:
    """Drives one machine over one WebSocket, with a text in the scheduler for each session."""

    def __init__(
        self,
        machine: DeviceMachine | EdgeMachine,
        socket: Reined,
        scheduler: Scheduler,
        on_event: Callable[[Event], None],
        onlooker: Onlooker | None = None,
        payer: Payer | None = None,
        helping: Helping | None = None,
    ) -> None:
        """
        Args:
            onlooker: sees what the model does.
            payer: pays for each forward before it queues for its turn; None: nobody does.
            helping: the edge's own draft model, if it has one.
        """
        self.machine = machine
        self._socket = socket
        self._scheduler = scheduler
        self._owner = Owner(payer.owner if payer else scheduler.tenant)
        self._helped = Helped(helping, self._owner)
        self._on_event, self._onlooker, self._payer = on_event, onlooker or Onlooker(), payer
        self._texts: dict[int, Sequenced] = {}
        self._private: dict[int, int | None] = {}  # where each session's text becomes private
        self._forwards: dict[int, asyncio.Task[None]] = {}  # unanswered, at most one a session
        self._is_device = isinstance(machine, DeviceMachine)
        self._sender = _Sender(machine, socket, self._is_device)
        self._sooner = asyncio.Event()  # the machine's deadline moved closer
        self._waits_until = math.inf  # the last known deadline
        self._judged = asyncio.Event()  # a forward has ended, or never will
        self.bytes_in = 0
        """Bytes received, WebSocket headers included."""

    @property
    def bytes_out(self) -> int:
        """Bytes sent, WebSocket headers included."""
        return self._sender.bytes_out

    async def run(self) -> None:
        """Serve the connection until either side ends it, then return normally. The events give the reason."""
        helpers = [asyncio.create_task(self._keep_time()), asyncio.create_task(self._send())]
        try:
            self.flush()
            while True:
                # Piece by piece: a message may come in thousands of fragments, and its boundaries mean nothing.
                async with contextlib.aclosing(self._socket.recv_streaming()) as pieces:  # type: ignore[type-var]
                    async for data in pieces:
                        await self._take(data)
                        if self.machine.closed:
                            return
        except ConnectionClosed:
            pass  # the caller reads the close code off the socket
        finally:
            await self.close()
            tasks = [*helpers, *self._forwards.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._forwards.clear()
            for text in self._texts.values():
                self._scheduler.drop(text)
            self._texts.clear()
            self._helped.drop()

    async def _take(self, data: bytes | str) -> None:
        """Act on what came, in slices between which others get their turn."""
        if isinstance(data, str):
            self.fail(Code.GARBAGE, "a text message arrived; the protocol is binary")
            return
        self.bytes_in += len(data) + websocket_header(len(data), not self._is_device)
        self.machine.feed(data, _now())
        events: list[Event] | None = []
        while events is not None:
            began_s = spent_s = time.thread_time()
            while spent_s - began_s < SLICE_S and (events := self.machine.step(_now())) is not None:
                self.handle(events)
                spent_s = time.thread_time()
            self.flush()
            if not self._is_device and self._socket.state is State.CLOSED:
                return  # a farewell is taken; of more than a slice nobody would hear
            rest_s = self._socket.share.spend(TURN_S + spent_s - began_s)
            if rest_s or events is not None:
                await asyncio.sleep(rest_s)
                self._socket.share.rested()
            # Unread data piles up, so do not read from a peer that does not read.
            if not self._is_device or self.machine.backlog > MOST_UNSENT:
                await self._sender.caught_up.wait()
            while self.machine.held_bytes > MOST_HELD and self._sender.is_open:
                self._judged.clear()
                await self._judged.wait()

    async def close(self) -> None:
        """End the connection within `CLOSE_S`, whatever the peer does."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._sender.caught_up.wait()
                await self._socket.close()
        except TimeoutError:
            self._socket.transport.abort()
            await self._socket.wait_closed()

    def handle(self, events: Iterable[Event]) -> None:
        """Start the forwards, and pass all other events on. Call `flush` afterwards."""
        for event in events:
            self._socket.share.charge(_COSTS_S.get(type(event), 0.0))
            if isinstance(event, Forward):
                self._forwards[event.session] = asyncio.create_task(self._forward(event))
                continue
            if isinstance(event, Begun):
                self._private[event.session] = event.private
            if isinstance(event, Finished | Failed) and event.session is not None:
                self.forget(event.session)
            self._on_event(event)

    def waits(self, session: int) -> bool:
        """Whether a forward of the session is waiting or running."""
        return session in self._forwards

    def fail(self, code: str, message: str, session: int | None = None) -> None:
        """End a session at the edge, or the connection, and tell the peer why."""
        if session is None:
            self.handle([self.machine.fail(code, message)])
        else:
            self.handle(self.machine.failed(session, code, message))
        self.flush()

    def forget(self, session: int) -> None:
        """Free the text in the engine, and the waiting forward, of a session that is over."""
        self._judged.set()
        if task := self._forwards.pop(session, None):
            task.cancel()
        self._private.pop(session, None)
        if text := self._texts.pop(session, None):
            self._scheduler.drop(text)
        self._helped.drop(session)

    def flush(self) -> None:
        """Send the machine's bytes soon."""
        data = self.machine.take()
        if (self.machine.deadline() or 0) < self._waits_until:
            self._sooner.set()
        self._sender.put(data)

    async def _send(self) -> None:
        await self._sender.run()
        self._judged.set()

    async def _forward(self, event: Forward) -> None:
        number, machine = event.session, self.machine
        try:
            if event.draft and isinstance(machine, EdgeMachine):
                row = await self._helped.row(event, self._private.get(number))
                self._forwards.pop(number, None)
                self.handle(machine.unhelped(number, _now()) if row is None else machine.forwarded(number, row, _now()))
                self.flush()
                return
            text = self._texts.get(number)
            if text is None:
                text = self._texts[number] = self._scheduler.open(self._owner, self._private.get(number))
                error = yielded()
                text.on_yield = partial(self.fail, error.code, str(error), number)
                text.on_call = partial(self._onlooker.call, number)
            while not self._is_device and self._sender.is_open and self.machine.backlog > MOST_WAITING:
                await self._sender.caught_up.wait()
            logits = await paid(
                self._scheduler, self._payer, text, event, lambda: self._onlooker.latest(machine.latest(event))
            )
            self._onlooker.rows(event, logits)
            take: Callable[[int, np.ndarray, float], list[Event]] = machine.forwarded
            if isinstance(machine, EdgeMachine):
                take = partial(
                    machine.forwarded, ruling=await judged(self._scheduler, partial(machine.judge, number), logits)
                )
            self._forwards.pop(number, None)  # from here on `forget` must not cancel this task
            events = take(number, logits, _now())
            if self._payer is not None:  # what the edge proposed is paid for if it was right
                self._payer.spend(sum(each.taken for each in events if isinstance(each, Progress)))
            self.handle(events)
        except AirdraftError as error:
            self._failed(number, ending(error), str(error))
        except Exception:  # our own fault: it ends this text and no other
            _log.exception("what a forward gave could not be taken")
            self._failed(number, Code.ENGINE, "a fault of airdraft's own; see the log of the side whose model ran")
        self._judged.set()
        self.flush()

    def _failed(self, session: int, code: str, message: str) -> None:
        self._forwards.pop(session, None)
        self.handle(self.machine.failed(session, code, message))

    async def _keep_time(self) -> None:
        while (deadline := self.machine.deadline()) is not None:
            self._sooner.clear()
            self._waits_until = deadline
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._sooner.wait()
            self.handle(self.machine.tick(_now()))
            self.flush()
        await self.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
