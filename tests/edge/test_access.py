"""Tokens: the file, the handshake and the quotas. One token's use does not affect another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import pytest
from websockets.asyncio.client import connect
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from airdraft.api.alone import TargetWriter
from airdraft.core.edge import EdgeMachine, Limits, Target
from airdraft.core.events import Forward
from airdraft.core.messages import Close, Decoder, Digest, Error, Opened, ToDevice, Welcome, encode
from airdraft.device.client import EdgeConnection
from airdraft.edge.access import Access, Bucket, Tenant
from airdraft.edge.server import Capacity, EdgeServer, Service
from airdraft.errors import BadParameterError, RefusedError
from airdraft.models.base import FloatArray, OneByOne
from airdraft.scheduler import turns

from ..suites import mostly_slow
from .loopback import (
    HOST,
    SCHEMES,
    TOKENIZER,
    VOCAB,
    WARM,
    Raw,
    Table,
    hello,
    opening,
    request,
    run,
    started,
    truth,
    until,
)

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"


def tokens(folder: Path, alice: str = "", bob: str = "") -> Access:
    """Two tokens, with quotas."""
    path = folder / "tokens.toml"
    path.write_text(
        f'[[token]]\nname = "alice"\ntoken = "{ALICE}"\n{alice}\n'
        f'[[token]]\nname = "bob"\nsha256 = "{sha256(BOB.encode()).hexdigest()}"\n{bob}\n'
    )
    return Access(path)


def found(access: Access, header: str) -> str | None:
    tenant = access.find(header)
    return tenant.name if tenant else None


def test_a_token_is_found_by_itself_or_by_its_digest(tmp_path: Path) -> None:
    access = tokens(tmp_path, alice="sessions = 2\ntokens_per_s = 0.5", bob="context = 99\nconnections = 1")
    assert found(access, f"Bearer {ALICE}") == "alice"
    assert found(access, f"bearer  {BOB} ") == "bob"
    for wrong in (
        "",
        "Bearer",
        "Bearer ",
        ALICE,
        f"Basic {ALICE}",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE[:-1]}",
        "Bearer é",
    ):
        assert found(access, wrong) is None
    alice, bob = access.find(f"Bearer {ALICE}"), access.find(f"Bearer {BOB}")
    assert alice is not None
    assert bob is not None
    assert (alice.quotas.sessions, alice.quotas.tokens_per_s, alice.quotas.context) == (2, 0.5, None)
    assert (bob.quotas.context, bob.quotas.connections) == (99, 1)


def test_one_token_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# of last week\n{ALICE}\n\n  {BOB}  # Bob's\n")
    access = Access(path)
    assert len(access) == 2
    assert found(access, f"Bearer {BOB}") == "line 4"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("t", "", "holds no token, so nobody could connect"),
        ("t", "short-secret\n", "the token of line 1 is too short or has other characters; take one of at least 16"),
        ("t", "a-secret with a blank\n", "too short or has other characters"),
        ("t", f"{ALICE}\n{ALICE}\n", "'line 2' has the same token as another"),
        ("t.toml", "[[token", "lists no tokens"),
        ("t.toml", "token = 3", "lists no tokens"),
        ("t.toml", f'[[token]]\ntoken = "{ALICE}"', "lists no tokens"),
        ("t.toml", '[[token]]\nname = "a"', "'a' needs either token or sha256"),
        ("t.toml", f'[[token]]\nname = "a"\ntoken = "{ALICE}"\nsha256 = "00"', "'a' needs either token or sha256"),
        ("t.toml", '[[token]]\nname = "a"\nsha256 = "00"', "sha256 of 'a' is not 64 hex digits"),
        ("t.toml", f'[[token]]\nname = "a"\ntoken = "{ALICE}"\nsessions = 0', "sessions of 'a' is 0; give a number"),
        ("t.toml", f'[[token]]\nname = "a"\ntoken = "{ALICE}"\ntokens_per_s = nan', "tokens_per_s of 'a' is nan"),
        ("t.toml", f'[[token]]\nname = "a"\ntoken = "{ALICE}"\nseccions = 2', "seccions"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_right_is_refused_without_a_word_of_a_token(
    tmp_path: Path, name: str, text: str, why: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadParameterError) as error:
        Access(path)
    assert why in str(error.value)
    assert "secret" not in str(error.value)
    assert ALICE not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadParameterError, match="cannot be read"):
        Access(tmp_path / "nowhere")


def test_a_file_read_again_keeps_who_is_still_in_it(tmp_path: Path) -> None:
    access = tokens(tmp_path, alice="tokens_per_s = 5")
    alice, bob = access.find(f"Bearer {ALICE}"), access.find(f"Bearer {BOB}")
    assert isinstance(alice, Tenant)
    assert isinstance(bob, Tenant)
    alice.sessions = 1
    path = tmp_path / "tokens.toml"
    path.write_text(f'[[token]]\nname = "al"\ntoken = "{ALICE}"\ntokens_per_s = 7\n')
    access.reload(0.0)
    assert access.find(f"Bearer {ALICE}") is alice
    assert (alice.name, alice.sessions, alice.bucket.rate, alice.revoked) == ("al", 1, 7, False)
    assert access.find(f"Bearer {BOB}") is None
    assert bob.revoked
    path.write_text("nonsense")
    with pytest.raises(BadParameterError):
        access.reload(0.0)
    assert access.find(f"Bearer {ALICE}") is alice


def test_a_bucket_lets_its_rate_through_and_a_burst_of_a_second() -> None:
    bucket = Bucket(10, 0.0)
    bucket.take(10, 0.0)
    assert bucket.wait_s(0.0) == 0
    bucket.take(5, 0.0)
    assert bucket.wait_s(0.0) == pytest.approx(0.5)
    assert bucket.wait_s(0.4) == pytest.approx(0.1)
    assert bucket.wait_s(0.5) == 0
    bucket.take(0, 100.0)  # long idle: still one burst only
    bucket.take(20, 100.0)
    assert bucket.wait_s(100.0) == pytest.approx(1.0)
    free = Bucket(None, 0.0)
    free.take(10**9, 0.0)
    assert free.wait_s(0.0) == 0


async def status(url: str, token: str = "") -> tuple[int, Headers]:
    """Return the status and reason of a refused handshake."""
    with pytest.raises(InvalidStatus) as refused:
        async with Raw.connect(url, token=token):
            pass
    response = refused.value.response
    assert response.body is not None
    assert ALICE not in response.body.decode()
    return response.status_code, response.headers


def test_without_a_token_or_with_a_wrong_one_nobody_is_let_in(tmp_path: Path) -> None:
    async def main() -> None:
        target = Table(1)
        async with started(target, Service(access=tokens(tmp_path))) as (server, url):
            for wrong in ("", "x" * 20, ALICE + "x", f"{ALICE}, Bearer {ALICE}"):
                code, headers = await status(url, wrong)
                assert (code, headers["WWW-Authenticate"]) == (401, "Bearer")
            async with Raw.connect(url, token=ALICE) as raw:
                assert await raw.text(1, (1, 2, 3), 5) == truth(target, request("server", max_tokens=5))
            assert server.metrics.registry.get_sample_value("airdraft_refusals_total", {"code": "401"}) == 4

    run(main)


def test_a_page_in_a_browser_is_no_device() -> None:
    async def main() -> None:
        async with started(Table(1)) as (server, url):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, origin=Origin("https://evil.example"))
            assert refused.value.response.status_code == 403
            await until(lambda: not server._door.sockets)

    run(main)


def test_connections_over_a_tokens_quota_and_over_the_edges_are_told_to_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        access = tokens(tmp_path, alice="connections = 1")
        async with started(Table(1), Service(access=access, connections=2)) as (_, url):
            async with Raw.connect(url, token=ALICE):
                code, headers = await status(url, ALICE)
                assert (code, headers["Retry-After"]) == (429, "5")
                async with Raw.connect(url, token=BOB):
                    code, headers = await status(url, BOB)
                    assert (code, headers["Retry-After"]) == (503, "5")
            async with Raw.connect(url, token=ALICE):  # ended ones no longer count
                pass

    run(main)


def test_a_handshake_that_comes_to_nothing_is_not_counted(tmp_path: Path) -> None:
    async def main() -> None:
        access = tokens(tmp_path, alice="connections = 1")
        async with started(Table(1), Service(access=access, handshake_s=0.1)) as (_, url):
            reader, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
            writer.write(f"GET / HTTP/1.1\r\nAuthorization: Bearer {ALICE}\r\n".encode())
            began = perf_counter()
            assert await reader.read() == b""  # cut off: the rest of the handshake did not come
            assert perf_counter() - began < 8  # ten are usual
            writer.close()
            async with Raw.connect(url, token=ALICE):
                pass

    run(main)


def test_texts_over_a_tokens_quota_are_refused_whatever_connection_they_come_by(tmp_path: Path) -> None:
    async def main() -> None:
        target = Table(1)
        async with (
            started(target, Service(access=tokens(tmp_path, alice="sessions = 1"))) as (_, url),
            Raw.connect(url, token=ALICE) as one,
            Raw.connect(url, token=ALICE) as two,
            Raw.connect(url, token=BOB) as other,
        ):
            assert (one.welcome.max_sessions, other.welcome.max_sessions) == (1, 16)
            await one.send(opening(1))
            assert isinstance(await one.receive(), Opened)
            with pytest.raises(RefusedError, match="session 1: 1 texts of this token are open") as refused:
                await two.text(1, (1, 2), 4)
            assert refused.value.code == "quota"
            assert await other.text(1, (1, 2), 4) == truth(target, request("server", prompt=(1, 2), max_tokens=4))
            await one.send(Close(1, "over"))
            await one.text(2, (1, 2), 4)  # by then the first is over
            assert await two.text(2, (1, 2), 4) == truth(target, request("server", prompt=(1, 2), max_tokens=4))

    run(main)


def test_a_tokens_context_is_the_context_of_its_texts(tmp_path: Path) -> None:
    async def main() -> None:
        target = Table(1, eos_ids=())
        async with (
            started(target, Service(access=tokens(tmp_path, alice="context = 8"))) as (_, url),
            Raw.connect(url, token=ALICE) as raw,
            Raw.connect(url, token=BOB) as other,
        ):
            assert (raw.welcome.max_context, other.welcome.max_context) == (8, 512)
            await raw.send(opening(1, prompt=(1,) * 8))
            answer = await raw.receive()
            assert isinstance(answer, Error)
            assert (answer.session, answer.code) == (1, "context")
            await raw.send(opening(2, prompt=(1,) * 5))
            assert await raw.receive() == Opened(2, 5, Digest((1,) * 5).value)
            assert await other.text(1, (1,) * 8, 2)

    run(main)


def test_a_token_over_its_rate_is_slowed_and_others_are_not(tmp_path: Path) -> None:
    async def main() -> None:
        target = Table(1, eos_ids=())
        async with (
            started(target, Service(access=tokens(tmp_path, alice="tokens_per_s = 8"))) as (_, url),
            Raw.connect(url, token=ALICE) as slow,
            Raw.connect(url, token=BOB) as fast,
        ):
            began = perf_counter()
            text = asyncio.create_task(slow.text(1, (1, 2), 16, None))
            assert len(await fast.text(1, (1, 2), 16, None)) == 16
            assert not text.done()
            assert len(await text) == 16
            assert perf_counter() - began > 0.8  # 8 at once, 7 before the last at 8 a second
            # Devices plan with how long a forward takes, waits included: each token's are its own.
            async with Raw.connect(url, token=ALICE) as again, Raw.connect(url, token=BOB) as other:
                assert again.welcome.verify_s > other.welcome.verify_s > 0

    run(main)


class Counted(Table):
    """A table that counts the tokens it is fed."""

    fed = 0

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        self.fed += len(tokens)
        return super().forward(cache, keep, tokens, rows)


async def prompts_given_up(url: str, until_s: float) -> None:
    """Open long texts again and again, on several connections, and close each a moment later."""

    async def one() -> None:
        async with Raw.connect(url, token=ALICE) as raw:
            for session in range(1, 1000):
                await raw.send(opening(session, (1, 2) * 250, "server", 1))
                await asyncio.sleep(0.01)
                await raw.send(Close(session, "never mind"))
                if perf_counter() > until_s:
                    return

    await asyncio.gather(*(one() for _ in range(3)))


async def drafts(url: str, over: Callable[[], bool], scheme: str) -> None:
    """Write with a draft that is mostly refused."""
    client = await EdgeConnection.connect(url, Table(9, eos_ids=()), TOKENIZER, VOCAB, token=ALICE)
    async with client:
        asked = request(scheme, WARM, max_tokens=400, draft_length=8)
        async with contextlib.aclosing(client.write(asked)) as events:
            async for _ in events:
                if over():
                    break


@pytest.mark.parametrize("way", mostly_slow(["prompts", *SCHEMES, "stream"], often=("topk", "stream")))
def test_all_that_is_fed_is_paid_for(tmp_path: Path, way: str) -> None:
    rate = 60

    async def main() -> None:
        target = Counted(1, eos_ids=())
        async with started(target, Service(access=tokens(tmp_path, alice=f"tokens_per_s = {rate}"))) as (_, url):
            began = perf_counter()
            until_s = began + 1.5
            if way == "prompts":
                await prompts_given_up(url, until_s)
            else:  # long enough to have fed something, on any machine
                await drafts(url, lambda: perf_counter() > until_s and target.fed > rate * 0.5, way)
                assert target.fed > rate * 0.5
            assert target.fed <= rate * (perf_counter() - began + 1) + 9  # what joins a forward is paid for afterwards

    run(main)


class Held(list[int]):
    """A cache that can be copied."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    @property
    def length(self) -> int:
        return len(self)


