"""`airdraft edge` from the outside: a process with options, signals, and an HTTP port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import trustme
import typer
from typer.testing import CliRunner
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from airdraft.cli.edge import edge
from airdraft.core.bits import BitWriter, id_width
from airdraft.core.messages import (
    Decoder,
    Digest,
    Error,
    Hello,
    Message,
    Open,
    Opened,
    Ping,
    SchemeSpec,
    ToDevice,
    Tokens,
    Welcome,
    encode,
)
from airdraft.core.sampling import SamplingParams
from airdraft.errors import AirdraftError
from airdraft.models.registry import load

from ..e2e.processes import announced, started

TOKEN = "a-bearer-token-0123456789"  # noqa: S105
OTHER = "another-token-0123456789"
PROMPT = "def parse(text):\n"


class Edge:
    """A process, with its addresses."""

    def __init__(self, process: subprocess.Popen[bytes], context: ssl.SSLContext, folder: Path) -> None:
        record = announced(process)
        self.process, self.folder, self.context = process, folder, context
        self.url, self.http, self.api = record["url"], record["metrics"], record["api"]

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(self.http + path, timeout=60) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def connect(self, token: str) -> connect:
        headers = {"Authorization": f"Bearer {token}"}
        return connect(self.url, ssl=self.context, additional_headers=headers, compression=None, proxy=None)


def certified(folder: Path) -> ssl.SSLContext:
    """Write a certificate and its key there. Returns a context that trusts only this certificate."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(str(folder / "key.pem"))
    made.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Edge]:
    """Run an edge with all its public options. It drains for six seconds, or for as long as the test says."""
    context = certified(tmp_path)
    (tmp_path / "tokens").write_text(TOKEN)
    with started(
        "edge", "--port", "0", "--json", "--profile", "phone-8b", "--metrics-port", "0",
        "--drain-s", getattr(request, "param", "6"),
        "--api-port", "0",
        "--tls-cert", str(tmp_path / "chain.pem"), "--tls-key", str(tmp_path / "key.pem"),
        "--tokens", str(tmp_path / "tokens"), "--log-json", "--log-level", "debug",
        "--trace-dir", str(tmp_path / "traces"),
    ) as process:  # fmt: skip
        yield Edge(process, context, tmp_path)


async def opened(socket: object, max_tokens: int) -> Decoder:
    """Greet, and open a text that the edge writes alone."""
    _, tokenizer = load("target")
    ids = tokenizer.encode(PROMPT)
    packed = BitWriter()
    packed.write(ids, id_width(tokenizer.vocab_size))
    greeting = Hello(1, "a test", "none", tokenizer.digest, tokenizer.vocab_size)
    asked = Open(
        1,
        SchemeSpec("server"),
        SamplingParams(0.9),
        0,
        max_tokens,
        len(ids),
        len(ids),
        packed.bytes(),
        Digest(ids).value,
    )
    await socket.send(encode(greeting) + encode(asked))  # type: ignore[attr-defined]
    decoder = Decoder(ToDevice)
    while not any(isinstance(message, Opened) for message in await received(socket, decoder)):
        pass
    return decoder


async def received(socket: object, decoder: Decoder) -> list[Message]:
    return list(decoder.feed(await socket.recv()))  # type: ignore[attr-defined]


def test_it_starts_counts_reloads_drains_and_ends(running: Edge) -> None:
    written = refused = 0

    async def main() -> None:
        nonlocal written, refused
        assert running.url.startswith("wss://")
        with pytest.raises(InvalidStatus):
            await running.connect(OTHER)
        refused += 1
        (running.folder / "tokens").write_text(f"{TOKEN}\n{OTHER}\n")
        running.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            while True:  # until the tokens are read again
                try:
                    socket = await running.connect(OTHER)
                    break
                except InvalidStatus:
                    refused += 1
        async with socket:
            decoder = await opened(socket, 900)
            while not written:
                written += sum(isinstance(message, Tokens) for message in await received(socket, decoder))
            status, page = await asyncio.to_thread(running.get, "/metrics")
            assert status == 200
            assert "airdraft_texts 1.0" in page
            assert f'airdraft_refusals_total{{code="401"}} {refused}.0' in page
            assert await asyncio.to_thread(running.get, "/healthz") == (200, '{"status":"ok"}')
            running.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            while (await asyncio.to_thread(running.get, "/healthz"))[0] == 200:
                pass
            with pytest.raises(InvalidStatus) as draining:
                await running.connect(TOKEN)
            assert draining.value.response.status_code == 503
            with contextlib.suppress(ConnectionClosed):
                while True:
                    written += sum(isinstance(message, Tokens) for message in await received(socket, decoder))
            assert socket.close_code == 1012
            assert time.monotonic() - began > 5

    asyncio.run(main())
    _, errors = running.process.communicate(timeout=60)
    assert running.process.returncode == 0
    lines = [json.loads(line) for line in errors.decode().splitlines()]
    assert "lost" in [line.get("how") for line in lines]
    for secret in (TOKEN, OTHER, PROMPT.strip(), "parse"):
        assert secret not in errors.decode()
    (trace,) = (running.folder / "traces").iterdir()
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [event["event"] for event in events].count("committed") >= written
    assert events[-1]["event"] == "lost"
    assert events[0]["tenant"] == "line 2"


