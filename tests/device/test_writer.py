"""Texts over edges that die, come back, refuse, are slow or serve another model: real sockets, one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.control.auto import Auto
from airdraft.control.forecast import LinkSample, Outlook
from airdraft.core.edge import Limits
from airdraft.core.request import Request
from airdraft.device import edges as edges_module
from airdraft.device.edges import Away, Closed, Connected, EdgesState
from airdraft.device.writer import Committed, Corrected, Finished, Unverified, Writer, Written
from airdraft.edge.server import Capacity, EdgeServer
from airdraft.errors import BadParameterError, LinkError, ModelError, RefusedError
from airdraft.link.const import ConstLink
from airdraft.link.relay import Relay
from airdraft.models.base import FloatArray, OneByOne

from ..edge.loopback import EOS, FAULT, HOST, TOKENIZER, VOCAB, WARM, Table, engine, request, run, truth, until
from ..suites import examples

EXACT = ("coupled", "stream", "server", "auto")


SERVES = (
    r"^the edge at ws://.* serves table \(context 512, ends at nothing, weights [0-9a-f]{8}\), and the one at ws://.* "
    r"serve[sd] table \(context 512, ends at nothing, weights [0-9a-f]{8}\); name edges with one and the same target$"
)


def slow(*seeds: int) -> Table:
    """A target that takes its time, so that there is a midst of a text, and never ends one."""
    return Table(*(seeds or (1,)), eos_ids=(), seconds=0.002)


class Edge:
    """An edge that can be killed and started again on the same port."""

    def __init__(self, target: Table, capacity: Capacity | None = None, limits: Limits | None = None) -> None:
        self.target = target
        self.port = 0
        self._options = limits, capacity
        self._server: EdgeServer | None = None

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}"

    async def start(self) -> None:
        self._server = EdgeServer(engine(self.target), TOKENIZER, self.target.vocab_size, *self._options)
        await self._server.start(HOST, self.port)
        self.port = self._server.port

    async def kill(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    async def drain(self, seconds: float) -> None:
        server, self._server = self._server, None
        assert server is not None
        await server.drain(seconds)

    async def __aenter__(self) -> Edge:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


def writer(edges: Sequence[Edge | str], draft: Table | None = None, **options: Any) -> Writer:
    urls = [edge if isinstance(edge, str) else edge.url for edge in edges]
    draft = draft or Table(1, 2, eos_ids=())
    return Writer(urls, draft, TOKENIZER, draft.vocab_size, **options)


class Told:
    """A text as a user sees it."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.shown: list[int] = []
        """With what is not verified."""
        self.events: list[Written] = []

    async def write(self, over: Writer, asked: Request) -> list[int]:
        """Follow a text to its end, and check that the events fit together."""
        begin, committed = len(asked.prompt), len(asked.committed)
        async with contextlib.aclosing(over.write(asked)) as events:
            async for event in events:
                assert not any(isinstance(each, Finished) for each in self.events)
                self.events.append(event)
                end = begin + committed + len(self.tokens)
                if isinstance(event, Unverified):
                    assert event.position == begin + committed + len(self.shown)
                    self.shown += event.tokens
                elif isinstance(event, Corrected):
                    assert event.position >= end
                    at = event.position - begin - committed
                    assert self.shown[at:] == list(event.tokens)
                    del self.shown[at:]
                elif isinstance(event, Committed):
                    self.tokens += event.tokens
                    overlap = self.shown[: len(self.tokens)]
                    assert overlap == self.tokens[: len(overlap)]  # or it would have been corrected before
                    self.shown[: len(self.tokens)] = self.tokens
        assert isinstance(self.events[-1], Finished)
        assert self.shown == self.tokens
        return self.tokens

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def later(self, kind: type) -> list[Any]:
        """The same after the first commit, when there has been an edge."""
        first = next(at for at, event in enumerate(self.events) if isinstance(event, Committed))
        return [event for event in self.events[first:] if isinstance(event, kind)]