class Copied(Counted):
    """A counting table whose texts share what they have in common."""

    def new_cache(self) -> Held:  # type: ignore[override]
        return Held()

    def copy(self, cache: Held, length: int) -> Held:
        return Held(cache[:length])


@pytest.mark.parametrize("way", ["device", "api"])
def test_of_a_prompt_only_what_is_read_is_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    paid = 0
    take = Bucket.take

    def counted(bucket: Bucket, tokens: int, now: float) -> None:
        nonlocal paid
        paid += tokens
        take(bucket, tokens, now)

    monkeypatch.setattr(Bucket, "take", counted)

    async def main() -> None:
        nonlocal paid
        target = Copied(1, eos_ids=())
        service = Service(access=tokens(tmp_path, alice="tokens_per_s = 100000"))
        async with started(target, service) as (server, url):
            tenant = server.tenant_of(f"Bearer {ALICE}")
            assert tenant is not None
            client = await EdgeConnection.connect(url, Table(2), TOKENIZER, VOCAB, token=ALICE)
            async with client:
                writer = client if way == "device" else TargetWriter(server, tenant)

                async def write(prompt: Sequence[int]) -> None:
                    asked = request("server", WARM, prompt=prompt, max_tokens=5)
                    assert [event async for event in writer.write(asked)]

                async def written(*prompts: Sequence[int]) -> tuple[int, int]:
                    """Tokens that were paid, and fed, for texts at once."""
                    nonlocal paid
                    paid = target.fed = 0
                    await asyncio.gather(*map(write, prompts))
                    return paid, target.fed

                prompt = [1, 2, 3, 4] * 50
                assert await written(prompt) == (204, 204)
                assert await written(prompt) == (6, 6)  # the last two tokens give the first rows
                assert await written([*prompt, *range(9, 29)]) == (24, 24)
                cost, fed = await written([*prompt, 5, 5, 6], [*prompt, 5, 5, 7])
                assert cost == fed <= 2 * (3 + 4)
                assert await written([5, *prompt]) == (205, 205)

    run(main)


