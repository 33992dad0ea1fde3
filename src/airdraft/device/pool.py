"""The connections that a device has open: the one in use, and others that still carry a text or are being closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

from airdraft.device.client import EdgeConnection


class Pool:
    """Every open connection, with the number of texts that each carries. Counts the bytes of all, closed ones too."""

    def __init__(self) -> None:
        self._open: set[EdgeConnection] = set()
        self._closing: dict[EdgeConnection, asyncio.Task[None]] = {}
        self._texts: Counter[EdgeConnection] = Counter()
        self._bytes_out = self._bytes_in = 0  # of connections that are over

    @property
    def bytes_out(self) -> int:
        """Bytes sent over all connections."""
        return self._bytes_out + sum(each.bytes_out for each in (*self._open, *self._closing))

    @property
    def bytes_in(self) -> int:
        """Bytes received over all connections."""
        return self._bytes_in + sum(each.bytes_in for each in (*self._open, *self._closing))

    def add(self, connection: EdgeConnection) -> None:
        """Take in a new connection."""
        self._open.add(connection)

    def texts(self, connection: EdgeConnection | None = None) -> int:
        """Return how many texts are written over one connection; None: over all of them."""
        return self._texts.total() if connection is None else self._texts[connection]

    @contextlib.contextmanager
    def text(self, connection: EdgeConnection) -> Iterator[None]:
        """Count a text while it is written over a connection."""
        self._texts[connection] += 1
        try:
            yield
        finally:
            self._texts[connection] -= 1
            if not self._texts[connection]:
                del self._texts[connection]

    def part(self, connection: EdgeConnection) -> None:
        """Close a connection, in the background."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._closing[connection] = asyncio.create_task(self._close(connection))

    async def _close(self, connection: EdgeConnection) -> None:
        try:
            await connection.close()
        finally:
            self._bytes_out += connection.bytes_out
            self._bytes_in += connection.bytes_in
            del self._closing[connection]

    def part_all(self) -> None:
        """Close every connection, in the background."""
        for connection in list(self._open):
            self.part(connection)

    async def closed(self) -> None:
        """Wait until every connection that is being closed is closed."""
        await asyncio.gather(*self._closing.values())
