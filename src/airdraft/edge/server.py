"""The edge's process: a WebSocket server around one target model."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from websockets.asyncio.server import Server, ServerConnection, serve

from airdraft import __version__
from airdraft.core.edge import EdgeMachine, Limits, Target
from airdraft.core.events import Event, Failed
from airdraft.errors import LinkError
from airdraft.models.base import TargetEngine
from airdraft.scheduler import Scheduler
from airdraft.transport import CLOSE_S, MESSAGE_BYTES, Driver

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capacity:
    """What all connections together may ask of the engine; None: as much as it takes."""

    texts: int | None = 1024
    """Written at once; one more is refused."""
    batch: int | None = None
    """Texts in one call."""
    positions: int | None = None
    """Key-value positions held at once; a text that loses its cache to another is fed again, not refused."""


class EdgeServer:
    """Serves one target to any number of devices; a fault of one ends its session or connection, no other's."""

    def __init__(
        self,
        engine: TargetEngine,
        tokenizer: bytes,
        vocab_size: int,
        limits: Limits | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        """`tokenizer` is the digest, and `vocab_size` the size, of the vocabulary the model was trained with."""
        limits, capacity = limits or Limits(), capacity or Capacity()
        if engine.max_rollback is not None:  # what is rejected is taken back
            limits = replace(limits, max_draft=min(limits.max_draft, engine.max_rollback))
        self._limits = limits
        self._target = Target(
            f"airdraft {__version__}", engine.name, tokenizer, vocab_size, engine.max_context, engine.eos_ids,
            engine.top_k,
        )  # fmt: skip
        self._scheduler = Scheduler(
            engine, "target",
            max_batch=capacity.batch, max_positions=capacity.positions, max_texts=capacity.texts,
        )  # fmt: skip
        self._verify_s = 0.0  # as the last connection found it
        self._machines: set[EdgeMachine] = set()
        self._server: Server | None = None
        self._sockets: set[ServerConnection] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen. Port 0 picks a free one, see `port`.

        Raises: `LinkError` if the address cannot be had.
        """
        try:
            self._server = await serve(
                self._serve,
                host,
                port,
                compression=None,  # ids and probabilities do not compress, and it costs time
                max_size=max(self._limits.max_frame + 16, MESSAGE_BYTES),
                ping_interval=None,  # the protocol has heartbeats of its own
            )
        except OSError as error:
            raise LinkError(
                f"the edge cannot listen on {host}:{port} ({error.strerror}); choose a free port, or port 0"
            ) from error

    @property
    def port(self) -> int:
        """The port that devices connect to."""
        if self._server is None:
            raise LinkError("the edge is not listening; start it first")
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening, end every connection."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            try:
                async with asyncio.timeout(CLOSE_S):
                    await server.wait_closed()
            except TimeoutError:  # devices that do not read, or do not answer
                for socket in self._sockets:
                    socket.transport.abort()
                await server.wait_closed()
        self._scheduler.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _speed(self) -> float:
        """Seconds that a forward takes, as far as any connection knows."""
        return next((machine.verify_s for machine in self._machines if machine.verify_s), self._verify_s)

    async def _serve(self, socket: ServerConnection) -> None:
        machine = EdgeMachine(self._target, self._limits, asyncio.get_running_loop().time(), self._speed())

        def on_event(event: Event) -> None:
            if isinstance(event, Failed):
                what = "the connection" if event.session is None else f"session {event.session}"
                _log.warning("%s of %s ended: %s: %s", what, socket.remote_address, event.code, event.message)

        self._sockets.add(socket)
        self._machines.add(machine)
        try:
            await Driver(machine, socket, self._scheduler, on_event).run()
        finally:
            self._verify_s = machine.verify_s or self._verify_s
            self._machines.discard(machine)
            self._sockets.discard(socket)