class Gated(Table):
    """A table that waits for a gate."""

    def __init__(self, *seeds: int) -> None:
        super().__init__(*seeds, eos_ids=())
        self.gate = threading.Event()

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        self.gate.wait(20)
        return super().forward(cache, keep, tokens, rows)


@pytest.mark.parametrize("way", ["device", "api"])
def test_who_gives_up_waiting_for_the_engine_has_not_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    paid, take = list[int](), Bucket.take

    def counted(bucket: Bucket, tokens: int, now: float) -> None:
        if bucket.rate is not None:
            paid.append(tokens)
        take(bucket, tokens, now)

    monkeypatch.setattr(Bucket, "take", counted)

    async def main() -> None:
        target = Gated(1)
        service = Service(access=tokens(tmp_path, alice="tokens_per_s = 100000"))
        async with started(target, service) as (server, url), Raw.connect(url, token=BOB) as other:
            first = asyncio.create_task(other.text(1, (1, 2), 4, None))
            await until(lambda: server.scheduler.texts == 1)
            tenant = server.tenant_of(f"Bearer {ALICE}")
            assert tenant is not None
            client = await EdgeConnection.connect(url, Table(2), TOKENIZER, VOCAB, token=ALICE)
            async with client:
                writer = client if way == "device" else TargetWriter(server, tenant)
                asked = request("server", WARM, prompt=[1, 2, 3, 4] * 50, max_tokens=5)

                async def write() -> None:
                    assert [event async for event in writer.write(asked)]

                task = asyncio.create_task(write())
                await until(lambda: server.scheduler.waiting == 1)
                assert sum(paid) == 199
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await until(lambda: server.scheduler.waiting == 0)
                assert sum(paid) == 0
                target.gate.set()
                assert len(await first) == 4
                await write()
                assert sum(paid) == 199 + 5

    run(main)


