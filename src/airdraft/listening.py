"""Listeners that leave file descriptors for everything else, and the process's limit of them.

Where none are left, asyncio's accept loop fails for every connection that waits, logs each failure, and begins anew. So
a connection that would take one of the last descriptors is taken and closed at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from typing import Any

_log = logging.getLogger(__name__)

KEPT = 64
"""Descriptors that no connection may have: for models, logs, traces, and the loop itself."""
BACKLOG = 128
"""Connections that may wait to be accepted."""
SAY_S = 60.0
"""Seconds between two lines of the log about connections that were closed."""


class Listener(socket.socket):
    """A listening socket that closes connections for which no descriptors are left."""

    _spare: int | None = None
    _said_s = -SAY_S

    @classmethod
    def on(cls, address: tuple[Any, ...], family: int) -> Listener:
        """Listen on an address. Raises: `OSError` if it is not available."""
        plain = socket.create_server(address, family=family, backlog=BACKLOG)
        found = cls(plain.family, plain.type, plain.proto, plain.detach())
        found.setblocking(False)
        found._spare = os.open(os.devnull, os.O_RDONLY)
        return found

    def accept(self) -> tuple[socket.socket, Any]:
        """See `socket.accept`. A connection too many is closed; asyncio waits for the next one."""
        try:
            taken, address = super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._take_and_close()
            raise ConnectionAbortedError from error
        # The lowest free number is given out, so a high one says that those below are in use.
        if taken.fileno() < most_connections():
            return taken, address
        taken.close()
        self._say()
        raise ConnectionAbortedError

    def close(self) -> None:
        """See `socket.close`."""
        self._let_go()
        super().close()

    def _let_go(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)

    def _take_and_close(self) -> None:
        """Take a connection with the spare descriptor: one that waited would wake the loop without end."""
        self._let_go()
        try:
            super().accept()[0].close()
        except OSError:  # it has gone, or somebody else took the descriptor
            time.sleep(0.001)
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._spare = None
        self._say()

    def _say(self) -> None:
        now = time.monotonic()
        if now - self._said_s >= SAY_S:
            self._said_s = now
            _log.warning(
                "connections are closed unanswered: this process may have %d file descriptors; raise `ulimit -n`",
                _limits()[0],
            )


async def listen(host: str, port: int) -> list[Listener]:
    """Listen on all addresses of a host. Raises: `OSError` if none is available, `UnicodeError` for no host."""
    loop = asyncio.get_running_loop()
    known = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    found: list[Listener] = []
    refused: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(known):
        try:
            found.append(Listener.on(address, family))
        except OSError as error:
            refused = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for each in found:
                    each.close()
                raise
    if refused is not None and not found:
        raise refused
    return found


def most_connections() -> int:
    """Return how many connections the process has descriptors for."""
    soft, _ = _limits()
    return max(1, soft - min(KEPT, soft // 2))


def room_for(connections: int) -> str | None:
    """Raise the limit of descriptors so that so many connections fit. Returns what to do if they do not."""
    soft, hard = _limits()
    need = connections + KEPT
    if soft >= need:
        return None
    try:
        import resource  # noqa: PLC0415  Unix only

        resource.setrlimit(resource.RLIMIT_NOFILE, (min(need, hard), hard))
    except (ImportError, OSError, ValueError):
        pass
    if _limits()[0] >= need:
        return None
    return (
        f"{connections} connections do not fit: this process may have {_limits()[0]} file descriptors, and some "
        f"{most_connections()} connections; raise `ulimit -n` to {need}, or lower --max-connections"
    )


def _limits() -> tuple[int, int]:
    """The soft and the hard limit of descriptors."""
    try:
        import resource  # noqa: PLC0415  Unix only
    except ImportError:
        return 1 << 20, 1 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return tuple(1 << 20 if each == resource.RLIM_INFINITY else each for each in (soft, hard))  # type: ignore[return-value]
