"""The scheduler: batches of what is ready, prompts in pieces, turns that are fair, memory that is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.events import Forward
from airdraft.errors import AirdraftError, ModelError, RefusedError
from airdraft.models.base import EngineInfo, FloatArray, Part
from airdraft.models.steady import Banded
from airdraft.scheduler import Owner, Scheduler, Sequenced
from airdraft.scheduler.beside import BRIEF_S
from airdraft.scheduler.loop import SHORT_S, SHORT_TOKENS
from airdraft.scheduler.turns import PIECE, REST_S

from ..suites import examples

FAULT = 7777


def contents(tokens: Sequence[int]) -> FloatArray:
    """Two numbers that tell a sequence from others: its length, and a sum that knows the order."""
    return np.array([len(tokens), sum(at * token for at, token in enumerate(tokens, 1))], np.float32)


class Cache(list[int]):
    """A cache that can be watched."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    @property
    def length(self) -> int:
        return len(self)


class Noting:
    """An engine whose caches are lists of what was fed, whose rows say what is in them, and that notes its calls."""

    def __init__(self, max_batch: int = 8, max_calls: int = 1, max_caches: int | None = None) -> None:
        self.info = EngineInfo("noting", 2, 10_000, max_batch=max_batch, max_calls=max_calls, max_caches=max_caches)
        self.calls: list[list[int]] = []
        """Lengths of the parts of each."""
        self.fed: list[list[int]] = []
        """Tokens of each part, in the order of the calls."""
        self.threads: list[threading.Thread] = []
        self.caches: weakref.WeakSet[Cache] = weakref.WeakSet()
        self.most = 0
        """Caches that were alive at once."""
        self.gate = threading.Semaphore(0)
        """What a call waits for, if `gated`."""
        self.gated = False

    def new_cache(self) -> Cache:
        cache = Cache()
        self.caches.add(cache)
        self.most = max(self.most, len(self.caches))
        return cache

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        self.threads.append(threading.current_thread())
        self.calls.append([len(part.tokens) for part in batch])
        if self.gated:
            self.gate.acquire()
        found: list[FloatArray | AirdraftError] = []
        for part in batch:
            if FAULT in part.tokens:
                found.append(ModelError("a fault"))
                continue
            assert 0 <= part.keep <= len(part.cache)
            part.cache[part.keep :] = part.tokens
            self.fed.append(list(part.tokens))
            found.append(np.tile(contents(part.cache), (part.rows, 1)))
        return found


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(100):
            await main()

    asyncio.run(bounded())


def forward(keep: int, tokens: Sequence[int], rows: int, spare: bool = False) -> Callable[[], Forward]:
    return lambda: Forward(1, keep, tuple(tokens), rows, spare)


async def held_up(scheduler: Scheduler, engine: Noting, *jobs: tuple[Sequenced, Callable[[], Forward]]) -> None:
    """While a call is under way, ask for all of these; let it go on when they wait."""
    engine.gated = True
    blocker = scheduler.open(Owner())
    first = asyncio.create_task(scheduler.run(blocker, forward(0, [1], 1)))
    while not engine.calls:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    tasks = [asyncio.create_task(scheduler.run(*job)) for job in jobs]
    await asyncio.sleep(0.01)
    engine.gated = False
    engine.gate.release()
    await asyncio.gather(first, *tasks)
    scheduler.drop(blocker)


def test_what_gathers_during_a_call_shares_the_next() -> None:
    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting")
        texts = [scheduler.open(Owner()) for _ in range(3)]
        await held_up(scheduler, engine, *((text, forward(0, [at, at], 1)) for at, text in enumerate(texts, 1)))
        assert [len(call) for call in engine.calls] == [1, 3]
        scheduler.close()

    run(main)