def test_however_long_a_quota_makes_texts_wait_the_edge_can_say_so() -> None:
    machine = EdgeMachine(Target("", "", TOKENIZER, VOCAB, 512, ()), Limits(), 0.0)
    machine.pace.took(Forward(1, 0, (1,), 1), 1e6)
    machine.receive(encode(hello()), 0.0)
    (welcome,) = Decoder(ToDevice).feed(machine.take())
    assert isinstance(welcome, Welcome)
    assert welcome.verify_s == 3600


def test_a_long_prompt_does_not_stop_the_tokens_other_texts(tmp_path: Path) -> None:
    async def main() -> None:
        target = Counted(1, eos_ids=())
        async with (
            started(target, Service(access=tokens(tmp_path, alice="tokens_per_s = 20"))) as (_, url),
            Raw.connect(url, token=ALICE) as one,
            Raw.connect(url, token=ALICE) as two,
        ):
            await one.send(opening(1, (1, 2) * 250, "server", 1))
            assert isinstance(await one.receive(), Opened)
            began = perf_counter()
            assert len(await two.text(1, (1, 2), 3, None)) == 3  # the prompt takes 25 s
            assert perf_counter() - began < 15
            await one.send(Close(1, "never mind"))
            assert await two.text(2, (1, 2), 3, None)  # what it has not been fed, it has not paid for
            assert perf_counter() - began < 20
            assert target.fed < 50

    run(main)


