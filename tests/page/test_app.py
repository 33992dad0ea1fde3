"""The page's side of a device and of an edge: who may read, what is refused, and a race over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airdraft.api.app import device_app, edge_app
from airdraft.cli import paged
from airdraft.device.watch import MeteredWriter
from airdraft.device.writer import Writer
from airdraft.edge.access import Access
from airdraft.edge.server import EdgeServer, Service
from airdraft.models.profile import profile
from airdraft.page.app import KINDS, POLICY
from airdraft.telemetry.feed import Feed, Readings
from airdraft.telemetry.http import serving
from airdraft.telemetry.trace import Traces

from ..api.test_links import BEARER, TOKENIZER, VOCAB, table
from ..edge.loopback import HOST, engine, run, until

KEY = "a key"


@dataclass
class Pages:
    """The ports of both pages, and what the device's is told once a second."""

    device: int
    edge: int
    readings: Readings


@contextlib.asynccontextmanager
async def pages(key: str | None = None, access: Access | None = None) -> AsyncIterator[Pages]:
    there, here = (Traces(None, side, feed=Feed(TOKENIZER.stream)) for side in ("edge", "device"))
    target = engine(table(1, seconds=0.02))  # the device has time to draft
    server = EdgeServer(target, TOKENIZER.digest, VOCAB, None, None, Service(access=access, traces=there))
    await server.start(HOST, 0)
    token = BEARER if access else None
    writer = Writer(
        [f"ws://{HOST}:{server.port}"], table(1, 2, seconds=0.0), TOKENIZER.digest, VOCAB, traces=here, token=token
    )
    watch = MeteredWriter(writer, here.feed)
    at_device = device_app(watch, TOKENIZER, "table", key=key)
    paged.on_device(at_device, here.feed, writer, watch, TOKENIZER, None, "table", key, ())
    at_edge = paged.on_edge(edge_app(server, TOKENIZER), there, server, None, (), profile("none"))
    async with writer, serving(at_device, HOST, 0) as device, serving(at_edge, HOST, 0) as edge:
        await writer.connect()
        try:
            assert here.feed is not None
            assert here.feed.readings is not None
            yield Pages(device, edge, here.feed.readings)
        finally:
            await server.close()


