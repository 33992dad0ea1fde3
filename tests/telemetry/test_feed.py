"""The feed of a page: bounded for who does not read, free without a reader, and silent about other tenants."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from airdraft.core.events import Begun, Committed, Finished, Forward, Progress, Taken
from airdraft.errors import RefusedError
from airdraft.telemetry.chances import Chances
from airdraft.telemetry.feed import LABEL, MOST_READERS, MOST_WAITING, Feed
from airdraft.telemetry.trace import Traces
from airdraft.telemetry.winners import winners


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(part[6:]) for part in data.decode().split("\n\n") if part.startswith("data: ")]


async def heard(feed: Feed, owner: str, tell: Any) -> list[dict[str, Any]]:
    """What a reader hears of what is told once it reads."""
    reading = feed.read(owner)
    await anext(reading)
    tell()
    found = events(await anext(reading))
    await reading.aclose()
    return found


class Letters:
    def push(self, token: int) -> str:
        return chr(token)


def written(traces: Traces, private: int | None = None, **about: Any) -> None:
    """One text of two tokens."""
    trace = traces.open(Begun(1, 2, 2, 9, "stream", private), 0.0, **about)
    trace.event(Taken(1, 2), 0.0, [104, 105])
    trace.call(0.1, 0.05, 7, 12)
    trace.event(Committed(1, (33, 34), 1, "recovered"), 0.2, [104, 105, 33, 34])
    trace.event(Finished(1, "stop"), 0.3)


def test_a_reader_hears_what_a_trace_says_and_what_was_written() -> None:
    feed = Feed(Letters)
    LABEL.set("mine")
    found = asyncio.run(heard(feed, "", lambda: written(Traces(None, "device", feed=feed))))
    assert [each["event"] for each in found] == ["opened", "ready", "call", "committed", "finished"]
    assert {each["text"] for each in found} == {"mine"}
    assert (found[1]["pieces"], found[3]["pieces"], found[3]["by"]) == (["h", "i"], ["!", '"'], ["model", "recovered"])


def test_words_stay_away_where_nobody_may_read_them_or_a_part_is_private() -> None:
    for feed, private in ((Feed(None), None), (Feed(Letters), 1)):
        traces = Traces(None, "device", feed=feed)
        found = asyncio.run(heard(feed, "", lambda traces=traces, private=private: written(traces, private)))
        assert len(found) == 5
        assert not any({"pieces", "ids"} & set(each) for each in found)


def test_a_tenant_hears_nothing_of_another() -> None:
    feed = Feed(Letters, lambda: {"waiting_forwards": 3}, shared=True)
    traces = Traces(None, "edge", feed=feed)

    def tell() -> None:
        written(traces, tenant="other", peer="10.0.0.9")
        written(traces, tenant="phone")

    found = asyncio.run(heard(feed, "phone", tell))
    assert [each["event"] for each in found] == ["opened", "ready", "call", "committed", "finished"]
    assert found[0]["tenant"] == "phone"
    assert not {"texts", "tokens"} & set(found[2])  # how many others share a call is theirs


def test_who_does_not_read_costs_a_bounded_queue_and_is_told_what_it_missed() -> None:
    async def main() -> None:
        feed = Feed()
        reading = feed.read("")
        await anext(reading)
        for at in range(MOST_WAITING + 10):
            feed.publish("", {"text": "x", "event": "draft", "t": at})
        found = events(await anext(reading))
        assert len(found) == MOST_WAITING + 1
        assert found[-1] == {"event": "missed", "count": 10}
        await reading.aclose()
        assert not feed.wanted

    asyncio.run(main())


def test_who_comes_late_hears_which_texts_are_open_and_pages_are_counted() -> None:
    async def main() -> None:
        feed = Feed()
        feed.publish("", {"text": "old", "event": "opened"})
        feed.publish("", {"text": "over", "event": "opened"})
        feed.publish("", {"text": "over", "event": "lost"})
        readers = [feed.read("") for _ in range(MOST_READERS)]
        for each in readers:
            await anext(each)
        assert events(await anext(readers[0])) == [{"text": "old", "event": "opened"}]
        with pytest.raises(RefusedError, match="close one of them"):
            await anext(feed.read(""))
        for each in readers:
            await each.aclose()

    asyncio.run(main())


def test_chances_are_those_of_the_row_that_drafted_the_token_and_of_no_dead_branch() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    chances = Chances()
    chances.rows(Forward(1, 0, (0, 1), 2), logits)  # after 0 and after 0 1
    assert chances.of(1, [1, 2], [0, 1, 2]) == [0.25, 0.7]
    chances.rows(Forward(1, 0, (0, 1), 2), logits)
    assert chances.of(2, [2], [0, 2, 2]) == [None]  # the text went another way before it
    chances.rows(Forward(1, 2, (2,), 1), logits[:1])
    assert chances.of(3, [0], [0, 1, 2, 0]) == [0.5]
    chances.rows(Forward(1, 3, (0, 1), 2, parents=(-1, -1)), logits)  # a tree
    assert chances.of(4, [0, 1], [0, 1, 2, 0, 0, 1]) == [None, None]


def test_an_edge_names_its_proposers() -> None:
    assert winners(Progress(1, 3, 2, 3, 2, raced=False, proposer="lookup", proposed=4, taken=2)) == [
        "device", "device", "lookup", "lookup", "bonus",
    ]  # fmt: skip
    assert winners(Progress(1, 3, 0, 1, 2, raced=False)) == ["recovered"]
    assert winners(Progress(1, 3, 0, 1, 0, raced=True)) == ["raced"]
    assert winners(Committed(1, (5, 6, 7, 8), 2, "bonus", copied=frozenset({1}))) == ["model", "copy", "edge", "bonus"]
