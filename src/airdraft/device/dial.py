"""The WebSocket to an edge: its address, its TLS, and the refusals of an edge that does not let the device in."""

from __future__ import annotations

import ssl as tls
from typing import Any, cast
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidMessage, InvalidStatus, InvalidURI, WebSocketException
from websockets.uri import parse_uri

from airdraft.errors import BadParameterError, Code, LinkError, RefusedError, first_line
from airdraft.sockets import MESSAGE_BYTES, QUEUE, Reined

LOOPBACK = ("127.0.0.1", "localhost", "::1")
STATUSES = {
    401: (Code.UNAUTHORISED, "it wants another token; pass the one it was given, --token or AIRDRAFT_TOKEN"),
    403: (Code.UNAUTHORISED, "this token may not use it; ask the people who run the edge"),
    429: (Code.QUOTA, "this token's quota is used up; try again later, or ask the people who run the edge for more"),
    503: (Code.BUSY, "it has no room, or is about to end; try again later, or name another edge"),
}
"""The code and the remedy for each status that an edge's HTTP server answers instead of a connection."""


class DeviceSocket(Reined, ClientConnection):
    """A connection to an edge."""


def check_address(url: str) -> None:
    """Raise `LinkError` if `url` cannot be the address of an edge."""
    try:
        uri = parse_uri(url)
        uri.host.encode("idna")
    except (InvalidURI, ValueError) as error:  # ValueError: an impossible port or host
        raise LinkError(f"{url!r} is no address of an edge; write it as ws://HOST:PORT or wss://HOST:PORT") from error


async def dial(url: str, token: str | None, ssl: tls.SSLContext | None, timeout_s: float) -> DeviceSocket:
    """Open a WebSocket to the edge at `url`. `token` and `ssl` are as in `EdgeConnection.connect`.

    Raises: `LinkError`, `RefusedError`, and `BadParameterError` for a token that no HTTP header can carry.
    """
    check_address(url)
    parts = urlsplit(url)
    options: dict[str, Any] = {}
    if token is not None:
        options["additional_headers"] = {"Authorization": f"Bearer {_checked(token)}"}
    if ssl is not None and parts.scheme == "wss":
        options["ssl"] = ssl
    try:
        socket = await connect(
            url,
            compression=None,
            create_connection=DeviceSocket,
            max_size=MESSAGE_BYTES,
            max_queue=QUEUE,
            ping_interval=None,
            open_timeout=timeout_s,
            proxy=None if parts.hostname in LOOPBACK else True,  # no proxy leads back to this machine
            **options,
        )
        return cast(DeviceSocket, socket)
    except InvalidStatus as error:
        if known := STATUSES.get(error.response.status_code):
            code, remedy = known
            raise RefusedError(code, f"the edge at {url} refuses this device: {remedy}") from error
        raise _unreachable(url, error) from error
    except tls.SSLCertVerificationError as error:
        raise RefusedError(
            Code.UNAUTHORISED,
            f"the certificate of {url} cannot be trusted ({error.verify_message}); if it is your own, name its "
            "authority, --ca FILE",
        ) from error
    except (InvalidMessage, tls.SSLError, ConnectionResetError) as error:
        # Most likely one side speaks TLS and the other does not.
        other = "a certificate, write wss://" if parts.scheme == "ws" else "no certificate, write ws://"
        raise LinkError(f"no edge answers at {url} ({first_line(error)}); if it has {other}") from error
    except (OSError, TimeoutError, WebSocketException) as error:
        raise _unreachable(url, error) from error


def _checked(token: str) -> str:
    if not (token and token.isascii() and token.isprintable()) or " " in token:
        raise BadParameterError(
            "the token is empty or has characters that no HTTP header may carry; give it as it was issued"
        )
    return token


def _unreachable(url: str, error: Exception) -> LinkError:
    return LinkError(f"no edge answers at {url} ({first_line(error)}); start one with `airdraft edge`")