def asking(scheme: str = "coupled", **options: Any) -> Request:
    """60 tokens at temperature 0.9 unless said otherwise."""
    options = {"max_tokens": 60, **options}
    policy = Auto(VOCAB) if scheme == "auto" else None
    return request("stream" if scheme == "auto" else scheme, WARM, policy=policy, **options)


@contextlib.asynccontextmanager
async def following(over: Writer, *asked: Request) -> AsyncIterator[tuple[list[Told], list[asyncio.Task[list[int]]]]]:
    """Texts on their way."""
    told = [Told() for _ in asked]
    tasks = [asyncio.create_task(each.write(over, one)) for each, one in zip(told, asked, strict=True)]
    try:
        yield told, tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("scheme", EXACT)
def test_an_edge_that_dies_and_comes_back_twice_interrupts_no_text(scheme: str) -> None:
    async def main() -> None:
        target, draft = slow(), Table(1, 2, eos_ids=())
        states: list[EdgesState] = []
        async with Edge(target) as edge, writer([edge], draft, told=states.append) as over:
            asked = [asking(scheme, seed=seed, max_tokens=200) for seed in range(2)]
            async with following(over, *asked) as (told, tasks):
                for length in (8, 30):
                    await until(lambda length=length: all(len(each.tokens) >= length for each in told))  # type: ignore[misc]
                    assert over.edge == edge.url
                    await edge.kill()
                    await until(lambda: over.edge is None and isinstance(over.state, Away))
                    await asyncio.sleep(0.3)
                    await edge.start()
                assert await asyncio.gather(*tasks) == [truth(target, each) for each in asked]
            assert [state for state in states if isinstance(state, Connected)] == [Connected(edge.url)] * 3
            assert str(states[0]) == f"connected to {edge.url}"
            assert str(states[1]).startswith("away: ")
            assert all(each.counts.committed == 200 for each in asked)
            await until(lambda: not draft.caches)
        assert (states[-1], str(over.state)) == (Closed(), "closed")

    run(main)


@pytest.mark.parametrize("scheme", EXACT)
def test_when_one_edge_dies_the_texts_go_on_at_the_other(scheme: str) -> None:
    async def main() -> None:
        target = slow()
        async with Edge(slow()) as first, Edge(target) as second, writer([first, second]) as over:
            asked = [asking(scheme, seed=seed, max_tokens=200) for seed in range(2)]
            async with following(over, *asked) as (told, tasks):
                await until(lambda: all(len(each.tokens) >= 10 for each in told))
                assert over.edge == first.url
                await first.kill()
                assert await asyncio.gather(*tasks) == [truth(target, each) for each in asked]
                assert over.edge == second.url
            assert target.forwards

    run(main)


# Before 3.12, asyncio forgets to close what it accepts while the server closes: the edge's side, not the device's.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@examples(8)
@given(
    kills=st.lists(st.floats(0, 0.06), max_size=4),
    scheme=st.sampled_from([*EXACT, "dense", "topk", "split"]),
    offline=st.sampled_from(["stall", "draft"]),
)
def test_whenever_edges_die_nothing_is_lost_and_nothing_comes_twice(
    kills: list[float], scheme: str, offline: str
) -> None:
    async def main() -> None:
        targets = [Table(1, eos_ids=(), seconds=0.001) for _ in range(2)]
        asked = asking(scheme, max_tokens=25)
        async with (
            Edge(targets[0]) as first, Edge(targets[1]) as second,
            writer([first, second], offline=offline) as over, following(over, asked) as (_, tasks),
        ):  # fmt: skip
            for at, pause_s in enumerate(kills):
                await asyncio.sleep(pause_s)
                edge = (first, second)[at % 2]
                await edge.kill()
                await edge.start()
            text = await tasks[0]
        assert len(text) == 25
        assert asked.counts.committed == 25
        if scheme in EXACT:
            assert text == truth(targets[0], asked)

    run(main)


def test_a_text_of_any_scheme_that_was_begun_elsewhere_comes_to_its_end() -> None:
    async def main() -> None:
        target = Table(1)
        async with Edge(target) as edge, writer([edge]) as over:
            whole = asking(max_tokens=30)
            tokens = truth(target, whole)
            for cut in range(len(tokens) + 1):
                told = Told()
                rest = await told.write(over, replace(whole, committed=tokens[:cut]))
                assert tokens[:cut] + rest == tokens
                reason = "stop" if tokens[-1] == EOS else "length"
                assert told.events[-1].reason == reason  # type: ignore[union-attr]

    run(main)


