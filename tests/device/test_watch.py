"""What a device tells of itself, against what its texts and edges were: real sockets and processes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import math
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import fields
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest

from airdraft.core.request import Counts, Request
from airdraft.device import edges as edges_module
from airdraft.device.watch import MeteredWriter
from airdraft.edge.server import Service
from airdraft.errors import BadParameterError, LinkError

from ..e2e.processes import announced, started
from ..edge.loopback import VOCAB, Table, run, truth, until
from ..edge.loopback import started as serving_with
from .test_writer import Edge, asking, slow, writer


def value(watch: MeteredWriter, name: str, **labels: str) -> float | None:
    return watch.metrics.registry.get_sample_value(f"airdraft_{name}", labels)


async def text_of(watch: MeteredWriter, asked: Request) -> list[int]:
    async with contextlib.aclosing(watch.write(asked)) as events:
        return [token async for event in events for token in getattr(event, "tokens", ())]


def test_texts_are_counted_as_their_requests_count_them() -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=()), Table(1, 2, eos_ids=())
        async with Edge(target) as edge, writer([edge], draft) as over:
            watch = MeteredWriter(over)
            assert (value(watch, "device_connected"), value(watch, "device_rtt_seconds")) == (0, None)
            asked = [asking(scheme) for scheme in ("coupled", "stream", "server", "topk")]
            texts = await asyncio.gather(*(text_of(watch, each) for each in asked))
            assert texts[:3] == [truth(target, each) for each in asked[:3]]
            total = Counts.total(each.counts for each in asked)
            assert {each.name: getattr(total, each.name) for each in fields(Counts)} == {
                each.name: sum(getattr(one.counts, each.name) for one in asked) for each in fields(Counts)
            }
            assert value(watch, "tokens_committed_total") == total.committed == sum(map(len, texts))
            assert value(watch, "tokens_drafted_total") == total.drafted > 0
            assert value(watch, "tokens_accepted_total") == total.accepted > 0
            assert value(watch, "device_tokens_rejected_total") == total.rejected > 0
            assert value(watch, "tokens_raced_total") == total.raced > 0
            assert value(watch, "rounds_total") == total.forwards > 0
            assert value(watch, "sent_bytes_total") == over.bytes_out > 0
            assert value(watch, "received_bytes_total") == over.bytes_in > 0
            assert value(watch, "texts_ended_total", how="finished") == 4
            assert value(watch, "texts_ended_total", how="failed") == value(watch, "texts") == 0
            assert value(watch, "first_token_seconds_count") == value(watch, "token_seconds_count") == 4
            assert value(watch, "device_connects_total") == value(watch, "device_connected") == 1
            assert value(watch, "device_moves_total") == 0

    run(main)


def test_the_counts_of_a_text_show_while_it_is_written_and_stay_when_it_is_given_up() -> None:
    async def main() -> None:
        async with Edge(slow()) as edge, writer([edge]) as over:
            watch, asked = MeteredWriter(over), asking("server", max_tokens=400)
            async with contextlib.aclosing(watch.write(asked)) as events:
                for _ in range(5):
                    await anext(events)
                assert value(watch, "texts") == 1
                assert value(watch, "tokens_committed_total") == asked.counts.committed >= 5
            assert value(watch, "texts") == 0
            assert value(watch, "texts_ended_total", how="finished") == 1
            assert value(watch, "tokens_committed_total") == asked.counts.committed < 400

    run(main)


def test_what_is_told_of_the_link_is_what_decisions_rest_on() -> None:
    async def main() -> None:
        async with Edge(slow()) as edge, writer([edge]) as over:
            watch = MeteredWriter(over)
            await text_of(watch, asking("auto"))
            facts = over.facts()
            assert facts is not None
            assert value(watch, "device_rtt_seconds") == facts.rtt_s > 0
            assert value(watch, "device_uplink_bits_per_second") == facts.uplink_bps
            assert value(watch, "device_downlink_bits_per_second") == facts.downlink_bps
            assert value(watch, "device_draft_seconds") == facts.draft_s
            assert value(watch, "device_verify_seconds") == facts.verify_s >= 0.002  # what the target takes at least
            assert value(watch, "device_acceptance_ratio") == facts.acceptance
            assert not math.isnan(facts.uplink_bps)

    run(main)


def test_counters_never_fall_and_health_follows_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges_module, "WATCH_S", 0.05)

    async def main() -> None:
        async with Edge(slow()) as edge, writer([edge], offline="error") as over:
            watch = MeteredWriter(over)
            assert over.health() == "away: not connected yet"
            await text_of(watch, asking())
            assert over.health() is None
            seen = value(watch, "sent_bytes_total") or 0.0
            going = asyncio.create_task(text_of(watch, asking("server", max_tokens=400)))
            await until(lambda: (value(watch, "first_token_seconds_count") or 0) == 2)
            await edge.kill()
            while not going.done():
                last, seen = seen, value(watch, "sent_bytes_total") or 0.0
                assert seen >= last
                await asyncio.sleep(0)
            with pytest.raises(LinkError):
                going.result()
            assert value(watch, "texts_ended_total", how="failed") == 1
            assert value(watch, "device_connected") == 0
            assert value(watch, "device_rtt_seconds") is None
            assert (over.health() or "").startswith("away: ")
            await edge.start()  # nobody has anything to write, and it is found all the same
            await until(lambda: over.health() is None)
            assert (value(watch, "device_connected"), value(watch, "device_connects_total")) == (1, 2)
            assert (value(watch, "sent_bytes_total") or 0.0) > seen
            await edge.kill()  # while nothing is written
            await until(lambda: (over.health() or "").startswith("away: "))

    run(main)


def test_an_edge_that_found_us_idle_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges_module, "WATCH_S", 0.05)

    async def main() -> None:
        async with serving_with(Table(1), Service(idle_s=1.0)) as (_, url), writer([url]) as over:
            asked = asking()
            assert await text_of(MeteredWriter(over), asked) == truth(Table(1), asked)
            await until(lambda: over.edge is None)
            await asyncio.sleep(0.3)  # six looks at the edges
            assert over.health() is None
            assert over.connects == 1  # it does not come back only to be idle again
            assert await text_of(MeteredWriter(over), asked) == truth(Table(1), asked)
            assert over.connects == 2

    run(main)


def test_why_no_edge_can_be_had_is_told_when_the_reason_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges_module, "WATCH_S", 0.05)

    async def main() -> None:
        async with Edge(slow()) as edge, writer([edge], offline="error") as over:
            await over.connect()
            await edge.kill()
            await until(lambda: "no edge answers" in str(over.state))

    run(main)


def test_a_text_that_is_refused_has_failed() -> None:
    async def main() -> None:
        async with Edge(slow()) as edge, writer([edge]) as over:
            watch = MeteredWriter(over)
            with pytest.raises(BadParameterError, match="logprobs is 41"):
                await text_of(watch, asking(logprobs=VOCAB + 1))
            assert value(watch, "texts_ended_total", how="failed") == 1

    run(main)


def test_a_draft_model_that_speaks_meanwhile_is_healthy() -> None:
    assert writer(["ws://127.0.0.1:9"], offline="draft").health() is None
    assert writer(["ws://127.0.0.1:9"]).health() == "away: not connected yet"


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def served() -> Iterator[tuple[Any, dict[str, Any]]]:
    with started("edge", "--port", "0", "--json") as edge:
        options = ("--port", "0", "--metrics-port", "0", "--json")
        with started("device", "--edge", announced(edge)["url"], *options) as device:
            yield edge, announced(device)
            device.send_signal(signal.SIGTERM)
            assert device.communicate(timeout=60)[1] == b""


@pytest.mark.slow
def test_the_command_serves_metrics_and_health(served: tuple[Any, dict[str, Any]]) -> None:
    edge, urls = served
    body = json.dumps({"prompt": "def f(x):", "max_tokens": 9, "temperature": 0}).encode()
    asked = urllib.request.Request(urls["url"] + "/completions", body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
        written = json.load(answer)["usage"]["completion_tokens"]
    assert get(urls["metrics"] + "/healthz") == (200, '{"status":"ok"}')
    status, page = get(urls["metrics"] + "/metrics")
    assert status == 200
    assert f"airdraft_tokens_committed_total {written}.0" in page
    assert "airdraft_device_connected 1.0" in page
    assert "airdraft_device_rtt_seconds " in page
    edge.kill()
    edge.wait()
    with contextlib.closing(http.client.HTTPConnection(urlsplit(urls["url"]).netloc)) as waiting:
        waiting.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        while (found := get(urls["metrics"] + "/healthz"))[0] == 200:
            pass
    assert found[0] == 503
    assert "away: " in found[1]
    assert "airdraft_device_connected 0.0" in get(urls["metrics"] + "/metrics")[1]
