"""Private texts in an engine: what follows is shared with nobody, kept for nobody, and overwritten."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from airdraft.core.events import Forward
from airdraft.errors import BadParameterError
from airdraft.models.base import EngineInfo, Part
from airdraft.models.engines.onnx_batch import OnnxCache
from airdraft.models.files.folder import shipped
from airdraft.models.fit import Fit
from airdraft.models.registry import load_target
from airdraft.models.sharing import SharingCache
from airdraft.scheduler import Owner, Scheduler, Sequenced
from airdraft.scheduler.elsewhere import LEAST

PROMPT = [at * 31 % 4000 for at in range(200)]
PRIVATE = 150


@functools.cache
def _shipped() -> Any:
    return load_target("target")[0]


def _hf() -> Any:
    pytest.importorskip("torch", reason="needs the extra hf")
    pytest.importorskip("transformers", reason="needs the extra hf")
    from airdraft.models.engines.hf import HfModel

    return HfModel(shipped("target"))


def _imported(folder: Any) -> Any:
    pytest.importorskip("gguf", reason="writing the file takes the gguf package")
    from ..models.imports.made import Made

    return load_target(str(Made(kind="Q8_0", context=256).write(folder / "a.gguf")))[0]


@pytest.fixture(scope="module", params=["shipped", "spliced", "imported", pytest.param("hf", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "imported":
        return _imported(tmp_path_factory.mktemp("gguf"))
    if request.param == "spliced":
        return load_target("target", fit=Fit(splice=True))[0]
    return _shipped() if request.param == "shipped" else _hf()


def _memory(cache: Any) -> list[np.ndarray]:
    """The memory that a cache lies in."""
    while hasattr(cache, "inner"):
        cache = cache.inner
    if isinstance(cache, OnnxCache):
        return [each[0] for each in cache.tensors]
    return [each.numpy() for layer in cache._pages.layers.values() for each in layer]


def _arrays(cache: Any) -> list[np.ndarray]:
    """What a cache holds, also beyond its length: each [1, positions, width]."""
    while hasattr(cache, "inner"):
        cache = cache.inner
    if isinstance(cache, OnnxCache):
        return _memory(cache)
    return [each[None, cache.rows(0, cache.room)] for each in _memory(cache)]


def _shared(cache: Any) -> int:
    """Positions that other texts have as well, in memory of its own."""
    while hasattr(cache, "inner"):
        if isinstance(cache, SharingCache):
            return cache.start
        cache = cache.inner
    return 0


async def _read(scheduler: Scheduler, text: Sequenced, tokens: Sequence[int]) -> Any:
    await scheduler.run(text, lambda: Forward(1, 0, tuple(tokens[:-1]), 0))
    return await scheduler.run(text, lambda: Forward(1, len(tokens) - 1, (tokens[-1],), 1))


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_what_follows_is_neither_shared_nor_kept_and_is_overwritten(engine: Any) -> None:
    async def main() -> None:
        scheduler, owner = Scheduler(engine, "test"), Owner()
        tokens = [token % engine.info.vocab_size for token in PROMPT]
        text = scheduler.open(owner, PRIVATE)
        rows = await _read(scheduler, text, tokens)
        assert text.cache is not None
        seen = {id(each): each for each in _memory(text.cache)}
        for at in range(4):  # written on: some engines move what they hold
            await scheduler.run(text, lambda at=at: Forward(1, len(tokens) + at, (at,), 1))  # type: ignore[misc]
            seen |= {id(each): each for each in _memory(text.cache)}
        kept = text.cache.take(0, PRIVATE)
        beside = scheduler.open(owner)  # while it is written
        assert np.array_equal(await _read(scheduler, beside, tokens), rows) or engine.info.exactness.width != 0
        assert beside.reused == PRIVATE
        scheduler.drop(beside)
        private = text.cache
        scheduler.drop(text)
        assert text.cached <= PRIVATE
        for each in _arrays(private):
            assert not each[:, PRIVATE - _shared(private) :].any()
        for each, was in zip(private.take(0, PRIVATE), kept, strict=True):
            assert np.array_equal(each, was)
        current = {each.__array_interface__["data"][0] for each in _memory(private)}
        for each in seen.values():  # memory that it gave up on the way
            if each.__array_interface__["data"][0] not in current:
                assert not each.any()
        scheduler.close()

    _run(main)


def test_a_cache_that_another_takes_is_overwritten(engine: Any) -> None:
    async def main() -> None:
        scheduler = Scheduler(engine, "test", kept_bytes=0)
        tokens = [token % engine.info.vocab_size for token in PROMPT]
        text = scheduler.open(Owner(), 0)
        await _read(scheduler, text, tokens)
        cache = text.cache
        scheduler.drop(text)
        assert text.cache is None
        assert not any(each.any() for each in _arrays(cache))
        scheduler.close()

    _run(main)


def test_a_private_text_runs_in_calls_of_its_own(engine: Any) -> None:
    """A shared call copies keys and values into memory that is no text's own."""
    tokens = [token % engine.info.vocab_size for token in PROMPT[:40]]
    caches = [engine.new_cache() for _ in range(3)]
    for cache in caches:
        engine.verify([Part(cache, 0, tokens, 0)])
    caches[1].private = True
    alone = engine.new_cache()
    engine.verify([Part(alone, 0, tokens, 0)])
    [expected] = engine.verify([Part(alone, 40, [1, 2], 2)])
    found = engine.verify([Part(cache, 40, [1, 2], 2) for cache in caches])
    assert np.array_equal(found[1], expected)
    inner: list[Any] = list(caches)
    while hasattr(inner[0], "inner"):
        inner = [cache.inner for cache in inner]
    if isinstance(inner[1], OnnxCache):
        assert inner[1].stack is None


def test_only_the_public_part_is_looked_for_elsewhere() -> None:
    class Nothing:
        asked: list[int] = []  # noqa: RUF012

        def ask(self, tokens: Sequence[int], at: int, wake: Callable[[], None]) -> None:
            self.asked.append(len(tokens))

    async def main() -> None:
        scheduler = Scheduler(_shipped(), "test")
        scheduler.caches.elsewhere = elsewhere = Nothing()
        for private in (None, PRIVATE, LEAST - 1):
            text = scheduler.open(Owner(), private)
            await _read(scheduler, text, PROMPT)
            scheduler.drop(text)
        assert elsewhere.asked == [len(PROMPT) - 2, PRIVATE]
        scheduler.close()

    _run(main)


def test_an_engine_that_overwrites_nothing_takes_no_private_text() -> None:
    class Keeping:
        info = EngineInfo("keeping", 10, 10)

        def new_cache(self) -> Any: ...

        def verify(self, batch: Sequence[Part]) -> Any: ...

    async def main() -> None:
        scheduler = Scheduler(Keeping(), "test")
        scheduler.open(Owner())
        with pytest.raises(BadParameterError, match="overwrites no keys and values"):
            scheduler.open(Owner(), 0)
        scheduler.close()

    _run(main)
