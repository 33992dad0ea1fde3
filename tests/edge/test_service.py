"""The edge as a long-running service: idle limits, draining, closing and telemetry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from airdraft.core.edge import Limits
from airdraft.core.messages import Close, Error, Opened, Ping, SchemeSpec, Tokens
from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import LinkError, RefusedError
from airdraft.telemetry import logs
from airdraft.telemetry.trace import Traces, read, summary

from .loopback import FAULT, WARM, Raw, Table, device, opening, request, run, started, truth, until, write


def value(server: EdgeServer, name: str, **labels: str) -> float:
    found = server.metrics.registry.get_sample_value(f"airdraft_{name}", labels)
    return 0.0 if found is None else found


async def error(raw: Raw) -> Error:
    while not isinstance(message := await raw.receive(), Error):
        pass
    return message


def test_a_connection_without_a_text_is_ended_when_it_has_been_idle() -> None:
    async def main() -> None:
        async with started(Table(1), Service(idle_s=1.0)) as (_, url):
            for greet in (True, False):
                async with Raw.connect(url, greet) as raw:
                    began = perf_counter()
                    while perf_counter() - began < 0.4:  # heartbeats are no progress
                        await raw.send(Ping(1.0))
                        await asyncio.sleep(0.02)
                    answer = await error(raw)
                    assert (answer.session, answer.code) == (None, "idle")
                    assert 0.5 < perf_counter() - began < 15
                    with pytest.raises(ConnectionClosed):
                        await raw.socket.recv()

    run(main)


def test_a_text_without_progress_is_ended_and_one_that_goes_on_is_not() -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=(), seconds=0.03), Table(1, 2, eos_ids=())
        async with started(target, Service(idle_s=0.8)) as (_, url), await device(url, draft) as client:
            asked = request("coupled", max_tokens=60, draft_length=1)  # longer than what is idle
            going = asyncio.create_task(write(client, asked))
            async with Raw.connect(url) as raw:
                await raw.send(opening(1))  # and never a draft
                answer = await error(raw)
                assert (answer.session, answer.code) == (1, "idle")
                assert "open the text again to go on" in answer.message
                assert await raw.text(2, (1, 2), 3, None)  # the connection lives on
            assert await going == truth(target, asked)

    run(main)


def test_a_forward_that_takes_long_is_not_idle() -> None:
    async def main() -> None:
        target = Table(1, seconds=1.2)
        async with started(target, Service(idle_s=0.5)) as (_, url), Raw.connect(url) as raw:
            assert await raw.text(1, (1,), 1) == truth(target, request(prompt=(1,), max_tokens=1))

    run(main)


def test_draining_lets_texts_end_and_sends_everybody_else_away() -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=(), seconds=0.003), Table(1, 2, eos_ids=())
        async with started(target) as (server, url), await device(url, draft) as client, Raw.connect(url) as other:
            asked = request("coupled", WARM, 3, max_tokens=200)
            text = asyncio.create_task(write(client, asked))
            await until(lambda: value(server, "texts") == 1)
            assert server.health() is None
            drain = asyncio.create_task(server.drain(20))
            await until(server.health)
            with pytest.raises(InvalidStatus) as refused:
                async with Raw.connect(url):
                    pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"] == "5"
            with pytest.raises(RefusedError, match="about to end; open the text at another") as busy:
                await other.text(1, (1, 2), 3)
            assert busy.value.code == "busy"
            assert await text == truth(target, asked)
            await drain
            with pytest.raises(ConnectionClosed):
                await other.receive()
            assert other.socket.close_code == 1012
            with pytest.raises(LinkError):
                await write(client, asked)

    run(main)


def test_a_text_that_takes_longer_than_the_drain_is_closed_with_1012() -> None:
    async def main() -> None:
        target = Table(1, eos_ids=(), seconds=0.01)
        async with started(target) as (server, url), Raw.connect(url) as raw:
            await raw.send(opening(1, scheme="server"))
            assert isinstance(await raw.receive(), Opened)
            began = perf_counter()
            drain = asyncio.create_task(server.drain(0.2))
            with contextlib.suppress(ConnectionClosed):
                while isinstance(await raw.receive(), Tokens):  # what is written until then
                    pass
            await drain
            assert perf_counter() - began > 0.15
            assert raw.socket.close_code == 1012

    run(main)


def test_draining_an_edge_where_nobody_writes_takes_no_time() -> None:
    async def main() -> None:
        async with started(Table(1)) as (server, url), Raw.connect(url):
            began = perf_counter()
            await server.drain(20)
            assert perf_counter() - began < 15

    run(main)


def test_metrics_count_what_texts_were_made_of() -> None:
    async def main() -> None:
        target, draft = Table(1), Table(1, 2)
        async with started(target) as (server, url):
            async with await device(url, draft) as client:
                asked = [
                    request(scheme, max_tokens=12, prompt=(4, 5)) for scheme in ("coupled", "topk", "split", "server")
                ]
                texts = [await write(client, each) for each in asked]
                raced = len(texts[-1])
                counts = [each.counts for each in asked]
                await until(lambda: value(server, "texts") == 0)
                assert texts == [truth(target, each) for each in asked]
                # A last token that the device drew itself stands in no message any more, and is counted all the same.
                assert value(server, "tokens_committed_total") == sum(map(len, texts))
                assert value(server, "tokens_accepted_total") == sum(each.accepted for each in counts)
                assert value(server, "tokens_raced_total") == raced
                assert value(server, "texts_ended_total", how="finished") == 4
                assert value(server, "forward_seconds_count") == target.forwards
                assert value(server, "batch_size_sum") == target.forwards
                assert value(server, "first_token_seconds_count") == 4
                assert value(server, "connections") == 1
                await until(lambda: value(server, "received_bytes_total") == client.bytes_out)
                await until(lambda: value(server, "sent_bytes_total") == client.bytes_in)
                assert value(server, "kv_positions") == value(server, "waiting_forwards") == 0
            await until(lambda: value(server, "connections") == 0)
            assert value(server, "received_bytes_total") > 0
            drafted, verified = value(server, "tokens_drafted_total"), value(server, "tokens_verified_total")
            assert drafted >= verified >= value(server, "tokens_accepted_total") > 0

    run(main)


def test_metrics_of_round_trips_refusals_and_texts_that_were_lost() -> None:
    async def main() -> None:
        target = Table(1, eos_ids=(), seconds=0.002)
        async with started(target, limits=Limits(heartbeat_s=0.3)) as (server, url):
            async with await device(url, Table(1, 2)):
                await until(lambda: value(server, "rtt_seconds_count") > 1)
            async with Raw.connect(url) as raw:
                await raw.send(opening(1, scheme="nope"), opening(2, scheme="server"))
                await until(lambda: value(server, "kv_positions") > 0)
                assert server.metrics.registry.get_sample_value("airdraft_kv_bytes") is None  # not known
                engine = server.scheduler.engine
                engine.info = replace(engine.info, position_bytes=12)
                assert value(server, "kv_bytes") == 12 * value(server, "kv_positions") > 0
                raw.socket.transport.abort()
            await until(lambda: value(server, "texts_ended_total", how="lost") == 1)
            assert value(server, "refusals_total", code="scheme") == 1

    run(main)


@pytest.mark.parametrize("ids", [False, True])
def test_traces_tell_what_happened_and_the_text_only_if_asked(tmp_path: Path, ids: bool) -> None:
    target, draft = Table(1), Table(1, 2)
    asked = [request(scheme, prompt=(4, 5), max_tokens=12) for scheme in ("coupled", "stream", "split")]
    asked[1] = replace(asked[1], scheme=SchemeSpec("stream", race="off"))  # or it might be over before a draft comes

    async def main() -> list[list[int]]:
        service = Service(traces=Traces(tmp_path, "edge", ids))
        async with started(target, service) as (server, url), await device(url, draft) as client:
            texts = [await write(client, each) for each in asked]
            await until(lambda: value(server, "texts_ended_total", how="finished") == 3)
            return texts

    texts = run(main)
    for path, text, each in zip(sorted(tmp_path.iterdir()), texts, asked, strict=True):
        events = read(path)
        names = [event["event"] for event in events]
        assert names[:2] == ["opened", "ready"]
        assert names[-1] == "finished"
        assert {"draft", "call", "committed"} <= set(names)
        assert events[0]["prompt"] == 2
        assert [event["t"] for event in events] == sorted(event["t"] for event in events)
        assert all(event["began"] <= event["t"] for event in events if event["event"] == "call")
        numbers = summary(events)
        assert numbers["accepted"] == each.counts.accepted
        assert numbers["mean_batch"] == 1
        assert numbers["tokens"] in (len(text), len(text) - 1)  # split: the last one may be the device's own
        told = [token for event in events for token in event.get("ids", [])]
        assert told == ([4, 5, *text][: 2 + numbers["tokens"]] if ids else [])
        assert path.stat().st_mode & 0o77 == 0


def test_a_trace_that_cannot_be_written_costs_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        target = Table(1)
        folder = tmp_path / "traces"
        async with started(target, Service(traces=Traces(folder, "edge"))) as (_, url), Raw.connect(url) as raw:
            folder.rmdir()
            for session in (1, 2):
                assert await raw.text(session, (1, 2), 4) == truth(target, request(prompt=(1, 2), max_tokens=4))

    run(main)
    assert "it stops here" in caplog.text


def test_logs_hold_neither_prompts_nor_tokens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Logs at the most detailed level, for texts that end well, badly, and not at all."""
    prompt = (31, 17, 29, 23)
    caplog.set_level(logging.DEBUG)
    sent = "a-bearer-token-0123456789"

    async def main() -> None:
        target = Table(1, 2, fault=lambda: RuntimeError("broken"))
        async with started(target) as (server, url), Raw.connect(url, token=sent) as raw:
            await raw.text(1, prompt, 6)
            await raw.send(opening(2, (*prompt, FAULT, 1)), opening(3, prompt, "nope"), opening(4, prompt))
            assert (await error(raw)).code in ("engine", "scheme")
            assert (await error(raw)).code in ("engine", "scheme")
            await raw.send(Close(4, "the prompt was 31, 17, 29, 23"))
            await until(lambda: value(server, "texts") == 0)
            await raw.socket.send(b"\x05\x1f\x11\x1d\x17hello")
            await error(raw)

    run(main)
    ours = [record for record in caplog.records if record.name.startswith("airdraft")]
    assert len(ours) > 3
    said = "\n".join(logs.JsonFormatter().format(record) for record in ours)
    assert {"finished", "failed"} <= {json.loads(line).get("how") for line in said.splitlines()}
    assert sent not in said
    for spelt in ("31, 17", "[31", "(31", "\\x1f\\x11"):
        assert spelt not in said