def test_an_edge_with_other_weights_under_the_same_name_is_refused() -> None:
    async def main() -> None:
        other = slow(3)
        async with Edge(slow()) as first, Edge(other) as second, writer([first, second]) as over:
            asked = asking()
            async with following(over, asked) as (told, tasks):
                await until(lambda: len(told[0].tokens) > 5)
                await first.kill()
                with pytest.raises(RefusedError, match=SERVES) as refused:
                    await tasks[0]
            assert refused.value.code == "model"
            assert told[0].tokens == truth(slow(), asked)[: len(told[0].tokens)]
            assert not other.forwards

    run(main)


def test_equal_weights_under_another_name_take_over() -> None:
    async def main() -> None:
        other = slow()
        other.name = "another"
        async with Edge(slow()) as first, Edge(other) as second, writer([first, second]) as over:
            asked = asking()
            async with following(over, asked) as (told, tasks):
                await until(lambda: len(told[0].tokens) > 5)
                await first.kill()
                await tasks[0]
            assert told[0].tokens == truth(slow(), asked)
            assert other.forwards

    run(main)


def test_an_edge_that_does_not_tell_its_weights_gets_whole_texts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "engine", OneByOne)

    async def main() -> None:
        async with Edge(slow()) as edge, writer([edge]) as over:
            asked = asking()
            async with following(over, asked) as ((told,), (task,)):
                await until(lambda: len(told.tokens) > 5)
                await edge.kill()
                await edge.start()
                with pytest.raises(RefusedError, match="of weights that it does not tell"):
                    await task
            assert await Told().write(over, asking(max_tokens=5)) == truth(slow(), asking(max_tokens=5))

    run(main)


def test_an_edge_started_again_with_another_model_gets_new_texts_only() -> None:
    async def main() -> None:
        other = slow(3)
        async with Edge(slow()) as edge, writer([edge]) as over:
            await Told().write(over, asking(max_tokens=3))
            await edge.kill()
            edge.target = other
            await edge.start()
            asked = asking(max_tokens=5)
            assert await Told().write(over, asked) == truth(other, asked)

    run(main)


def test_an_edge_started_again_with_another_model_gets_no_text_in_its_midst() -> None:
    async def main() -> None:
        other = slow(3)
        async with Edge(slow()) as edge, writer([edge]) as over:
            asked = asking(max_tokens=400)
            async with following(over, asked) as ((told,), (task,)):
                await until(lambda: len(told.tokens) > 20)
                await edge.kill()
                edge.target = other
                await edge.start()
                with pytest.raises(RefusedError, match=SERVES):
                    await task
                assert told.tokens == truth(slow(), asked)[: len(told.tokens)]
            assert not other.forwards
            asked = asking(max_tokens=5)
            assert await Told().write(over, asked) == truth(other, asked)

    run(main)


def test_patience_is_for_times_without_an_edge() -> None:
    class Reading(Table):
        reads = False

        def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
            if keep == 0:
                self.reads = True
                time.sleep(2.0)
            return super().forward(cache, keep, tokens, rows)

    async def main() -> None:
        target = Reading(1, eos_ids=())
        async with Edge(target) as edge, writer([edge], give_up_s=1.5) as over:
            asked = asking(max_tokens=5)
            async with following(over, asked) as (_, (task,)):
                await until(lambda: target.reads)  # the prompt, for longer than anybody would wait in vain
                await asyncio.sleep(1.7)
                connection = over._edges._live
                assert connection is not None
                connection._socket.transport.abort()
                assert await task == truth(target, asked)

    run(main)


