"""Clients that go away, edges that die, models that fail: over tables, which are as slow as a test wants them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from airdraft.api import reading
from airdraft.api.app import device_app, edge_app
from airdraft.core.sampling import SamplingParams
from airdraft.device.writer import Writer
from airdraft.edge.access import Access
from airdraft.edge.server import Capacity, EdgeServer, Service
from airdraft.errors import ModelError
from airdraft.models.base import Exactness, FloatArray
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel
from airdraft.telemetry.http import serving
from airdraft.telemetry.trace import Traces, read, summary

from ..edge.loopback import HOST, Table, engine, run, until

VOCAB = 4096
PROMPT = "def f(x):"
BEARER = "0123456789abcdef"
TOKENIZER = Tokenizer(shipped("draft"))


def table(*seeds: int, **options: Any) -> Table:
    """As slow as it needs to be for a midst, and without an end."""
    return Table(*seeds, **{"vocab_size": VOCAB, "eos_ids": (), "max_context": 4096, "seconds": 0.003, **options})


def says(text: str, prompt: str = PROMPT) -> TableModel:
    """A model that writes this text after the prompt, if it is greedy."""
    ids, start = TOKENIZER.encode(text)[1:], len(TOKENIZER.encode(prompt))

    def row(prefix: tuple[int, ...]) -> FloatArray:
        logits = np.zeros(VOCAB, np.float32)
        at = len(prefix) - start
        logits[ids[at] if 0 <= at < len(ids) else 0] = 9
        return logits

    return TableModel(row, VOCAB, 4096, (0,))


def truth(target: Table, seed: int, max_tokens: int) -> str:
    same = TableModel(target.row, VOCAB, 4096, target.eos_ids)
    return TOKENIZER.decode(list(alone.write(same, TOKENIZER.encode(PROMPT), SamplingParams(), seed, max_tokens)))


@dataclass
class Place:
    """An edge and a device, each with the API."""

    server: EdgeServer
    writer: Writer
    device: openai.AsyncOpenAI
    edge: openai.AsyncOpenAI

    async def restart(self, target: TableModel) -> None:
        """The edge, on its port."""
        port = self.server.port
        await self.kill()
        await asyncio.sleep(0.2)
        self.server = EdgeServer(engine(target), TOKENIZER.digest, VOCAB)
        await self.server.start(HOST, port)

    async def kill(self) -> None:
        await self.server.close()


@contextlib.asynccontextmanager
async def place(
    target: TableModel,
    draft: TableModel | None = None,
    service: Service | None = None,
    capacity: Capacity | None = None,
    engine_top_k: int | None = None,
    key: str | None = None,
    exactness: Exactness = Exactness(),  # noqa: B008
    **options: Any,
) -> AsyncIterator[Place]:
    served = engine(target)
    served.info = replace(served.info, top_k=engine_top_k, exactness=exactness)
    server = EdgeServer(served, TOKENIZER.digest, VOCAB, None, capacity, service)
    await server.start(HOST, 0)
    token = BEARER if service and service.access else None
    writer = Writer(
        [f"ws://{HOST}:{server.port}"], draft or table(1, 2), TOKENIZER.digest, VOCAB, token=token, **options
    )
    async with (
        writer,
        serving(device_app(writer, TOKENIZER, "table", key=key, exactness=lambda: writer.exactness), HOST, 0) as device,
        serving(edge_app(server, TOKENIZER), HOST, 0) as edge,
        openai.AsyncOpenAI(base_url=f"http://{HOST}:{device}/v1", api_key=key or "none", max_retries=0) as at_device,
        openai.AsyncOpenAI(base_url=f"http://{HOST}:{edge}/v1", api_key=token or "none", max_retries=0) as at_edge,
    ):
        found = Place(server, writer, at_device, at_edge)
        try:
            yield found
        finally:
            await found.server.close()


def asking(**options: Any) -> dict[str, Any]:
    return {"model": "table", "prompt": PROMPT, "seed": 1, "max_tokens": 100, **options}


def corrected(chunks: Sequence[Any]) -> str:
    """What a reader who knows of corrections ends up with."""
    text = ""
    for chunk in chunks:
        choice = chunk.choices[0]
        text += choice.text
        if correction := (choice.model_extra.get("airdraft") or {}).get("correction"):
            text = text[: correction["from"]] + correction["text"]
    return text


def is_unverified(chunk: Any) -> bool:
    return (chunk.choices[0].model_extra.get("airdraft") or {}).get("verified") is False


@pytest.mark.parametrize(
    "text", ["日本語の説明: これは関数です。🎉🎊", "naïve — ежедневно €5", "\N{FAMILY}\u200d\N{GIRL} end"]
)
def test_characters_of_several_tokens_arrive_whole(text: str) -> None:
    async def main() -> None:
        async with place(says(text), says(text[:5])) as found:
            for client in (found.device, found.edge):
                stream = await client.completions.create(**asking(stream=True, temperature=0))
                pieces = [chunk.choices[0].text async for chunk in stream]
                assert "".join(pieces) == text
                assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)

    assert len(TOKENIZER.encode(text)) > len(text.split()) + 5
    run(main)


@pytest.mark.parametrize("where", ["device", "edge"])
def test_a_client_that_goes_away_frees_its_texts(where: str) -> None:
    async def main() -> None:
        async with place(table(1, seconds=0.01)) as found:
            client, scheduler = getattr(found, where), found.server.scheduler
            stream = await client.completions.create(**asking(n=3, max_tokens=2000, stream=True))
            for _ in range(5):
                await anext(aiter(stream))
            assert scheduler.texts == 3
            await stream.close()
            await until(lambda: scheduler.texts == 0)
            whole = asyncio.create_task(client.completions.create(**asking(n=2, max_tokens=2000)))
            await until(lambda: scheduler.texts == 2)
            whole.cancel()
            await asyncio.gather(whole, return_exceptions=True)
            await until(lambda: scheduler.texts == 0)
            assert (await client.completions.create(**asking(max_tokens=3))).usage.completion_tokens == 3

    run(main)


def test_an_edge_that_dies_and_comes_back_is_not_seen_by_the_client() -> None:
    target = table(1)

    async def main() -> None:
        async with place(target) as found:
            stream = await found.device.completions.create(**asking(max_tokens=300, stream=True))
            chunks = []
            async for chunk in stream:
                chunks.append(chunk)
                if len(chunks) in (20, 60):
                    await found.restart(target)
            assert len(chunks) > 60
            assert "".join(chunk.choices[0].text for chunk in chunks) == truth(target, 1, 300)
            last = chunks[-1].choices[0]
            assert (last.finish_reason, last.model_extra["airdraft"]["unverified_tokens"]) == ("length", 0)

    run(main)


def test_texts_of_an_edges_api_end_with_the_edge() -> None:
    """With an error, at once: nobody waits for what is not going to be run."""

    async def main() -> None:
        async with place(table(1, seconds=0.1)) as found:
            asked = asking(max_tokens=2000, prompt="a = 1\n" * 400, stream=True)
            waiting = asyncio.create_task(found.edge.completions.create(**asked))  # its prompt is being fed
            stream = await found.edge.completions.create(**asking(max_tokens=2000, stream=True))
            await anext(aiter(stream))
            await until(lambda: found.server.scheduler.texts == 2)
            await found.kill()
            async with asyncio.timeout(60):
                with pytest.raises(openai.APIError, match="no more is written here; go on elsewhere, or here later"):
                    async for _ in stream:
                        pass
                with pytest.raises(openai.InternalServerError, match="no more is written here") as refused:
                    await waiting
                assert refused.value.status_code == 503
                with pytest.raises(openai.InternalServerError):
                    await found.edge.completions.create(**asking())

    run(main)


def test_a_client_that_goes_away_before_it_has_asked_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with place(table(1)) as found:
            for client in (found.device, found.edge):
                _, writer = await asyncio.open_connection(HOST, client.base_url.port)
                head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {client.api_key}\r\n"
                writer.write(f"{head}Content-Length: 99\r\n\r\n{{".encode())
                await writer.drain()
                await asyncio.sleep(0.1)
                writer.close()
                await writer.wait_closed()
            await asyncio.sleep(0.1)

    run(main)
    assert not caplog.records


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airdraft.api.http.BODY_S", 0.2)

    async def main() -> None:
        async with place(table(1)) as found:
            reader, writer = await asyncio.open_connection(HOST, found.edge.base_url.port)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
            answer = await reader.readuntil(b"}}")
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"the body did not arrive within 0.2 s; send less, or faster" in answer
            writer.close()
            await writer.wait_closed()

    run(main)


def test_what_the_draft_alone_writes_is_marked_and_corrected() -> None:
    target = table(1)

    async def main() -> None:
        async with place(target, offline="draft") as found:
            stream = await found.device.completions.create(**asking(max_tokens=200, stream=True))
            chunks = []
            away = False
            async for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == 20:
                    port = found.server.port
                    await found.kill()
                    away = True
                if away and sum(map(is_unverified, chunks)) >= 10:
                    away = False
                    found.server = EdgeServer(engine(target), TOKENIZER.digest, VOCAB)
                    await found.server.start(HOST, port)
            assert corrected(chunks) == truth(target, 1, 200)
            assert "".join(chunk.choices[0].text for chunk in chunks) != truth(target, 1, 200)
            assert chunks[-1].choices[0].model_extra["airdraft"]["unverified_tokens"] == 0
            # A text that is whole was corrected before it is seen.
            whole = await found.device.completions.create(**asking(max_tokens=50))
            assert whole.choices[0].text == truth(target, 1, 50)

    run(main)


def test_without_an_edge_a_text_of_the_draft_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ALONE_S", 0.3)
    draft = table(5)

    async def main() -> None:
        async with place(table(1), draft, offline="draft") as found:
            await found.kill()
            whole = await found.device.completions.create(**asking(max_tokens=30))
            choice = whole.choices[0]
            assert (choice.text, choice.finish_reason) == (truth(draft, 1, 30), "length")
            assert (choice.model_extra["airdraft"]["unverified_tokens"], whole.usage.completion_tokens) == (30, 30)
            stop = choice.text[40:45]
            chunks = [each async for each in await found.device.completions.create(**asking(stop=stop, stream=True))]
            assert corrected(chunks) == choice.text[: choice.text.find(stop)]
            assert chunks[-1].choices[0].finish_reason == "stop"
            assert chunks[-1].choices[0].model_extra["airdraft"]["unverified_tokens"] > 0

    run(main)


def test_an_edge_that_is_away_is_an_error_where_that_is_asked_for() -> None:
    async def main() -> None:
        async with place(table(1), offline="error") as found:
            stream = await found.device.completions.create(**asking(max_tokens=1000, stream=True))
            await anext(aiter(stream))
            await found.kill()
            with pytest.raises(openai.APIError, match="no edge answers") as caught:
                [chunk async for chunk in stream]
            assert caught.value.code == "edge_unreachable"
            with pytest.raises(openai.InternalServerError, match="no edge answers") as answered:
                await found.device.completions.create(**asking())
            assert (answered.value.status_code, answered.value.response.headers["retry-after"]) == (503, "1")

    run(main)


def test_keys(tmp_path: Any) -> None:
    (tmp_path / "tokens").write_text(BEARER)

    async def main() -> None:
        service = Service(access=Access(tmp_path / "tokens"))
        async with place(table(1), service=service, key="the key") as found:
            for client in (found.device, found.edge):
                assert (await client.completions.create(**asking(max_tokens=3))).usage.completion_tokens == 3
                for wrong in ("wrong", "the"):
                    stranger = client.with_options(api_key=wrong)
                    for ask in (stranger.models.list(), stranger.completions.create(**asking())):
                        with pytest.raises(openai.AuthenticationError) as caught:
                            await ask
                        assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")

    run(main)


def test_an_edge_without_room_says_when_to_try_again() -> None:
    async def main() -> None:
        async with place(table(1, seconds=0.01), capacity=Capacity(texts=1)) as found:
            stream = await found.edge.completions.create(**asking(max_tokens=500, stream=True))
            await anext(aiter(stream))
            with pytest.raises(openai.InternalServerError, match="at once already") as caught:
                await found.edge.completions.create(**asking())
            assert (caught.value.status_code, caught.value.code) == (503, "busy")
            await stream.close()

    run(main)


def test_quotas_of_an_edge_hold_for_the_api(tmp_path: Any) -> None:
    quotas = f'[[token]]\nname = "a"\ntoken = "{BEARER}"\nsessions = 1\ncontext = 40\ntokens_per_s = 100.0\n'
    (tmp_path / "tokens.toml").write_text(quotas)

    async def main() -> None:
        service = Service(access=Access(tmp_path / "tokens.toml"))
        async with place(table(1), service=service) as found:
            with pytest.raises(openai.RateLimitError, match="texts of this token are open"):
                await found.edge.completions.create(**asking(n=2))
            whole = await found.edge.completions.create(**asking())
            assert whole.usage.total_tokens == 40
            assert whole.choices[0].text == truth(table(1), 1, whole.usage.completion_tokens)
            with pytest.raises(openai.BadRequestError, match="the context of"):
                await found.edge.completions.create(**asking(prompt="x " * 50))

    run(main)


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (Exactness(0.25, 0.0, None), {"batch": 0.25, "width": "exact", "company": None, "prompts": "exact"}),
        (Exactness(0.0, 0.0, 0.0, 0.5), {"batch": "exact", "width": "exact", "company": "exact", "prompts": 0.5}),
        (Exactness(), {"batch": None, "width": None, "company": None, "prompts": "exact"}),
        (Exactness(0.0, 0.0, 0.0), {"batch": "exact", "width": "exact", "company": "exact", "prompts": "exact"}),
    ],
)
def test_what_the_targets_rows_depend_on_is_told_at_both_ends(known: Exactness, told: dict[str, Any]) -> None:
    async def main() -> None:
        async with place(table(1), exactness=known) as found:
            await found.writer.connect()
            for client in (found.device, found.edge):
                listed = (await client.models.list()).data[0]
                one = await client.models.retrieve("table")
                assert listed.model_extra is not None
                assert listed.model_extra["exactness"] == told
                assert one == listed

    run(main)


def test_every_answer_says_what_its_edge_was_told_to_lose() -> None:
    async def losses(client: openai.AsyncOpenAI) -> list[Any]:
        whole = await client.completions.create(**asking(n=2))
        chunks = [chunk async for chunk in await client.completions.create(**asking(stream=True))]
        told: list[Any] = [choice.model_extra["airdraft"] for choice in whole.choices]  # type: ignore[index]
        told.append(chunks[-1].choices[0].model_extra["airdraft"])  # type: ignore[index]
        return [each.get("losses") for each in told]

    async def main() -> None:
        for known, told in ((Exactness(prompts=0.25), {"prompts": 0.25}), (Exactness(), None)):
            async with place(table(1), exactness=known) as found:
                for client in (found.device, found.edge):  # the device connects for the first text
                    assert await losses(client) == [told] * 3

    run(main)


def test_nothing_is_told_of_an_edge_that_has_not_answered() -> None:
    async def main() -> None:
        async with place(table(1)) as found:
            listed = (await found.device.models.list()).data[0]
            assert "exactness" not in (listed.model_extra or {})

    run(main)


def test_an_engine_that_tells_little_names_the_field_that_asks_for_more() -> None:
    async def main() -> None:
        async with place(table(1), engine_top_k=20) as found:
            for client in (found.device, found.edge):
                with pytest.raises(openai.BadRequestError, match="give top-k 1 to 20, or temperature 0") as caught:
                    await client.completions.create(**asking())
                assert caught.value.param == "top_k"
                few = await client.completions.create(**asking(max_tokens=5, extra_body={"top_k": 20}))
                assert few.usage.completion_tokens == 5

    run(main)


@pytest.mark.parametrize("ids", [False, True])
def test_texts_of_the_edges_api_leave_the_traces_of_a_device_that_keeps_silent(tmp_path: Path, ids: bool) -> None:
    async def main() -> None:
        async with place(table(1), service=Service(traces=Traces(tmp_path, "edge", ids))) as found:
            await found.device.completions.create(**asking(max_tokens=5, extra_body={"scheme": "server"}))
            await until(lambda: len(list(tmp_path.iterdir())) == 1)
            await found.edge.completions.create(**asking(max_tokens=5))

    run(main)
    device, edge = (
        [{name: each for name, each in event.items() if name not in ("t", "at", "began")} for event in read(path)]
        for path in sorted(tmp_path.iterdir())
    )
    assert (edge[0].pop("peer"), edge[0].pop("tenant"), edge[0].pop("session")) == ("the API", "anybody", 0)
    assert {"peer", "tenant", "session"} < set(device[0])
    assert edge[0].items() <= device[0].items()
    assert edge[1:] == device[1:]
    told = [token for event in edge for token in event.get("ids", [])]
    prompt = TOKENIZER.encode(PROMPT)
    assert TOKENIZER.decode(told[len(prompt) :]) == (truth(table(1), 1, 5) if ids else "")


def test_traces_and_metrics_tell_how_a_text_of_the_edges_api_ended(tmp_path: Path) -> None:
    whole = truth(table(1), 1, 100)

    async def main() -> None:
        def ended(how: str) -> float | None:
            return found.server.metrics.registry.get_sample_value("airdraft_texts_ended_total", {"how": how})

        target = table(1, fault=lambda: ModelError("out of memory"))
        async with place(target, service=Service(traces=Traces(tmp_path, "edge"))) as found:
            ask = found.edge.completions.create
            await ask(**asking(stop=whole[10:20]))
            await until(lambda: ended("finished") == 1)
            stream = await ask(**asking(max_tokens=2000, stream=True))
            await anext(aiter(stream))
            await stream.close()
            await until(lambda: ended("finished") == 2)
            with pytest.raises(openai.InternalServerError):
                await ask(**asking(prompt=[1, 39, 2]))
            assert (ended("finished"), ended("failed"), ended("lost")) == (2, 1, 0)

    run(main)
    stopped, left, failed = (summary(read(path)) for path in sorted(tmp_path.iterdir()))
    assert (stopped["end"], stopped["why"], left["end"], left["why"]) == ("finished", "cancelled") * 2
    assert 0 < stopped["tokens"] < 100
    assert stopped["calls"] == stopped["tokens"] + 1
    assert (failed["end"], failed["why"], failed["tokens"]) == ("failed", "engine", 0)


def test_a_model_that_fails_is_not_the_clients_fault(caplog: pytest.LogCaptureFixture) -> None:
    def fault() -> Exception:
        return ModelError("out of memory")

    async def main() -> None:
        async with place(table(1, fault=fault)) as found:
            prompt = [1, 39, 2]  # which the table takes amiss
            with pytest.raises(openai.InternalServerError, match="out of memory") as caught:
                await found.edge.completions.create(**asking(prompt=prompt))
            assert caught.value.status_code == 502

    run(main)