async def asked(port: int, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask over a socket of its own. Returns: status, headers, body."""
    reader, writer = await asyncio.open_connection(HOST, port)
    data = b"" if body is None else json.dumps(body).encode()
    lines = {"Host": f"{HOST}:{port}", "Connection": "close", "Content-Length": str(len(data)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
    first, _, rest = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
    writer.close()
    status, *told = first.decode().splitlines()
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in told), rest


@contextlib.asynccontextmanager
async def listening(port: int, **headers: str) -> AsyncIterator[list[dict[str, Any]]]:
    """The events that a page hears meanwhile."""
    reader, writer = await asyncio.open_connection(HOST, port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET /page/events HTTP/1.1\r\nHost: {HOST}:{port}\r\n{lines}\r\n".encode())
    assert b" 200 " in await reader.readline()
    found: list[dict[str, Any]] = []

    async def take() -> None:
        while line := await reader.readline():
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))

    task = asyncio.create_task(take())
    try:
        yield found
    finally:
        task.cancel()
        writer.close()


def commits(heard: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in heard if each["event"] == "committed"]


def last(heard: list[dict[str, Any]], text: str) -> dict[str, Any]:
    """What was heard last of a text."""
    return next((each for each in reversed(heard) if each.get("text") == text), {})


def race(**changed: Any) -> dict[str, Any]:
    link = {"uplink_mbps": 50, "downlink_mbps": 50, "rtt_ms": 10}
    return {"prompt": "def f(x):", "ways": ["server", "stream"], "max_tokens": 12, **link, **changed}


def test_a_race_is_heard_on_both_pages_with_words_winners_and_chances() -> None:
    async def main() -> None:
        async with pages() as found:
            for name, kind in KINDS.items():
                status, headers, body = await asked(found.device, "/" if name == "index.html" else f"/{name}")
                assert (status, headers["content-security-policy"]) == (200, POLICY.lower())
                assert headers["content-type"].startswith(kind)
                assert b"http://" not in body.replace(b"http://www.w3.org", b"")
                assert b"https://" not in body
            before = found.readings()
            async with listening(found.device) as device, listening(found.edge) as edge:
                status, _, answer = await asked(found.device, "/page/race", race())
                for text in ("race1/0", "race1/1"):
                    await until(lambda text=text: "sent_bytes_total" in last(device, text))  # type: ignore[misc]
                await until(lambda: any("target" in each and each["pieces"] for each in commits(edge)))
                await until(lambda: any("waiting_forwards" in each for each in edge))
                await until(lambda: any(each["event"] == "readings" for each in device))
            after = found.readings()
            assert after["device_joules"] > before["device_joules"]  # races cost energy, and
            assert after["tokens_committed_total"] == before["tokens_committed_total"] == 0  # are no texts of clients
            assert (status, json.loads(answer)) == (200, {"texts": ["race1/0", "race1/1"]})
            texts = []
            for name in ("race1/0", "race1/1"):
                told = [each for each in commits(device) if each.get("text") == name]
                texts.append("".join(piece for each in told for piece in each["pieces"]))
                assert all(len(each["by"]) == len(each["target"]) == len(each["pieces"]) for each in told)
                assert last(device, name)["sent_bytes_total"] > 0
            assert texts[0] == texts[1] != ""
            assert any("draft" in each for each in commits(device))
            assert {"opened", "ready", "draft", "call", "committed", "finished", "readings"} <= {
                e["event"] for e in device
            }

    run(main)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"ways": ["server", "pigeon"]}, "'pigeon' is no way to write; choose from"),
        ({"ways": ["server"]}, "this is no race"),
        ({"uplink_mbps": 0}, "this is no race"),
        ({"rtt_ms": 1e9}, "this is no race"),
        ({"prompt": ""}, "this is no race"),
        ({"weather": 1}, "this is no race"),
    ],
)
def test_what_is_no_race_is_refused(changed: dict[str, Any], why: str) -> None:
    async def main() -> None:
        async with pages() as found:
            status, _, answer = await asked(found.device, "/page/race", race(**changed))
            assert status == 400
            assert why in json.loads(answer)["error"]["message"]
            assert (await asked(found.edge, "/page/race", race()))[0] == 404

    run(main)


def test_a_key_opens_the_page_and_other_pages_are_turned_away() -> None:
    async def main() -> None:
        async with pages(KEY) as found:
            assert json.loads((await asked(found.device, "/page/about"))[2]) == {"key": True}
            for path, body in (("/page/events", None), ("/page/race", race())):
                assert (await asked(found.device, path, body))[0] == 401
                assert (await asked(found.device, path, body, Authorization="Bearer another"))[0] == 401
            about = json.loads((await asked(found.device, "/page/about", Authorization=f"Bearer {KEY}"))[2])
            assert (about["key"], about["side"], about["race"]) == (False, "device", True)
            for scheme in ("Bearer", "bearer"):  # as the API has it
                async with listening(found.device, Authorization=f"{scheme} {KEY}"):
                    pass
        async with pages() as found:
            for foreign in (
                {"Origin": "http://evil.example"},
                {"Sec_Fetch_Site": "cross-site"},
                {"Host": "evil.example"},
            ):
                for path, body in (("/page/events", None), ("/page/about", None), ("/page/race", race())):
                    assert (await asked(found.device, path, body, **foreign))[0] == 403
            own = f"http://{HOST}:{found.device}"
            assert (await asked(found.device, "/page/about", Origin=own, Sec_Fetch_Site="same-origin"))[0] == 200

    run(main)


def test_an_edge_with_tokens_shows_each_its_own(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    other = "fedcba9876543210"
    file.write_text(f'[[token]]\nname = "phone"\ntoken = "{BEARER}"\n[[token]]\nname = "tablet"\ntoken = "{other}"\n')

    async def main() -> None:
        async with pages(access=Access(file)) as found:
            assert (await asked(found.edge, "/page/events"))[0] == 401
            mine, theirs = ({"Authorization": f"Bearer {each}"} for each in (BEARER, other))
            async with listening(found.edge, **mine) as phone, listening(found.edge, **theirs) as tablet:
                body = {"prompt": "def f(x):", "max_tokens": 5}
                assert (await asked(found.device, "/v1/completions", body))[0] == 200
                await until(lambda: any(each["event"] == "finished" for each in phone))
            assert {each["tenant"] for each in phone if each["event"] == "opened"} == {"phone"}
            assert tablet == []

    run(main)