def test_a_guess_that_is_complete_says_so_whenever_there_is_no_edge() -> None:
    async def main() -> None:
        target = Table(1, eos_ids=(), seconds=0.01)
        draft = Table(1, eos_ids=())
        async with Edge(target) as edge, writer([edge], draft, offline="draft") as over:
            await edge.kill()
            asked = asking(max_tokens=100, draft_length=1)

            def ends(told: Told) -> list[str | None]:
                return [each.ended for each in told.of(Unverified) if each.ended]

            async with following(over, asked) as ((told,), (task,)):
                await until(lambda: ends(told))
                assert len(told.shown) == 100
                await edge.start()
                await until(lambda: told.tokens)
                await edge.kill()
                await until(lambda: len(ends(told)) == 2)
                assert 0 < len(told.tokens) < 100
                await edge.start()
                assert await task == truth(target, asked)
            assert set(ends(told)) == {"length"}

    run(main)


def test_closing_does_not_wait_for_who_does_not_answer() -> None:
    async def mute(reader: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        await reader.read()
        writing.close()

    async def main() -> None:
        async with await asyncio.start_server(mute, HOST, 0) as server:
            url = f"ws://{HOST}:{server.sockets[0].getsockname()[1]}"
            async with writer([url, url.replace(HOST, "localhost")]) as over, following(over, asking()) as (_, (task,)):
                await asyncio.sleep(0.2)
                began = perf_counter()
                await over.close()
                assert perf_counter() - began < 9  # a handshake alone may take ten
                with pytest.raises(LinkError, match="closed"):
                    await task

    run(main)


def test_a_vocabulary_that_is_refused_is_refused_at_once() -> None:
    async def main() -> None:
        async with Edge(slow()) as edge, writer([edge], Table(1, vocab_size=VOCAB + 1)) as over:
            for _ in range(2):
                with pytest.raises(RefusedError, match="pick a draft"):
                    await Told().write(over, asking())

    run(main)


@pytest.mark.parametrize("asked", [asking(max_tokens=0), asking(prompt=()), asking(seed=-1)])
def test_a_request_that_cannot_be_served_is_refused_at_once(asked: Request) -> None:
    async def main() -> None:
        async with Edge(slow()) as edge, writer([edge]) as over:
            with pytest.raises(BadParameterError):
                await Told().write(over, asked)

    run(main)


def test_an_error_where_an_error_is_asked_for() -> None:
    async def main() -> None:
        async with Edge(slow()) as edge, writer([edge], offline="error") as over:
            asked = asking()
            async with following(over, asked) as (told, tasks):
                await until(lambda: len(told[0].tokens) > 5)
                began = perf_counter()
                await edge.kill()
                with pytest.raises(LinkError, match="no edge answers"):
                    await tasks[0]
                assert perf_counter() - began < 10
            with pytest.raises(LinkError, match="no edge answers"):
                await Told().write(over, asked)
            await edge.start()
            assert await Told().write(over, asked) == truth(slow(), asked)

    run(main)


def test_patience_ends_with_what_was_wrong() -> None:
    async def main() -> None:
        async with (
            Edge(slow()) as edge, writer([edge], give_up_s=0.5) as over,
            following(over, asking(), asking(seed=1)) as (told, tasks),
        ):  # fmt: skip
            await until(lambda: all(len(each.tokens) > 5 for each in told))
            began = perf_counter()
            await edge.kill()
            for task in tasks:
                with pytest.raises(LinkError, match=r"after 0.5 s without an edge \(away: .*text so far stands"):
                    await task
            assert 0.4 < perf_counter() - began < 20

    run(main)


def test_the_first_connection_says_what_is_wrong() -> None:
    async def main() -> None:
        async with Edge(slow()) as edge:
            pass
        async with writer([edge]) as over:
            with pytest.raises(LinkError, match="no edge answers"):
                await over.connect()
        async with writer([edge, f"ws://{HOST}:9"]) as over:
            with pytest.raises(LinkError, match=f"{edge.port}.*; no edge answers at ws://{HOST}:9"):
                await over.connect()

    run(main)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"edges": ()}, "no edge is named"),
        ({"edges": ("nonsense",)}, "is no address"),
        ({"offline": "maybe"}, "choose one of stall, draft, error"),
        ({"give_up_s": 0}, "give-up is 0 s"),
    ],
)
def test_what_makes_no_writer(options: dict[str, Any], words: str) -> None:
    arguments = {"edges": (f"ws://{HOST}:9",), **options}
    with pytest.raises((BadParameterError, LinkError), match=words):
        writer(**arguments)


