"""More connections than there are file descriptors: who is there is served, and nothing floods the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time

import pytest

from airdraft import listening

FEW, SILENT = 64, 150
ASK = b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
SERVE = """
import asyncio, json, logging, resource, sys
from starlette.applications import Starlette
from airdraft.telemetry.http import serving
from airdraft.telemetry.logs import configure

configure("warning")
resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))

async def main():
    async with serving(Starlette(), "127.0.0.1", 0) as port:
        print(json.dumps(port), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
""".replace("FEW", str(FEW))


def test_connections_beyond_the_descriptors_are_closed_and_said_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())
        peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(SILENT)]
        open_, until_s = set(peers), time.monotonic() + 60
        while len(open_) >= FEW and time.monotonic() < until_s:
            for peer in select.select(open_, [], [], 0.1)[0]:
                with contextlib.suppress(ConnectionError):
                    assert peer.recv(1) == b""
                open_.discard(peer)
        assert len(open_) < FEW
        peers[0].settimeout(30)
        peers[0].sendall(ASK)  # who came first is there still
        assert peers[0].recv(100).startswith(b"HTTP/1.1 404")
        for peer in peers:
            peer.close()
        asked = b""
        while not asked and time.monotonic() < until_s:  # until their descriptors are free again
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.settimeout(30)
                try:
                    peer.sendall(ASK)
                    asked = peer.recv(100)
                except ConnectionError:
                    asked = b""
        assert asked.startswith(b"HTTP/1.1 404")
        _, said = server.communicate(b"")
    assert said.decode().count("\n") == 1
    assert "file descriptors" in said.decode()


def test_when_no_descriptor_at_all_is_left_a_connection_is_still_taken_and_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listening, "most_connections", lambda: 1 << 20)

    async def main() -> None:
        (listener,) = await listening.listen("127.0.0.1", 0)
        with listener, socket.create_connection(listener.getsockname()) as peer:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            highest = max(map(int, os.listdir("/proc/self/fd")))
            held = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        held.append(socket.socket())
                with pytest.raises(ConnectionAbortedError):
                    listener.accept()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for each in held:
                    each.close()
            peer.settimeout(5)
            assert peer.recv(1) == b""

    asyncio.run(main())
    assert len(caplog.records) == 1


def test_the_limit_is_raised_as_far_as_it_may_be_or_named() -> None:
    code = (
        "import resource; from airdraft.listening import room_for;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512));"
        "print(room_for(300)); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0]); print(room_for(1024))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[:2] == ["None", str(300 + listening.KEPT)]
    assert "1024 connections do not fit" in said[2]
    assert "--max-connections" in said[2]