@pytest.mark.parametrize("other", [False, True])
def test_silent_texts_do_not_keep_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bool) -> None:
    """Not for long where the same token needs the place, and not at all where another does."""
    monkeypatch.setattr(turns, "REST_S", 2.0)

    async def main() -> None:
        target = Table(1, eos_ids=())
        service = Service(access=tokens(tmp_path))
        server = EdgeServer(OneByOne(target), TOKENIZER, VOCAB, capacity=Capacity(texts=4), service=service)
        async with server:
            await server.start(HOST, 0)
            url = f"ws://{HOST}:{server.port}"
            async with Raw.connect(url, token=ALICE) as silent, Raw.connect(url, token=BOB if other else ALICE) as raw:
                await silent.send(*(opening(session) for session in range(1, 5)))
                for _ in range(4):
                    assert isinstance(await silent.receive(), Opened)
                await until(lambda: server.scheduler.texts == 4 and not server.scheduler.waiting)
                session = 1
                if not other:
                    with pytest.raises(RefusedError, match="4 texts at once already"):
                        await raw.text(session, (1, 2), 5)
                    await asyncio.sleep(2.1)
                    session = 2
                expected = truth(target, request("server", prompt=(1, 2), max_tokens=5))
                assert await raw.text(session, (1, 2), 5) == expected
                given_up = await silent.receive()
                assert isinstance(given_up, Error)
                assert (given_up.code, "open it again" in given_up.message) == ("busy", True)
                await until(lambda: server.scheduler.texts == 3)

    run(main)


