"""The names by which a server may be asked for: a page's own name that was made to lead here is none of them."""

from __future__ import annotations

import asyncio
import socket

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import HTTPConnection

from airdraft.cli.scraped import scraped
from airdraft.telemetry.hosts import OwnNames, foreign_page

LAN = "192.168.1.20"


def asked(host: str | None, client: str = LAN, origin: str | None = None) -> HTTPConnection:
    headers = [(b"host", host.encode())] if host is not None else []
    headers += [(b"origin", origin.encode())] if origin is not None else []
    return HTTPConnection({"type": "http", "headers": headers, "client": (client, 5000)})


@pytest.mark.parametrize("client", [LAN, "127.0.0.1", "::1"])
@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:8572", "[::1]:8572", "box.lan:1"]
)
def test_its_own_names(host: str, client: str) -> None:
    assert OwnNames(["Box.lan."]).refusal(asked(host, client)) is None


@pytest.mark.parametrize("client", [LAN, "127.0.0.1"])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8572", "", "[", "127.0.0.1.evil.example:80", "localhost.evil.example", None, "1"],
)
def test_foreign_names(host: str, client: str) -> None:
    why = OwnNames(["box.lan"]).refusal(asked(host, client))
    assert why is not None
    assert "--allow-host" in why


def test_addresses_are_no_names_but_over_loopback_only_its_own_lead_here() -> None:
    for host in (f"{LAN}:8572", "10.0.0.1", "[fe80::1]:80"):
        assert OwnNames().refusal(asked(host)) is None
        assert OwnNames().refusal(asked(host, "127.0.0.1")) is not None
    assert OwnNames().refusal(asked(socket.gethostname())) is None


def test_pages() -> None:
    assert foreign_page(asked("a:1")) is None
    assert foreign_page(asked("a:1", origin="http://a:1")) is None
    for origin in ("http://b", "null", "", "http://a", "x" * 9999):
        why = foreign_page(asked("a:1", origin=origin))
        assert why is not None
        assert len(why) < 200


@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
def test_what_is_scraped_is_not_for_pages(path: str) -> None:
    async def status(port: int, headers: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n".encode())
        line = await reader.readline()
        writer.close()
        return line.split()[1].decode()

    async def main() -> None:
        async with scraped(CollectorRegistry(), lambda: None, "127.0.0.1", 0, ["prometheus.lan"]) as url:
            port = int((url or "").rpartition(":")[2])
            assert await status(port, "host: localhost\r\n") == "200"
            assert await status(port, "host: prometheus.lan:9\r\n") == "200"
            assert await status(port, "host: evil.example\r\n") == "403"
            assert await status(port, "host: localhost\r\norigin: http://evil.example\r\n") == "403"

    asyncio.run(main())
