"""An emulated link in real time: a TCP relay between a device and an edge, in user space, without root.

All connections through one relay share one link, as the programs of one device share its radio. The relay emulates the
arrival times of bytes with their packets' headers. It does not emulate TCP's own handshake (one round trip on a real
link) or its acknowledgements. It keeps rates up to some hundred Mbit/s, above which copying in Python is the limit.

Deadlines come from the loop's clock and the pipe, never from the previous wake-up. So a late timer (asyncio's are up to
a millisecond late, never early) delays only one delivery.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from asyncio import StreamReader, StreamWriter
from types import TracebackType
from typing import Self

from airdraft.errors import LinkError, why
from airdraft.link.base import PACKET_BYTES, LinkModel, Pipe

__all__ = ["Relay"]

_log = logging.getLogger(__name__)

_QUEUE_S = 0.1
"""Seconds that the link may be booked ahead before the relay stops reading, as a radio does whose buffer is full."""
_READ_PACKETS = 16
"""Most packets read at once, so that connections take turns."""
_MERGE_S = 1e-3
"""Time in seconds within which packets are delivered together, at the last one's arrival."""


class Relay:
    """Listens for devices and carries each connection to the target through one link, `model`."""

    def __init__(self, model: LinkModel, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self.uplink: Pipe = model.uplink()
        self.downlink: Pipe = model.downlink()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(
        cls, model: LinkModel, listen_host: str, listen_port: int, target_host: str, target_port: int
    ) -> Self:
        """Start a relay that listens. Port 0 picks a free one, see `port`. The first connection is the first to try the
        target.

        Raises: `LinkError` if it cannot listen on the address.
        """
        relay = cls(model, target_host, target_port)
        try:
            relay._server = await asyncio.start_server(relay._accept, listen_host, listen_port)
        except (OSError, UnicodeError) as error:
            raise LinkError(
                f"the relay cannot listen on {listen_host}:{listen_port} ({why(error)}): "
                "choose an address of this machine and a free port, or port 0"
            ) from error
        return relay

    @property
    def port(self) -> int:
        """The port that devices connect to."""
        if self._server is None or not self._server.sockets:
            raise LinkError("the relay is closed: start another to get a port")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def uplink_bytes(self) -> int:
        """Bytes that devices have put on the link, without the packets' headers (`uplink.sent_bytes` counts them)."""
        return self.uplink.payload_bytes

    @property
    def downlink_bytes(self) -> int:
        """Bytes that the edge has put on the link, without the packets' headers."""
        return self.downlink.payload_bytes

    async def close(self) -> None:
        """Stop listening and cut every connection. Data in flight is lost."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)  # the transports close their sockets in the next turn of the loop

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._server is None:
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, device_reader: StreamReader, device_writer: StreamWriter) -> None:
        writers = [device_writer]
        try:
            try:
                edge_reader, edge_writer = await asyncio.open_connection(*self._target)
            except OSError as error:
                _log.warning("the relay cannot reach the edge at %s:%d: %s", *self._target, error)
            else:
                writers.append(edge_writer)
                await _join(
                    _Flow(device_reader, edge_writer, self.uplink), _Flow(edge_reader, device_writer, self.downlink)
                )
            for writer in writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        finally:  # for a cancelled connection; no-op on a closed one
            for writer in writers:
                writer.transport.abort()


async def _join(uplink: _Flow, downlink: _Flow) -> None:
    """Carry both directions until both have ended, or one finds its peer gone."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for flow in (uplink, downlink):
                tasks.create_task(flow.take())
                tasks.create_task(flow.deliver())
    except* OSError as errors:
        _log.debug("a connection was lost: %s", errors.exceptions)


class _Flow:
    """One direction of a connection, from `source` to `sink` at the times of `pipe`."""

    def __init__(self, source: StreamReader, sink: StreamWriter, pipe: Pipe) -> None:
        sink.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._source = source
        self._sink = sink
        self._pipe = pipe
        self._clock = asyncio.get_running_loop().time
        self._air_s = 0.0
        self._sink_reads = asyncio.Event()
        self._sink_reads.set()
        self._in_flight: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue()

    async def take(self) -> None:
        """Put the source's bytes on the link, followed by its end: b"" for a half-close, or the error."""
        data: bytes | OSError = b"-"
        while data and not isinstance(data, OSError):
            await self._sink_reads.wait()
            while (wait_s := self._pipe.free_at_s - self._clock() - _QUEUE_S) > 0:  # noqa: ASYNC110 (a time, no event)
                await asyncio.sleep(wait_s)
            try:
                data = await self._source.read(_READ_PACKETS * PACKET_BYTES)
            except OSError as error:
                data = error
            self._put(data)

    def _put(self, data: bytes | OSError) -> None:
        """Book `data` on the link packet by packet, to be delivered in as few pieces as `_MERGE_S` allows."""
        now = self._clock()
        if isinstance(data, OSError) or not data:
            self._in_flight.put_nowait((self._send(now, 0), data))
            return
        begin, first_s, last_s = 0, math.inf, -math.inf
        for at in range(0, len(data), PACKET_BYTES):
            arrival_s = self._send(now, min(PACKET_BYTES, len(data) - at))
            if arrival_s > first_s + _MERGE_S:
                self._in_flight.put_nowait((last_s, data[begin:at]))
                begin, first_s = at, arrival_s
            first_s, last_s = min(first_s, arrival_s), arrival_s
        self._in_flight.put_nowait((last_s, data[begin:]))

    def _send(self, now: float, nbytes: int) -> float:
        arrival_s = self._pipe.send(now, nbytes)
        self._air_s = arrival_s - self._pipe.free_at_s
        return arrival_s

    async def deliver(self) -> None:
        """Deliver each piece to the sink at its time. A sink that does not read stops `take`."""
        while True:
            deliver_at, data = await self._in_flight.get()
            if (wait_s := deliver_at - self._clock()) > 0:
                await asyncio.sleep(wait_s)
            if isinstance(data, OSError):
                raise data
            try:
                if not data:
                    self._sink.write_eof()
                    return
                self._sink.write(data)
                self._sink_reads.clear()
                await self._sink.drain()
                self._sink_reads.set()
            except OSError:
                await asyncio.sleep(self._air_s)  # the news travels back as slowly as everything else
                raise
