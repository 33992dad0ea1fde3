"""An emulated link in real time: a TCP relay between a device and an edge, in user space, without root.

Every connection through one relay shares one link, as the programs of one device share its radio. What is
emulated is rate and delay of the payload; the packets' headers and TCP's own handshake (one round trip on a
real link) are not. Rates up to some hundred Mbit/s are kept; above, copying in Python is what limits.

Deadlines come from the loop's clock and from the pipe, never from the previous wake-up, so a late timer
(asyncio's are up to a millisecond late, never early) delays one delivery and none after it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio import StreamReader, StreamWriter
from types import TracebackType
from typing import Self

from airdraft.errors import LinkError
from airdraft.link.pipe import LinkSpec, Pipe

__all__ = ["LinkSpec", "Relay"]

_log = logging.getLogger(__name__)

_QUEUE_BYTES = 1 << 20
"""How much one connection may have waiting for the link, beyond what is in the air."""
_FASTEST_BPS = 4e9
"""Faster than this process can copy: bounds the bytes in the air of a link without a limit."""
_READ_S = 1e-3
"""How much link time one read takes, so that big messages arrive bit by bit and connections take turns."""
_READ_BYTES = (1500, 1 << 16)
"""Least and greatest read: a packet, and the buffer of a stream."""


class Relay:
    """Listens for devices and carries each connection to the target through the one link of `spec`."""

    def __init__(self, spec: LinkSpec, target_host: str, target_port: int) -> None:
        self.spec = spec
        self._target = (target_host, target_port)
        self._uplink = spec.uplink()
        self._downlink = spec.downlink()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(
        cls, spec: LinkSpec, listen_host: str, listen_port: int, target_host: str, target_port: int
    ) -> Self:
        """A relay that listens. Port 0 picks a free one, see `port`. The target is first tried by a connection.

        Raises: `LinkError` if the address cannot be listened on.
        """
        relay = cls(spec, target_host, target_port)
        try:
            relay._server = await asyncio.start_server(relay._accept, listen_host, listen_port)
        except OSError as error:
            raise LinkError(
                f"the relay cannot listen on {listen_host}:{listen_port} ({error.strerror}): "
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
        """Bytes that devices have put on the link."""
        return self._uplink.sent_bytes

    @property
    def downlink_bytes(self) -> int:
        """Bytes that the edge has put on the link."""
        return self._downlink.sent_bytes

    async def close(self) -> None:
        """Stop listening and cut every connection. What is in flight is lost."""
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
                    _Flow(device_reader, edge_writer, self._uplink), _Flow(edge_reader, device_writer, self._downlink)
                )
            for writer in writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        finally:  # for a cancelled connection; no-op on a closed one
            for writer in writers:
                writer.transport.abort()


async def _join(uplink: _Flow, downlink: _Flow) -> None:
    """Carry both directions until both have ended, or either finds its peer gone."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for flow in (uplink, downlink):
                tasks.create_task(flow.take())
                tasks.create_task(flow.deliver())
    except* OSError as errors:
        _log.debug("a connection was lost: %s", errors.exceptions)


class _Flow:
    """One direction of one connection: takes bytes from `source`, delivers them to `sink` when `pipe` says."""

    def __init__(self, source: StreamReader, sink: StreamWriter, pipe: Pipe) -> None:
        sink.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._source = source
        self._sink = sink
        self._pipe = pipe
        self._clock = asyncio.get_running_loop().time
        rate_bps = min(pipe.rate_bps, _FASTEST_BPS)
        least, greatest = _READ_BYTES
        self._read_bytes = min(max(least, int(rate_bps * _READ_S / 8)), greatest)
        self._window_bytes = _QUEUE_BYTES + int(rate_bps * pipe.delay_s / 8)
        self._in_flight_bytes = 0
        self._has_room = asyncio.Event()
        self._in_flight: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue()

    async def take(self) -> None:
        """Put what the source sends on the link, and its end behind it: b"" for a half-close, or the error."""
        data: bytes | OSError = b"-"
        while data and not isinstance(data, OSError):
            while self._in_flight_bytes >= self._window_bytes:
                self._has_room.clear()
                await self._has_room.wait()
            try:
                data = await self._source.read(self._read_bytes)
            except OSError as error:
                data = error
            nbytes = 0 if isinstance(data, OSError) else len(data)
            self._in_flight_bytes += nbytes
            self._in_flight.put_nowait((self._pipe.send(self._clock(), nbytes), data))

    async def deliver(self) -> None:
        """Hand each piece to the sink at its time. A sink that does not read fills the window and stops `take`."""
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
                await self._sink.drain()
            except OSError:
                await asyncio.sleep(self._pipe.delay_s)  # the news travels back as slowly as all else
                raise
            self._in_flight_bytes -= len(data)
            self._has_room.set()