def test_no_batch_is_larger_than_was_asked_for() -> None:
    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting", max_batch=2)
        texts = [scheduler.open(Owner()) for _ in range(5)]
        await held_up(scheduler, engine, *((text, forward(0, [7], 1)) for text in texts))
        assert [len(call) for call in engine.calls] == [1, 2, 2, 1]
        scheduler.close()

    run(main)


def test_a_long_prompt_holds_nobody_up() -> None:
    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting")
        long, short = scheduler.open(Owner()), scheduler.open(Owner())
        prompt = list(range(2, 2 + PIECE)) * 3 + [5, 6]
        await held_up(scheduler, engine, (long, forward(0, prompt, 0)), (short, forward(0, [7], 1)))
        assert sorted(engine.calls[1]) == [1, PIECE]
        assert engine.calls[2:] == [[PIECE], [PIECE], [2]]
        assert list(long.cache) == prompt
        scheduler.close()

    run(main)


def test_an_engine_that_takes_calls_side_by_side_gets_whole_prompts() -> None:
    async def main() -> None:
        engine = Noting(max_batch=1, max_calls=2)
        scheduler = Scheduler(engine, "noting")
        text = scheduler.open(Owner())
        await scheduler.run(text, forward(0, [3] * (5 * PIECE), 0))
        assert engine.calls == [[5 * PIECE]]
        scheduler.close()

    run(main)


def test_brief_work_on_rows_is_done_in_the_loop_and_long_work_beside_it() -> None:
    """And brief work leaves turns of the loop to others."""

    def work(seconds: float, row: FloatArray) -> threading.Thread:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return threading.current_thread()

    async def main() -> None:
        scheduler, row, here = Scheduler(Noting(), "noting"), np.zeros(2, np.float32), threading.current_thread()
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        beside = asyncio.create_task(other())
        for _ in range(9):
            await scheduler.aside(partial(work, BRIEF_S / 4), row)
        turns = 0
        at = await asyncio.gather(*(scheduler.aside(partial(work, BRIEF_S / 4), row) for _ in range(32)))
        assert set(at) == {here}
        assert turns >= 2  # each has `TURN_S` for it
        long = [await scheduler.aside(partial(work, 4 * BRIEF_S), row) for _ in range(9)]
        assert here not in long[-3:]
        beside.cancel()
        scheduler.close()
        with pytest.raises(RefusedError):
            await scheduler.aside(partial(work, 0.0), row)

    run(main)


def test_one_with_many_texts_leaves_the_others_their_turns() -> None:
    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting", max_batch=1)
        greedy, modest = Owner(), Owner()
        jobs = [(scheduler.open(greedy), forward(0, [2], 1)) for _ in range(6)]
        jobs.append((scheduler.open(modest), forward(0, [3], 1)))
        await held_up(scheduler, engine, *jobs)
        assert [3] in engine.fed[1:3]
        scheduler.close()

    run(main)


def test_spare_forwards_take_what_others_leave() -> None:
    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting", max_batch=2)
        jobs = [(scheduler.open(Owner()), forward(0, [2], 1, spare=True)) for _ in range(2)]
        jobs += [(scheduler.open(Owner()), forward(0, [3], 1)) for _ in range(3)]
        await held_up(scheduler, engine, *jobs)
        assert engine.fed[1:] == [[3], [3], [3], [2], [2]]
        scheduler.close()

    run(main)


def test_a_fault_of_one_part_is_no_other_ones() -> None:
    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting")
        good, bad = scheduler.open(Owner()), scheduler.open(Owner())
        with pytest.raises(ModelError, match="a fault"):
            await held_up(scheduler, engine, (bad, forward(0, [FAULT], 1)), (good, forward(0, [4], 1)))
        assert [4] in engine.fed
        scheduler.close()

    run(main)


def test_a_text_too_many_is_refused() -> None:
    scheduler = Scheduler(Noting(), "noting", max_texts=1)
    text = scheduler.open(Owner())
    with pytest.raises(RefusedError, match="try again later") as refused:
        scheduler.open(Owner())
    assert refused.value.code == "busy"
    scheduler.drop(text)
    scheduler.open(Owner())
    scheduler.close()