@pytest.mark.slow
@pytest.mark.parametrize("running", ["60"], indirect=True)
def test_a_second_sigterm_ends_it_at_once(running: Edge) -> None:
    async def main() -> None:
        async with running.connect(TOKEN) as socket:
            await opened(socket, 900)
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            while (await asyncio.to_thread(running.get, "/healthz"))[0] == 200:
                pass
            running.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await socket.recv()
            assert socket.close_code == 1012
            assert time.monotonic() - began < 30

    asyncio.run(main())
    assert running.process.wait(60) == 0


@pytest.mark.slow
def test_a_new_certificate_is_for_devices_and_for_clients_of_the_api(running: Edge) -> None:
    """And tokens that are not right leave those of before."""

    def models(context: ssl.SSLContext) -> str:
        asked = Request(running.api + "/models", headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310
        with urlopen(asked, timeout=60, context=context) as answer:  # noqa: S310
            return str(json.load(answer)["data"][0]["id"])

    async def main() -> None:
        assert running.api.startswith("https://")
        old = running.context
        async with running.connect(TOKEN) as socket:
            assert await asyncio.to_thread(models, old) == "target"
            running.context = certified(running.folder)
            with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
                await asyncio.to_thread(models, running.context)
            running.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(URLError):
                        assert await asyncio.to_thread(models, running.context) == "target"
                        break
            async with running.connect(TOKEN):
                pass
            with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
                await asyncio.to_thread(models, old)
            await opened(socket, 5)  # over the connection that was there
        (running.folder / "tokens").write_text("short")
        running.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.2)
        async with running.connect(TOKEN):
            pass

    asyncio.run(main())
    running.process.send_signal(signal.SIGINT)
    _, errors = running.process.communicate(timeout=60)
    assert errors.decode().count("not reloaded, everything is as it was") == 1


@pytest.mark.slow
def test_a_device_that_is_silent_for_three_heartbeats_is_given_up() -> None:
    _, tokenizer = load("target")

    async def main(url: str) -> None:
        async with connect(url, compression=None, proxy=None) as socket:
            await socket.send(encode(Hello(1, "a test", "none", tokenizer.digest, tokenizer.vocab_size)))
            decoder, messages = Decoder(ToDevice), list[Message]()
            with contextlib.suppress(ConnectionClosed):
                async with asyncio.timeout(60):
                    while True:
                        messages += await received(socket, decoder)
            welcome, *pings, error = messages
            assert isinstance(welcome, Welcome)
            assert welcome.heartbeat_s == 0.5
            assert all(isinstance(each, Ping) for each in pings)
            assert isinstance(error, Error)
            assert (error.code, error.message) == ("silent", "nothing was heard from the peer for 1.5 s")

    with started("edge", "--port", "0", "--json", "--heartbeat-s", "0.5") as process:
        asyncio.run(main(announced(process)["url"]))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--tls-cert", "x.pem"), "--tls-cert and --tls-key go together; give both"),
        (("--tls-cert", "no.pem", "--tls-key", "no.pem"), "the TLS certificate no.pem cannot be read"),
        (("--tokens", "nowhere"), "the tokens in nowhere cannot be read"),
        (("--log-level", "loud"), "no log level 'loud'; choose from debug, info"),
        (("--heartbeat-s", "0"), "--heartbeat-s is 0; give a time from 0.01 to 3600 s"),
        (("--heartbeat-s", "nan"), "--heartbeat-s is nan; give a time from 0.01 to 3600 s"),
        (("--trace-tokens",), "--trace-tokens without --trace-dir"),
        (("--trace-dir", os.devnull), "no traces can go to /dev/null"),
    ],
)
def test_a_mistake_is_named_before_anything_is_loaded(words: tuple[str, ...], why: str) -> None:
    app = typer.Typer()
    app.command()(edge)
    ended = CliRunner().invoke(app, ["--target", "nowhere", *words])
    assert isinstance(ended.exception, AirdraftError)
    assert why in str(ended.exception)
