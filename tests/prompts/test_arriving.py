"""Prompts that come from a store while they are computed: rows to the bit, whatever the store does."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.core.events import Forward
from airdraft.errors import BadParameterError, LinkError
from airdraft.models.base import FloatArray, Tensors
from airdraft.models.profile import PacedEngine
from airdraft.prompts import arriving
from airdraft.prompts.arriving import StoredPrompts
from airdraft.prompts.blocks import BLOCK, BlockError
from airdraft.prompts.publishing import publish
from airdraft.prompts.store import PromptStore
from airdraft.scheduler import Owner, Scheduler
from airdraft.scheduler.elsewhere import Elsewhere

from .models import steady

PROMPT = [at * 31 % 4000 for at in range(10 * BLOCK + 20)]
QUESTION = [5, 6, 7, 8, 9] * 9


@pytest.fixture(scope="module")
def engine() -> Any:
    """The target, whose rows are steady."""
    return steady()


@pytest.fixture(scope="module")
def url(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("store"))
    found = publish(engine, PROMPT, folder)
    assert (found.blocks, found.written, found.tokens) == (10, 10, 10 * BLOCK)
    assert publish(engine, PROMPT, folder).written == 0
    return folder


@pytest.fixture(scope="module")
def expected(engine: Any) -> FloatArray:
    return asyncio.run(rows_after(engine, None, [*PROMPT, *QUESTION]))[0]


async def rows_after(engine: Any, prompts: Elsewhere | None, tokens: list[int]) -> tuple[FloatArray, int, int]:
    """The rows after a prompt as an edge asks for them, how many tokens came from the store, and of those fed."""
    scheduler, fed = Scheduler(engine, "test"), 0
    scheduler.caches.elsewhere = prompts

    def called(call: Any) -> None:
        nonlocal fed
        fed += call.tokens

    scheduler.on_call = called
    text = scheduler.open(Owner())
    async with asyncio.timeout(60):
        await scheduler.run(text, lambda: Forward(1, 0, tuple(tokens[:-1]), 0))
        rows = await scheduler.run(text, lambda: Forward(1, len(tokens) - 1, (tokens[-1], 3, 4), 3))
    scheduler.drop(text)
    scheduler.close()
    if isinstance(prompts, StoredPrompts):
        assert prompts._bytes == 0  # nothing is held, and nothing on its way
    return rows, scheduler.caches.fetched, fed


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


class Watched(StoredPrompts):
    """A store that counts the blocks that came, or will not come, and of which some may be bad."""

    bad: Callable[[int], None]

    def __init__(self, store: PromptStore) -> None:
        super().__init__(store)
        self.bad = lambda which: None
        self.asked = list[bytes]()
        self.over = threading.Semaphore(0)

    async def block(self, name: bytes) -> Tensors:
        self.asked.append(name)
        try:
            await asyncio.get_running_loop().run_in_executor(None, self.bad, len(self.asked))
            return await super().block(name)
        finally:
            self.over.release()


class Patient(PacedEngine):
    """An engine whose calls take until so many blocks have come, or will not: how fast this machine computes, and how
    fast it reads, does not decide how much of a prompt comes from the store."""

    def __init__(self, engine: Any, prompts: Watched, blocks: int = 3) -> None:
        super().__init__(engine, 0.0)
        self._prompts, self._left = prompts, blocks

    def verify(self, batch: Any) -> Any:
        """See `TargetEngine.verify`."""
        while self._left and self._prompts.over.acquire(timeout=15):
            self._left -= 1
        return super().verify(batch)


def test_what_is_there_is_not_computed(engine: Any, url: str, expected: FloatArray) -> None:
    async def main() -> None:
        prompts = Watched.at(url, engine)
        rows, fetched, fed = await rows_after(Patient(engine, prompts, 9), prompts, [*PROMPT, *QUESTION])
        assert np.array_equal(rows, expected)
        assert fetched >= 5 * BLOCK
        assert fed == len(PROMPT) + len(QUESTION) + 2 - fetched

    _run(main)


def _loses(which: int) -> None:
    if which % 2:
        raise LinkError("gone")


def _damages(which: int) -> None:
    if which in {2, 5}:
        raise BlockError("a wrong byte")


def _delays(which: int) -> None:
    time.sleep(0.02 * (which % 4))


_OVER = threading.Event()


def _stops(which: int) -> None:
    if which > 3:
        _OVER.wait(50)


def _all_gone(which: int) -> None:
    raise LinkError("nobody there")


@pytest.mark.parametrize("bad", [_loses, _damages, _delays, _stops, _all_gone])
def test_a_bad_store_changes_no_bit(
    engine: Any, url: str, expected: FloatArray, bad: Callable[[int], None], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(arriving, "REST_S", 3600.0)

    async def main() -> None:
        prompts = Watched.at(url, engine)
        prompts.bad = bad
        _OVER.clear()
        began_s = time.perf_counter()
        rows, fetched, _ = await rows_after(Patient(engine, prompts), prompts, [*PROMPT, *QUESTION])
        assert time.perf_counter() - began_s < 40  # who waits for a block that does not come waits for 50 s
        _OVER.set()
        assert np.array_equal(rows, expected)
        assert (fetched == 0) == (bad is _all_gone)
        if bad in (_loses, _damages):
            assert "is computed instead" in caplog.text
        if bad is _all_gone:
            assert prompts.ask(PROMPT, 0, lambda: None) is None  # it is left alone for a while

    _run(main)


def test_a_wrong_byte_on_the_disk_is_found_and_recomputed(
    engine: Any, tmp_path: Path, expected: FloatArray, caplog: pytest.LogCaptureFixture
) -> None:
    publish(engine, PROMPT, str(tmp_path))
    for place in tmp_path.glob("*/*/blocks/*/2"):
        data = bytearray(place.read_bytes())
        data[-100] ^= 4
        place.write_bytes(bytes(data))

    async def main() -> None:
        prompts = Watched.at(str(tmp_path), engine)
        rows, fetched, _ = await rows_after(Patient(engine, prompts), prompts, [*PROMPT, *QUESTION])
        assert np.array_equal(rows, expected)
        assert fetched == 0

    _run(main)
    assert "is damaged" in caplog.text
    assert publish(engine, PROMPT, str(tmp_path)).written == 10  # mended
    _run(lambda: _mended(engine, str(tmp_path)))


async def _mended(engine: Any, url: str) -> None:
    prompts = Watched.at(url, engine)
    assert (await rows_after(Patient(engine, prompts), prompts, [*PROMPT, *QUESTION]))[1] > 0


def test_a_prompt_that_is_not_published_asks_for_nothing(engine: Any, url: str) -> None:
    async def main() -> None:
        prompts = Watched.at(url, engine)
        other = [at * 37 % 4000 for at in range(5 * BLOCK)]
        _, fetched, _ = await rows_after(engine, prompts, other)
        assert fetched == 0
        assert not prompts.asked  # no hash of it went out

    _run(main)


def test_what_is_published_later_is_seen(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "RENEW_S", 0.0)

    async def main() -> None:
        prompts = StoredPrompts.at(str(tmp_path), engine)
        assert prompts.ask(PROMPT, 0, lambda: None) is None
        publish(engine, PROMPT, str(tmp_path))
        async with asyncio.timeout(60):
            while (coming := prompts.ask(PROMPT, 0, lambda: None)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        coming.close()

    _run(main)


def test_a_text_that_ends_early_leaves_nothing_behind(engine: Any, url: str) -> None:
    async def main() -> None:
        gate = threading.Event()
        prompts = Watched.at(url, engine)
        prompts.bad = lambda which: gate.wait(60) and None
        scheduler = Scheduler(Patient(engine, prompts, 1), "test")  # which waits for the gate, too
        scheduler.caches.elsewhere = prompts
        text = scheduler.open(Owner())
        task = asyncio.create_task(scheduler.run(text, lambda: Forward(1, 0, tuple(PROMPT), 0)))
        while not scheduler.caches._coming:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        coming = weakref.ref(next(iter(scheduler.caches._coming.values())))
        task.cancel()
        scheduler.drop(text)
        gate.set()
        async with asyncio.timeout(60):
            while prompts._bytes:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        scheduler.close()
        gc.collect()
        assert coming() is None

    _run(main)


def test_prompts_that_are_none_are_refused(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(BadParameterError, match="is computed faster"):
        publish(engine, PROMPT[: BLOCK - 1], str(tmp_path))
    with pytest.raises(BadParameterError, match="publish a shorter one"):
        publish(engine, [1] * 2000, str(tmp_path))
    with pytest.raises(BadParameterError, match="allow more"):
        publish(engine, PROMPT, str(tmp_path), most_bytes=1000)
    assert not any(tmp_path.iterdir())


def test_the_store_is_bounded(engine: Any, tmp_path: Path) -> None:
    size = publish(engine, PROMPT, str(tmp_path)).bytes
    other = publish(engine, PROMPT[::-1], str(tmp_path), most_bytes=size)
    assert (other.evicted, other.bytes) == (1, size)
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*/blocks/*/*")) == size


@pytest.fixture(autouse=True)
def _no_warning_is_lost(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
