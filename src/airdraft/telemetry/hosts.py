"""The names by which a server may be asked for, so that pages in a browser cannot reach it under names of their own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class OwnNames:
    """The names of one server: localhost, its addresses, its machine's name, and those that it is told.

    A page may make a name of its own lead here (DNS rebinding). A browser then lets the page read the answers, because
    page and server have one name. It always says that name as `Host`, and it cannot be an address: an address leads
    nowhere else.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        own = ("localhost", socket.gethostname(), *names)
        self._names = frozenset(name.lower().rstrip(".") for name in own if name)

    def refusal(self, asked: HTTPConnection) -> str | None:
        """Return why a request looks like that of a foreign name, with the remedy; None if it does not."""
        host = asked.headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.removeprefix("[").removesuffix("]").lower().rstrip(".")
        address, client = _address(name), _address(asked.client.host if asked.client else "")
        if name in self._names or (address and (address.is_loopback or not (client is None or client.is_loopback))):
            return None
        return f"there is no {host[:100]!r} here; ask for localhost or an address, or start it with --allow-host NAME"

    def guard(self, app: ASGIApp) -> ASGIApp:
        """Return `app` behind a check of the name and of the page that asks: 403 for another."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            asked = HTTPConnection(scope)
            why = self.refusal(asked) or foreign_page(asked)
            await (app if why is None else PlainTextResponse(f"{why}\n", 403))(scope, receive, send)

        return guarded


def foreign_page(asked: HTTPConnection) -> str | None:
    """Return why a request comes from another server's page; None if it does not. A page says where it comes from."""
    origin = asked.headers.get("origin")
    if origin is None or origin.partition("://")[2] == asked.headers.get("host", ""):
        return None
    return f"a page of {origin[:100]} asks; pages may not use this server"


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
