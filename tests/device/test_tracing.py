"""Traces that a device writes, against its texts and against what the edge saw of them: real sockets and processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from airdraft.core.edge import Limits
from airdraft.core.messages import SchemeSpec
from airdraft.device.client import EdgeConnection
from airdraft.edge.server import Service
from airdraft.errors import ModelError, RefusedError
from airdraft.telemetry.trace import Traces, read, summary

from ..e2e.processes import airdraft, announced, started
from ..edge.loopback import FAULT, TOKENIZER, VOCAB, Table, request, run, truth, write
from ..edge.loopback import started as edge
from .test_writer import Edge, Told, asking, following, slow, until, writer

SCHEMES = ("coupled", "stream", "server", "topk", "split")


@pytest.mark.parametrize("ids", [False, True])
def test_both_sides_tell_the_same_of_a_text(tmp_path: Path, ids: bool) -> None:
    asked = [request(scheme, prompt=(4, 5), max_tokens=12) for scheme in SCHEMES]
    asked[1] = replace(asked[1], scheme=SchemeSpec("stream", race="off"))  # or it might be over before a draft comes

    async def main() -> list[list[int]]:
        draft, service = Table(1, 2), Service(traces=Traces(tmp_path / "edge", "edge", ids))
        traces = Traces(tmp_path / "device", "device", ids)
        async with (
            edge(Table(1), service) as (_, url),
            await EdgeConnection.connect(url, draft, TOKENIZER, VOCAB, traces=traces) as client,
        ):
            return [await write(client, each) for each in asked]

    texts = run(main)
    pairs = [sorted((tmp_path / side).iterdir()) for side in ("device", "edge")]
    for path, other, text, each in zip(*pairs, texts, asked, strict=True):
        events, numbers = read(path), summary(read(path))
        names = [event["event"] for event in events]
        assert (names[0], names[-1]) == ("opened", "finished")
        assert {"ready", "committed"} <= set(names)
        assert names[-2] == "readings"
        assert 0 <= events[-2]["device_rtt_seconds"] < 10
        assert [name for name in (event["event"] for event in read(other)) if name == "readings"] == []
        assert ({"draft", "call"} <= set(names)) == (each.scheme.name != "server")
        assert (events[0]["side"], events[0]["scheme"], events[0]["prompt"]) == ("device", each.scheme.name, 2)
        assert events[0]["edge"].startswith("ws://")
        assert [event["t"] for event in events] == sorted(event["t"] for event in events)
        assert numbers["tokens"] == numbers["accepted"] + numbers["written"] == len(text)
        assert (numbers["accepted"], numbers["drafted"]) == (each.counts.accepted, each.counts.drafted)
        assert [event["ids"] for event in events if "ids" in event][:1] == ([[4, 5]] if ids else [])
        assert [token for event in events for token in event.get("ids", [])] == ([4, 5, *text] if ids else [])
        assert path.stat().st_mode & 0o77 == 0
        if each.scheme.name != "split":  # whose rejections are dealt with on the device
            theirs = [event["length"] for event in read(other) if event["event"] == "committed"]
            assert [event["length"] for event in events if event["event"] == "committed"] == theirs


def test_a_text_that_is_resumed_makes_a_trace_of_every_session(tmp_path: Path) -> None:
    async def main() -> list[int]:
        asked = asking("stream", max_tokens=120)
        async with Edge(slow()) as one, writer([one], traces=Traces(tmp_path, "device", tokens=True)) as over:
            async with following(over, asked) as (told, tasks):
                await until(lambda: len(told[0].tokens) > 10)
                await one.kill()
                await one.start()
                (text,) = await asyncio.gather(*tasks)
            assert text == truth(one.target, asked)
            return text

    text = run(main)
    first, second = (read(path) for path in sorted(tmp_path.iterdir()))
    assert (first[-1]["event"], second[-1]["event"]) == ("lost", "finished")
    prompt = first[0]["prompt"]
    assert (first[0]["length"], second[0]["prompt"]) == (prompt, prompt)
    assert second[0]["length"] == prompt + summary(first)["tokens"] > prompt + 10
    told = [token for event in first if event["event"] == "committed" for token in event["ids"]]
    told += [token for event in second if event["event"] == "committed" for token in event["ids"]]
    assert told == text


def test_texts_that_are_given_up_refused_or_fail_say_so(tmp_path: Path) -> None:
    async def main() -> None:
        draft = Table(1, 2, eos_ids=(), fault=lambda: ModelError("the draft is broken"))
        one = Edge(slow(), limits=Limits(max_sessions=1))
        async with one, writer([one], draft, traces=Traces(tmp_path, "device"), offline="error") as over:
            async with contextlib.aclosing(over.write(asking("server", max_tokens=400))) as events:
                await anext(events)
                with pytest.raises(RefusedError):
                    await Told().write(over, asking("server"))
            with pytest.raises(ModelError):
                await Told().write(over, asking(prompt=(1, FAULT)))

    run(main)
    ends = [read(path)[-1] for path in sorted(tmp_path.iterdir())]
    assert [end["event"] for end in ends] == ["finished", "failed", "failed"]
    assert (ends[0]["reason"], ends[1]["code"], ends[2]["code"]) == ("cancelled", "busy", "engine")


@pytest.mark.slow
def test_the_command_writes_what_trace_show_reads(tmp_path: Path) -> None:
    with started("edge", "--port", "0", "--json") as edge:
        options = ("--port", "0", "--trace-dir", str(tmp_path), "--trace-tokens", "--json")
        with started("device", "--edge", announced(edge)["url"], *options) as device:
            body = json.dumps({"prompt": "def f(x):", "max_tokens": 9, "temperature": 0}).encode()
            url = announced(device)["url"] + "/completions"
            asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
            with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
                written = json.load(answer)["usage"]["completion_tokens"]
            device.send_signal(signal.SIGTERM)
            assert device.communicate(timeout=60)[1] == b""
    (path,) = tmp_path.iterdir()
    code, out, errors = airdraft("trace", "show", str(path), "--json")
    assert (code, errors) == (0, "")
    found = json.loads(out)
    assert found["summary"]["tokens"] == written
    assert found["events"][0]["side"] == "device"
    assert f"{written} tokens in" in airdraft("trace", "show", str(path))[1]