def test_alone_the_draft_model_writes_on_and_is_confirmed_or_corrected() -> None:
    async def main() -> None:
        for draft, agrees in (
            (Table(1, eos_ids=(), seconds=0.001), True),
            (Table(9, eos_ids=(), seconds=0.001), False),
        ):
            target = slow()
            async with Edge(target) as edge, writer([edge], draft, offline="draft") as over:
                asked = asking(max_tokens=80)
                async with following(over, asked) as (told, tasks):
                    await until(lambda told=told: len(told[0].tokens) > 5)  # type: ignore[misc]
                    before = len(told[0].of(Unverified))
                    await edge.kill()
                    await until(lambda told=told, before=before: len(told[0].of(Unverified)) > before + 10)  # type: ignore[misc]
                    assert len(told[0].tokens) < len(told[0].shown)
                    if agrees:
                        assert told[0].shown == truth(target, asked)[: len(told[0].shown)]
                    await edge.start()
                    assert await tasks[0] == truth(target, asked)
                assert bool(told[0].of(Corrected)) != agrees
                await until(lambda draft=draft: not draft.caches)  # type: ignore[misc]

    run(main)


class Down:
    """A forecaster that takes the link to be down for ever."""

    def see(self, sample: LinkSample) -> None:
        """See `Forecaster.see`."""

    def forecast(self) -> list[Outlook]:
        """See `Forecaster.forecast`."""
        return [Outlook(0.05, (), (), 1.0)]


@pytest.mark.parametrize(("number", "agrees"), [(1, True), (9, False)])
def test_while_a_link_is_taken_to_be_down_the_draft_model_is_shown(number: int, agrees: bool) -> None:
    async def main() -> None:
        draft, target = Table(number, eos_ids=(), seconds=0.001), Table(1, eos_ids=(), seconds=0.15)
        asked = asking("stream", max_tokens=8)
        async with Edge(target) as edge:
            async with writer([edge], draft, offline="draft", forecast=Down) as over:
                told = Told()
                assert await told.write(over, asked) == truth(target, asked)
                assert told.later(Unverified)
                assert bool(told.of(Corrected)) != agrees
            async with writer([edge], draft, offline="draft") as over, following(over, asked) as (plain, tasks):
                assert await tasks[0] == truth(target, asked)
                assert not plain[0].later(Unverified)
            async with writer([edge], draft, forecast=Down) as over, following(over, asked) as (plain, tasks):
                assert await tasks[0] == truth(target, asked)
                assert not plain[0].later(Unverified)

    run(main)


def test_a_link_that_is_cut_where_it_was_taken_to_be_down() -> None:
    async def main() -> None:
        draft, target = Table(9, eos_ids=(), seconds=0.001), Table(1, eos_ids=(), seconds=0.1)
        asked = asking("stream", max_tokens=12)
        async with Edge(target) as edge, writer([edge], draft, offline="draft", forecast=Down) as over:
            async with following(over, asked) as (told, tasks):
                await until(lambda: len(told[0].tokens) > 2 and bool(told[0].later(Unverified)))
                await edge.kill()
                await edge.start()
                assert await tasks[0] == truth(target, asked)
            async with following(over, asked) as (told, tasks):
                await until(lambda: bool(told[0].of(Unverified)))
                tasks[0].cancel()
                await asyncio.gather(tasks[0], return_exceptions=True)
            await until(lambda: not draft.caches)

    run(main)


def test_alone_from_the_start_to_the_end_of_a_text() -> None:
    async def main() -> None:
        draft = Table(1, 2, eos_ids=(), max_context=40)
        async with Edge(slow()) as edge:
            pass
        async with writer([edge], draft, offline="draft", give_up_s=20) as over:
            short, long = asking(max_tokens=20), asking(max_tokens=60)
            async with following(over, short, long) as (told, tasks):
                await until(lambda: len(told[0].shown) == 20 and len(told[1].shown) == 37)
                await asyncio.sleep(0.1)
                assert (told[0].shown, told[1].shown) == (truth(draft, short), truth(draft, long))
                assert not any(each.tokens for each in told)
                await edge.start()
                assert await asyncio.gather(*tasks) == [truth(slow(), each) for each in (short, long)]
                await edge.kill()

    run(main)