def test_a_token_that_is_taken_out_ends_its_connections_and_no_others(tmp_path: Path) -> None:
    async def main() -> None:
        access = tokens(tmp_path)
        async with (
            started(Table(1), Service(access=access)) as (server, url),
            Raw.connect(url, token=ALICE) as alice,
            Raw.connect(url, token=BOB) as bob,
        ):
            (tmp_path / "tokens.toml").write_text(f'[[token]]\nname = "bob"\ntoken = "{BOB}"\n')
            server.reload()
            answer = await alice.receive()
            assert isinstance(answer, Error)
            assert (answer.session, answer.code) == (None, "revoked")
            with pytest.raises(ConnectionClosed):
                await alice.socket.recv()
            assert (await status(url, ALICE))[0] == 401
            assert await bob.text(1, (1,), 2)

    run(main)


def test_texts_of_two_tokens_side_by_side_are_right_and_ones_errors_do_not_reach_the_other(tmp_path: Path) -> None:
    """Alice floods the edge with texts, good and bad, and gives some up; Bob's are as if he were alone."""

    async def mischief(url: str) -> None:
        for at in range(6):
            async with Raw.connect(url, token=ALICE) as raw:
                await raw.send(opening(1, (at, 2), "server"), opening(2, (1,) * 512), opening(3, (at, 3), "nope"))
                await asyncio.sleep(0.02)  # the first text is under way
                await raw.socket.send(b"\x05hello")  # and is cut off
                errors = []
                while len(errors) < 3:
                    message = await raw.receive()
                    if isinstance(message, Error):
                        errors.append((message.session, message.code))
                assert errors == [(2, "context"), (3, "scheme"), (None, "garbage")]

    async def main() -> None:
        target = Table(1, 2, seconds=0.0005)
        async with started(target, Service(access=tokens(tmp_path))) as (server, url):
            storm = [asyncio.create_task(mischief(url)) for _ in range(2)]
            async with Raw.connect(url, token=BOB) as one, Raw.connect(url, token=BOB) as two:
                for session in range(1, 9):
                    asked = [request("server", prompt=(session, at), max_tokens=12) for at in range(2)]
                    texts = await asyncio.gather(
                        *(raw.text(session, each.prompt, 12) for raw, each in zip((one, two), asked, strict=True))
                    )
                    assert texts == [truth(target, each) for each in asked]
            await asyncio.gather(*storm)
            value = server.metrics.registry.get_sample_value
            assert value("airdraft_refusals_total", {"code": "garbage"}) == 12
            await until(lambda: value("airdraft_texts") == 0)

    run(main)