@pytest.mark.parametrize(
    ("places", "rested_s", "newcomer", "yields"),
    [
        ("ab", [0, 0], "c", None),  # nobody has more than one place too many
        ("aab", [1, 0, 2], "c", 0),
        ("aaab", [0, 2, 1, 9], "b", 1),  # who has rested longest, of the tenant that holds most
        ("aaab", [0, 2, 1, 9], "a", None),
        ("aaab", [0, 2, 1, 11], "a", 3),  # long enough for anybody to take its place
        ("aaab", [None, None, None, 9], "c", None),  # who writes keeps its place
        ("aaab", [None, 0, None, 9], "c", 1),
    ],
)
def test_a_place_is_given_up_by_who_rests(
    places: str, rested_s: list[float | None], newcomer: str, yields: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("airdraft.scheduler.loop.monotonic", lambda: now)
    scheduler = Scheduler(Noting(), "noting", max_texts=len(places))
    tenants = {name: Owner() for name in "abc"}
    texts = [scheduler.open(Owner(tenants[name])) for name in places]
    told: list[int] = []
    for at, (text, seconds) in enumerate(zip(texts, rested_s, strict=True)):
        text.rested_s = math.inf if seconds is None else now - seconds
        text.on_yield = partial(told.append, at)
    if yields is None:
        with pytest.raises(RefusedError, match="texts at once already"):
            scheduler.open(Owner(tenants[newcomer]))
    else:
        scheduler.open(Owner(tenants[newcomer]))
    assert told == ([] if yields is None else [yields])
    assert scheduler.texts == len(places)
    scheduler.close()


def test_a_text_rests_while_none_of_its_forwards_waits_or_runs_and_runs_no_more_once_it_has_yielded() -> None:
    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting", max_texts=2)
        text, other = scheduler.open(Owner()), scheduler.open(Owner())
        assert text.rested_s < math.inf
        engine.gated = True
        tasks = [asyncio.create_task(scheduler.run(each, forward(0, [1], 1))) for each in (text, other)]
        await asyncio.sleep(0.01)
        assert text.rested_s == other.rested_s == math.inf  # one runs, one waits
        engine.gated = False
        engine.gate.release()
        await asyncio.gather(*tasks)
        text.rested_s -= REST_S
        scheduler.open(Owner())
        assert text.cache is None
        with pytest.raises(RefusedError, match="open it again"):
            await scheduler.run(text, forward(0, [1], 1))
        await scheduler.run(other, forward(1, [2], 1))
        scheduler.close()

    run(main)


def test_two_tenants_have_their_share_of_prompts_and_of_calls_whatever_else_they_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both write in every call, and the prompts of one must not all come before that of the other."""
    # Turns are paid for in seconds: each call takes as many, however long this machine holds it up.
    ticks = itertools.count()
    monkeypatch.setattr("airdraft.scheduler.loop.perf_counter", lambda: next(ticks) * 0.01)

    async def main() -> None:
        engine = Noting(max_batch=4)
        scheduler = Scheduler(engine, "noting")
        greedy, modest = Owner(), Owner()

        async def write(owner: Owner, token: int) -> None:
            text = scheduler.open(Owner(owner))
            for at in range(60):
                await scheduler.run(text, forward(at, [token], 1))

        async def read(owner: Owner, token: int) -> None:
            await scheduler.run(scheduler.open(Owner(owner)), forward(0, [token] * (2 * PIECE), 0))

        writing = [asyncio.create_task(write(owner, token)) for owner, token in ((greedy, 2), (modest, 3))]
        await asyncio.sleep(0.01)
        reading = [asyncio.create_task(read(greedy, 4)) for _ in range(9)]
        await asyncio.sleep(0)
        await read(modest, 5)
        assert sum(fed[0] == 4 for fed in engine.fed) <= 6  # of eighteen pieces
        await asyncio.gather(*writing, *reading)
        scheduler.close()

    run(main)


def test_a_text_that_lost_its_cache_is_fed_again() -> None:
    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting", max_positions=310)
        texts = [scheduler.open(Owner()) for _ in range(3)]
        for at, text in enumerate(texts, 1):
            await scheduler.run(text, forward(0, [at] * 150, 0))
        assert scheduler.caches.evictions == 1
        rows = await scheduler.run(texts[0], forward(150, [8, 9], 2))
        assert rows[-1, 0] == 152
        assert list(texts[0].cache) == [1] * 150 + [8, 9]
        assert scheduler.caches.evictions == 2
        scheduler.close()

    run(main)


def test_one_text_may_be_longer_than_the_memory_for_all() -> None:
    async def main() -> None:
        scheduler = Scheduler(Noting(), "noting", max_positions=10)
        text = scheduler.open(Owner())
        rows = await scheduler.run(text, forward(0, [1] * 40, 1))
        assert rows[0, 0] == 40
        scheduler.close()

    run(main)


def test_an_engine_with_few_caches_serves_many_texts() -> None:
    async def main() -> None:
        engine = Noting(max_caches=2)
        scheduler = Scheduler(engine, "noting")
        texts = [scheduler.open(Owner()) for _ in range(5)]
        for turn in range(3):
            rows = await asyncio.gather(
                *(scheduler.run(text, forward(2 * turn, [at, turn], 1)) for at, text in enumerate(texts, 10))
            )
            assert [row[0, 0] for row in rows] == [2 * turn + 2] * 5
            assert engine.most <= 2
        for text in texts:
            scheduler.drop(text)
        await asyncio.gather(*(scheduler.run(scheduler.open(Owner()), forward(0, [1], 1)) for _ in range(4)))
        assert engine.most == 2
        scheduler.close()

    run(main)


def test_who_gives_up_waiting_is_forgotten() -> None:
    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting")
        text, other = scheduler.open(Owner()), scheduler.open(Owner())
        engine.gated = True
        running = asyncio.create_task(scheduler.run(text, forward(0, [1], 1)))
        waiting = asyncio.create_task(scheduler.run(other, forward(0, [2], 1)))
        await asyncio.sleep(0.01)
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        scheduler.drop(text)
        scheduler.drop(other)
        engine.gated = False
        engine.gate.release()
        last = scheduler.open(Owner())
        assert (await scheduler.run(last, forward(0, [3], 1)))[0, 0] == 1
        assert engine.fed == [[1], [3]]
        assert text.cache is None
        scheduler.close()

    run(main)


@examples(40)
@given(data=st.data())
def test_whatever_the_limits_every_text_is_fed_right(data: st.DataObject) -> None:
    """Texts grow, roll back and wait for each other; each cache must hold just the text when its rows come."""
    engine = Noting(
        data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2)), data.draw(st.sampled_from([None, 2, 3]))
    )
    limit = engine.info.max_caches or 100
    limits = {"max_positions": data.draw(st.sampled_from([None, 50, 400]))}
    plans = data.draw(
        st.lists(
            st.lists(st.tuples(st.integers(0, 6), st.integers(1, 2 * PIECE), st.integers(0, 4)), max_size=4),
            min_size=1, max_size=5,
        )
    )  # fmt: skip

    async def write(scheduler: Scheduler, at: int, plan: list[tuple[int, int, int]]) -> None:
        text, tokens = scheduler.open(Owner()), []
        for step, (back, more, rows) in enumerate(plan):
            keep = max(0, len(tokens) - back)
            new = [(at + step + each) % 90 for each in range(more)]
            tokens = tokens[:keep] + new
            found = await scheduler.run(text, forward(keep, new, min(rows, more)))
            assert len(found) == min(rows, more)
            assert (found == contents(tokens)).all()
            assert engine.most <= limit
        scheduler.drop(text)

    async def main() -> None:
        scheduler = Scheduler(engine, "noting", **limits)  # type: ignore[arg-type]
        await asyncio.gather(*(write(scheduler, at, plan) for at, plan in enumerate(plans)))
        scheduler.close()

    run(main)


def clock(took_s: Sequence[float]) -> Callable[[], float]:
    """Read before and after each call: these take what they are said to, whatever the machine does."""
    times = iter([time for seconds in took_s for time in (0.0, seconds)])
    return lambda: next(times)


@pytest.mark.parametrize(
    ("took_s", "tokens", "texts", "calls", "here"),
    [
        ((0, 0, 0), (1, 1, SHORT_TOKENS), 1, 1, [False, True, True]),
        ((0, 0, 0), (1, SHORT_TOKENS + 1, 1), 1, 1, [False, False, True]),
        ((0, 2 * SHORT_S, 0, 0), (1, 1, 1, 1), 1, 1, [False, True, False, True]),
        ((0, 0, 0), (1, 1, 1), 2, 1, [False, False, False]),
        ((0, 0, 0), (1, 1, 1), 1, 2, [False, False, False]),  # behind HTTP, say
    ],
)
def test_only_short_calls_for_a_text_alone_hold_the_loop_up(
    took_s: Sequence[float],
    tokens: Sequence[int],
    texts: int,
    calls: int,
    here: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("airdraft.scheduler.loop.perf_counter", clock(took_s))
    engine = Noting(max_calls=calls)

    async def main() -> None:
        scheduler = Scheduler(engine, "noting")
        text, *_ = [scheduler.open(Owner()) for _ in range(texts)]
        for count in tokens:
            await scheduler.run(text, forward(0, (1,) * count, count))
        scheduler.close()

    run(main)
    assert [thread is threading.main_thread() for thread in engine.threads] == here


class Copying(Noting):
    """The same, whose caches can be copied."""

    def __init__(self, max_caches: int | None = None) -> None:
        super().__init__(max_caches=max_caches)
        self.copies: list[int] = []

    def copy(self, cache: Cache, length: int) -> Cache:
        assert length <= len(cache)
        self.copies.append(length)
        made = self.new_cache()
        made.extend(cache[:length])
        return made


PROMPT = [at % 97 for at in range(300)]


async def written(scheduler: Scheduler, owner: Owner, tokens: Sequence[int], rows: int = 1) -> Sequenced:
    """A text that was fed `tokens` and had the right rows, not dropped yet."""
    text = scheduler.open(owner)
    found = await scheduler.run(text, forward(0, tokens, rows))
    assert (found == contents(tokens)).all()
    return text


def test_a_text_that_goes_on_where_one_ended_takes_its_cache() -> None:
    async def main() -> None:
        engine, owner = Copying(), Owner()
        scheduler = Scheduler(engine, "noting")
        scheduler.drop(await written(scheduler, owner, PROMPT))
        text = await written(scheduler, owner, [*PROMPT, 1, 2, 3])
        assert engine.fed[-1] == [1, 2, 3]
        assert (text.reused, scheduler.caches.reused, engine.copies, engine.most) == (300, 300, [], 1)
        scheduler.drop(text)
        scheduler.close()

    run(main)


@pytest.mark.parametrize("kept", [0, 1, 2, 5])
def test_texts_that_are_over_hold_as_many_bytes_as_are_to_be_kept(kept: int) -> None:
    async def main() -> None:
        engine, owner = Copying(), Owner()
        engine.info = replace(engine.info, position_bytes=1000)
        scheduler = Scheduler(engine, "noting", kept_bytes=kept * len(PROMPT) * 1000)
        for first in range(10):
            scheduler.drop(await written(scheduler, owner, [first, *PROMPT[1:]]))
            assert sum(map(len, engine.caches)) <= kept * len(PROMPT)
        assert len(engine.caches) == kept
        scheduler.close()

    run(main)


def test_a_text_that_leaves_another_early_gets_a_copy() -> None:
    async def main() -> None:
        engine, owner = Copying(), Owner()
        scheduler = Scheduler(engine, "noting")
        living = await written(scheduler, owner, PROMPT)
        other = await written(scheduler, owner, [*PROMPT[:150], 99])
        assert engine.copies == [150]
        assert engine.fed[-1] == [99]
        again = await scheduler.run(living, forward(300, [5], 1))
        assert (again == contents([*PROMPT, 5])).all()
        scheduler.drop(living)
        scheduler.drop(other)
        third = await written(scheduler, owner, PROMPT[:200])  # of one that is over, but went on for long
        assert engine.copies == [150, 199]
        scheduler.drop(third)
        scheduler.close()

    run(main)


def test_only_texts_of_one_tenant_share_what_was_read() -> None:
    async def main() -> None:
        engine, tenants = Copying(), [Owner(), Owner()]
        scheduler = Scheduler(engine, "noting")
        for tenant, reused in ((0, 0), (1, 0), (0, 299), (1, 299)):
            text = await written(scheduler, Owner(tenants[tenant]), PROMPT)
            assert text.reused == reused
            scheduler.drop(text)
        scheduler.close()

    run(main)


def test_choices_of_one_prompt_read_it_once() -> None:
    async def main() -> None:
        engine, owner = Copying(), Owner()
        scheduler = Scheduler(engine, "noting")
        texts = await asyncio.gather(*(written(scheduler, owner, PROMPT) for _ in range(4)))
        assert sum(map(len, engine.fed)) == 300 + 3
        assert sorted(text.reused for text in texts) == [0, 299, 299, 299]
        for text in texts:
            scheduler.drop(text)
        scheduler.close()

    run(main)


def test_who_waits_for_a_prompt_that_is_given_up_reads_it_itself() -> None:
    async def main() -> None:
        engine, owner = Copying(), Owner()
        scheduler = Scheduler(engine, "noting")
        engine.gated = True
        first = scheduler.open(owner)
        gone = asyncio.create_task(scheduler.run(first, forward(0, PROMPT, 1)))
        while not engine.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        waits = asyncio.create_task(written(scheduler, owner, PROMPT))
        await asyncio.sleep(0.01)
        gone.cancel()
        scheduler.drop(first)
        engine.gated = False
        engine.gate.release()
        text = await waits
        assert text.reused == PIECE  # what was fed by then
        scheduler.drop(text)
        scheduler.close()

    run(main)


def test_the_only_cache_changes_hands() -> None:
    async def main() -> None:
        engine, owner = Copying(max_caches=1), Owner()
        scheduler = Scheduler(engine, "noting")
        scheduler.drop(await written(scheduler, owner, PROMPT))
        text = await written(scheduler, owner, [*PROMPT[:100], 99])
        assert (text.reused, engine.most, engine.copies) == (100, 1, [])
        scheduler.drop(text)
        scheduler.drop(await written(scheduler, owner, [7] * 50))  # nothing in common: it needs the room
        assert scheduler.caches.evictions == 0  # of texts that are still written
        scheduler.close()

    run(main)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 200), st.booleans()), min_size=1, max_size=12),
    st.integers(2, 4),
)
@examples(50)
def test_whatever_is_reused_the_rows_are_the_texts_own(asked: list[tuple[int, int, bool]], max_caches: int) -> None:
    async def main() -> None:
        engine, owners = Copying(max_caches=max_caches), [Owner(), Owner()]
        scheduler = Scheduler(engine, "noting", max_positions=700)

        async def one(which: int, common: int, stays: bool) -> None:
            tokens = [*PROMPT[:common], *[100 + which] * 40]
            text = await written(scheduler, owners[which % 2], tokens)
            if stays:
                found = await scheduler.run(text, forward(len(tokens) - 1, [tokens[-1], 3, 4], 2))
                assert (found == contents([*tokens, 3, 4])).all()
            scheduler.drop(text)

        await asyncio.gather(*(one(*each) for each in asked))
        assert scheduler.caches.positions <= 700
        assert engine.most <= max_caches
        scheduler.close()
        assert scheduler.texts == 0

    run(main)


def test_nobody_begins_with_drafts_that_were_rejected() -> None:
    """A text that lost its cache is fed again together with drafts, and the target then writes something else."""

    async def main() -> None:
        engine, owner = Copying(), Owner()
        scheduler = Scheduler(engine, "noting", max_positions=700)
        text = await written(scheduler, owner, PROMPT)
        scheduler.drop(await written(scheduler, Owner(), [1] * 600))
        assert scheduler.caches.evictions == 1
        drafts = [*range(20, 40)]
        found = await scheduler.run(text, forward(len(PROMPT), drafts, len(drafts)))
        assert (found[-1] == contents([*PROMPT, *drafts])).all()
        other = [*range(60, 80)]
        found = await scheduler.run(text, forward(len(PROMPT), other, len(other)))
        assert (found[-1] == contents([*PROMPT, *other])).all()
        scheduler.drop(await written(scheduler, owner, [*PROMPT, *drafts, 5]))
        scheduler.drop(text)
        scheduler.close()

    run(main)


def test_a_text_that_cannot_say_what_it_needs_by_now_ends_alone() -> None:
    """Those that wait beside it have their rows, and so have those that come later."""

    async def main() -> None:
        engine = Noting()
        scheduler = Scheduler(engine, "noting")
        good, bad, last = (scheduler.open(Owner()) for _ in range(3))

        def tired() -> Forward:
            raise ModelError("its guide gives up")

        found: list[FloatArray] = []

        async def fine() -> None:
            found.append(await scheduler.run(good, forward(0, [4], 1)))

        engine.gated = True
        blocker = asyncio.create_task(scheduler.run(scheduler.open(Owner()), forward(0, [1], 1)))
        while not engine.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        tasks = [asyncio.create_task(scheduler.run(bad, tired)), asyncio.create_task(fine())]
        await asyncio.sleep(0.01)
        engine.gated = False
        engine.gate.release()
        await blocker
        with pytest.raises(ModelError, match="gives up"):
            await tasks[0]
        assert (await scheduler.run(last, forward(0, [5], 1)))[0, 0] == 1
        await tasks[1]
        assert found[0][0, 0] == 1
        assert scheduler.waiting == 0
        scheduler.close()

    run(main)


def test_nobody_begins_with_what_a_failed_call_left() -> None:
    """An engine that feeds piece by piece may have overwritten what was there before it failed."""

    async def main() -> None:
        engine: Any = Copying()
        engine.info = replace(engine.info, vocab_size=10_000)
        scheduler, owner, drafts = Scheduler(Banded(engine, 2, 7), "noting"), Owner(), [*range(20, 30)]
        text = scheduler.open(owner)
        await scheduler.run(text, forward(0, [*PROMPT[:60], *drafts], 1))
        with pytest.raises(ModelError, match="a fault"):
            await scheduler.run(text, forward(60, [*range(40, 50), FAULT], 1))
        scheduler.drop(text)
        again = scheduler.open(owner)
        found = await scheduler.run(again, forward(0, [*PROMPT[:60], *drafts, 5, 6], 2))
        assert (found[-1] == contents([*PROMPT[:60], *drafts, 5, 6])).all()
        scheduler.drop(again)
        scheduler.close()

    run(main)


class Resting(Cache):
    """A cache that takes note of when it rests."""

    rested = False

    @property
    def room(self) -> int:
        return len(self)

    def rest(self) -> None:
        self.rested = True


class Slow(Copying):
    """An engine that takes its time to copy."""

    def __init__(self) -> None:
        super().__init__()
        self.copying, self.go_on = threading.Event(), threading.Event()

    def new_cache(self) -> Cache:
        return Resting()

    def copy(self, cache: Cache, length: int) -> Cache:
        self.copying.set()
        self.go_on.wait(15)
        assert not getattr(cache, "rested", False)
        return super().copy(cache, length)


def test_a_text_that_ends_while_another_copies_its_cache_stays_as_it_is_until_then() -> None:
    async def main() -> None:
        engine, owner = Slow(), Owner()
        scheduler = Scheduler(engine, "noting")
        first = await written(scheduler, owner, PROMPT)
        cache = first.cache
        other = asyncio.create_task(written(scheduler, owner, [*PROMPT[:100], 1, 2, 3]))
        while not engine.copying.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        scheduler.drop(first)
        engine.go_on.set()
        text = await other
        assert (text.reused, engine.copies) == (100, [100])
        assert isinstance(cache, Resting)
        assert cache.rested
        scheduler.drop(text)
        scheduler.close()

    run(main)


class Careless(Copying):
    """An engine that has fed some tokens before it fails."""

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        for part in batch:
            if FAULT in part.tokens:
                part.cache[part.keep :] = part.tokens[: part.tokens.index(FAULT)]
        return super().verify(batch)


@examples(100)
@given(data=st.data())
def test_whatever_texts_draft_lose_and_share_every_row_is_of_their_own_tokens(data: st.DataObject) -> None:
    """Texts of one tenant, in blocks of two kinds only, so that each begins as others do, or as others drafted."""
    engine = Careless(data.draw(st.sampled_from([None, 1, 2, 3])))
    limits = {"max_positions": data.draw(st.sampled_from([None, 120, 300]))}
    kept, seeds = data.draw(st.sampled_from([0, 1 << 26])), data.draw(st.lists(st.integers(0, 1 << 30), max_size=6))

    async def write(scheduler: Scheduler, owner: Owner, seed: int) -> None:
        random = np.random.default_rng(seed)

        def blocks(most: int) -> list[int]:
            kinds = random.integers(1, 3, size=random.integers(1, most + 1))
            return [int(kind) for kind in kinds for _ in range(16)][: -int(random.integers(0, 4)) or None]

        for _ in range(random.integers(1, 4)):
            text, tokens = scheduler.open(owner), blocks(5)
            with contextlib.suppress(ModelError):
                found = await scheduler.run(text, forward(0, tokens, 1))
                assert (found[0] == contents(tokens)).all()
                for _ in range(random.integers(0, 5)):
                    keep = int(random.integers(max(1, len(tokens) - 40), len(tokens) + 1))
                    more = blocks(3)
                    if random.random() < 0.1:
                        more[int(random.integers(len(more)))] = FAULT
                    found = await scheduler.run(text, forward(keep, more, 1))
                    tokens = [*tokens[:keep], *more]
                    assert (found[0] == contents(tokens)).all()
            scheduler.drop(text)

    async def main() -> None:
        scheduler, owner = Scheduler(engine, "noting", kept_bytes=kept, **limits), Owner()
        await asyncio.gather(*(write(scheduler, owner, seed) for seed in seeds))
        scheduler.close()

    run(main)


@pytest.mark.parametrize("ends", [True, False])
def test_a_text_does_not_wait_for_ever_for_room_beside_the_one_that_it_begins_with(ends: bool) -> None:
    """It takes the cache of one that is over, and of one that rests none of it."""

    async def main() -> None:
        engine, owner = Copying(), Owner()
        scheduler = Scheduler(engine, "noting", max_positions=400)
        first = await written(scheduler, owner, PROMPT)
        if ends:
            scheduler.drop(first)
        other = await written(scheduler, owner, [*PROMPT[:100], *range(200, 350)])
        assert (other.reused, scheduler.caches.evictions) == ((100, 0) if ends else (0, 1))
        assert scheduler.caches.positions == 250
        scheduler.drop(other)
        scheduler.close()

    run(main)