def test_a_text_that_ends_before_what_was_shown_takes_the_rest_back() -> None:
    async def main() -> None:
        target = Table(1)
        asked = next(
            each for each in (asking(seed=seed) for seed in range(99)) if 3 < len(truth(target, each)) < 20
        )  # ends with an end token
        async with Edge(target) as edge:
            pass
        async with (
            writer([edge], Table(1, eos_ids=()), offline="draft") as over,
            following(over, asked) as (told, tasks),
        ):
            await until(lambda: len(told[0].shown) == 60)
            await edge.start()
            tokens = await tasks[0]
            assert tokens == truth(target, asked)
            assert [each.position for each in told[0].of(Corrected)] == [len(asked.prompt) + len(tokens)]
            await edge.kill()

    run(main)


@pytest.mark.parametrize("offline", ["stall", "draft"])
def test_cancelled_while_away(offline: str) -> None:
    async def main() -> None:
        draft = Table(1, 2, eos_ids=(), seconds=0.001)
        target = slow()
        async with Edge(target) as edge, writer([edge], draft, offline=offline) as over:
            asked = [asking(seed=seed) for seed in range(3)]
            async with following(over, *asked) as (told, tasks):
                await until(lambda: all(len(each.tokens) > 5 for each in told))
                await edge.kill()
                await asyncio.sleep(0.1)
                for task in tasks[:2]:  # one of them may be the one that dials
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                await edge.start()
                assert await tasks[2] == truth(target, asked[2])
            await until(lambda: not draft.caches)

    run(main)


@pytest.mark.parametrize("offline", ["stall", "draft"])
@pytest.mark.parametrize("away", [True, False])
def test_closing_amid_texts_ends_them(offline: str, away: bool) -> None:
    async def main() -> None:
        async with (
            Edge(slow()) as edge, writer([edge], offline=offline) as over,
            following(over, asking(max_tokens=400), asking(max_tokens=400)) as (told, tasks),
        ):  # fmt: skip
            await until(lambda: all(len(each.tokens) > 5 for each in told))
            if away:
                await edge.kill()
                await asyncio.sleep(0.1)
            await over.close()
            for task in tasks:
                with pytest.raises(LinkError, match="was closed"):
                    await task

    run(main)


def test_a_full_edge_is_waited_for_and_another_is_gone_to() -> None:
    async def main() -> None:
        one = Capacity(texts=1)
        async with Edge(slow(), one) as edge, writer([edge]) as over:
            asked = [asking(max_tokens=20, seed=seed) for seed in range(2)]
            async with following(over, *asked) as (_, tasks):
                assert await asyncio.gather(*tasks) == [truth(slow(), each) for each in asked]
        async with (
            Edge(Table(1, eos_ids=(), seconds=0.02), one) as full, Edge(slow()) as free,
            writer([full]) as theirs, writer([full, free]) as ours,
            following(theirs, asking(max_tokens=400)) as (told, _),
        ):  # fmt: skip
            await until(lambda: told[0].tokens)
            assert await Told().write(ours, asked[0]) == truth(slow(), asked[0])
            assert ours.edge == free.url

    run(main)


def test_a_target_that_fails_is_tried_elsewhere_and_then_given_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(100)

    async def main() -> None:
        broken = Table(1, eos_ids=(), fault=lambda: ModelError("the target is broken"))
        asked = asking(prompt=(1, FAULT, 2))
        async with Edge(broken) as first, Edge(slow()) as second:
            async with writer([first, second]) as over:
                assert await Told().write(over, asked) == truth(slow(), asked)
            async with writer([first]) as over:
                with pytest.raises(RefusedError, match="the target is broken"):
                    await Told().write(over, asked)

    run(main)


