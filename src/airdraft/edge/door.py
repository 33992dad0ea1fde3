"""The WebSocket handshake at the edge, which lets devices in or tells them why not."""

from __future__ import annotations

import logging
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from airdraft.edge.access import Access, Tenant
from airdraft.sockets import Reined
from airdraft.telemetry.logs import fields
from airdraft.telemetry.metrics import Metrics

RETRY_S = 5
"""Seconds sent as `Retry-After` when the edge is full."""

_log = logging.getLogger(__name__)


class Socket(Reined, ServerConnection):
    """A connection. It counts from its admission until it is lost."""

    tenant: Tenant | None = None
    door: Door | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.tenant is not None and self.door is not None:
            self.tenant.connections -= 1
            self.door.sockets.discard(self)
        super().connection_lost(exc)


class Door:
    """Lets devices in, each under a tenant."""

    def __init__(self, access: Access | None, anybody: Tenant, most: int | None, metrics: Metrics) -> None:
        """`anybody`: the tenant of every device if `access` is None. `most`: most connections at once."""
        self.sockets: set[Socket] = set()
        """Admitted connections."""
        self.closing = False
        """Whether to refuse all new devices."""
        self._access, self._anybody, self._most, self._metrics = access, anybody, most, metrics

    def process_request(self, socket: ServerConnection, request: Request) -> Response | None:
        """Let a device in, or answer with 401, 429 or 503 and the reason."""
        if self.closing:
            return self._refuse(socket, HTTPStatus.SERVICE_UNAVAILABLE, "this edge is about to end; try another")
        tenant: Tenant | None = self._anybody
        if self._access is not None:
            given = request.headers.get_all("Authorization")
            tenant = self._access.find(given[0]) if len(given) == 1 else None
        if tenant is None:
            return self._refuse(socket, HTTPStatus.UNAUTHORIZED, "this edge requires a token that it knows")
        if self._most is not None and len(self.sockets) >= self._most:
            return self._refuse(socket, HTTPStatus.SERVICE_UNAVAILABLE, "this edge has no room; try again later")
        own = tenant.quotas.connections
        if own is not None and tenant.connections >= own:
            what = f"{tenant.connections} connections of this token are open; close one"
            return self._refuse(socket, HTTPStatus.TOO_MANY_REQUESTS, what)
        if isinstance(socket, Socket):
            # Count it before the handshake is over, or many devices at once could pass the check together.
            socket.tenant, socket.door = tenant, self
            tenant.connections += 1
            self.sockets.add(socket)
        return None

    def _refuse(self, socket: ServerConnection, status: HTTPStatus, why: str) -> Response:
        peer = peer_of(socket)
        _log.info("%s was turned away: %d, %s", peer, status, why, extra=fields(peer=peer, status=status.value))
        self._metrics.refused.labels(str(status.value)).inc()
        response = socket.respond(status, why + "\n")
        if status is HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        else:
            response.headers["Retry-After"] = str(RETRY_S)
        return response


def peer_of(socket: ServerConnection) -> str:
    """Return the peer's address and port."""
    return ":".join(map(str, socket.remote_address[:2])) if socket.remote_address else "somebody gone"