def test_a_draft_model_that_fails_is_no_matter_of_the_link(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(100)

    async def main() -> None:
        draft = Table(1, fault=lambda: ModelError("the draft is broken"))
        async with Edge(slow()) as edge, writer([edge], draft) as over:
            with pytest.raises(ModelError, match="the draft is broken"):
                await Told().write(over, asking(prompt=(1, FAULT)))
        async with writer([edge], draft, offline="draft") as over:
            with pytest.raises(ModelError, match="the draft is broken"):
                await Told().write(over, asking(prompt=(1, FAULT)))

    run(main)


async def _far(edge: Edge, rtt_s: float) -> Relay:
    return await Relay.start(ConstLink(1e9, 1e9, rtt_s), HOST, 0, HOST, edge.port)


def test_texts_move_to_an_edge_that_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges_module, "WATCH_S", 0.05)

    async def main() -> None:
        target = Table(1, eos_ids=(), seconds=0.005)
        async with Edge(target) as first, Edge(target) as second, await _far(first, 0.06) as relay:
            states: list[EdgesState] = []
            far = f"ws://{HOST}:{relay.port}"
            async with writer([far, second], told=states.append) as over:
                asked = [asking("stream", seed=seed, max_tokens=100) for seed in range(2)]
                while over.edge != second.url:
                    async with following(over, *asked) as (_, tasks):
                        assert await asyncio.gather(*tasks) == [truth(target, each) for each in asked]
                    asked = [replace(each, seed=each.seed + 2) for each in asked]
                assert states[:2] == [Connected(far), Connected(second.url)]

    run(main)


def test_texts_stay_where_another_edge_is_hardly_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges_module, "WATCH_S", 0.02)

    async def main() -> None:
        async with (
            Edge(slow()) as first, Edge(slow()) as second,
            await _far(first, 0.25) as far, await _far(second, 0.22) as near,
        ):  # fmt: skip
            urls = [f"ws://{HOST}:{relay.port}" for relay in (far, near)]
            async with writer(urls) as over:
                for seed in range(3):
                    await Told().write(over, asking("server", max_tokens=30, seed=seed))
                assert over.edge == urls[0]

    run(main)


class Swallowing:
    """A way to an edge that, from some moment on, takes everything and delivers nothing, as a radio that is gone."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._server: asyncio.Server | None = None
        self._passing: list[asyncio.Event] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    def swallow(self) -> None:
        """Whatever is connected now. New connections pass."""
        for passing in self._passing:
            passing.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HOST, self._edge.port)
        passing = asyncio.Event()
        passing.set()
        self._passing.append(passing)

        async def one_way(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                if passing.is_set():
                    sink.write(data)
            sink.close()

        await asyncio.gather(one_way(reader, back), one_way(there, writer), return_exceptions=True)
        for each in (back, writer):
            each.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aenter__(self) -> Swallowing:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._tasks)


def test_a_link_that_dies_without_a_word() -> None:
    async def main() -> None:
        target = slow()
        async with (
            Edge(target, limits=Limits(heartbeat_s=0.15)) as edge, Swallowing(edge) as way, writer([way.url]) as over,
        ):  # fmt: skip
            asked = [asking(scheme, seed=1, max_tokens=200) for scheme in EXACT]
            async with following(over, *asked) as (told, tasks):
                await until(lambda: all(len(each.tokens) > 5 for each in told))
                assert not all(task.done() for task in tasks)
                way.swallow()
                assert await asyncio.gather(*tasks) == [truth(target, each) for each in asked]

    run(main)


def test_an_edge_that_drains_sends_texts_to_the_other() -> None:
    async def main() -> None:
        target = slow()
        async with Edge(target) as first, Edge(target) as second, writer([first, second]) as over:
            asked = [asking(seed=seed, max_tokens=40) for seed in range(3)]
            async with following(over, *asked[:2]) as (told, tasks):
                await until(lambda: all(len(each.tokens) > 3 for each in told))
                draining = asyncio.create_task(first.drain(0.05))
                await asyncio.sleep(0)
                tasks.append(asyncio.create_task(Told().write(over, asked[2])))
                assert await asyncio.gather(*tasks) == [truth(target, each) for each in asked]
                await draining
            assert over.edge == second.url

    run(main)
