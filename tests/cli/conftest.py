"""One edge for all mistakes that only an edge can point out, and models that commands of one process open once."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airdraft.edge.server import EdgeServer, Service
from airdraft.guides import Guides
from airdraft.models import registry
from airdraft.models.base import OneByOne
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load

_MADE: dict[Any, Any] = {}
"""Engines of the models that ship, by all that they were made from."""


@pytest.fixture(autouse=True)
def _opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open and try each model that ships once in a process, and not with each command that a test runs in it."""
    make, steady = registry._make, registry.steadied

    def make_once(engine: str, path: Path, *args: Any, **options: Any) -> Any:
        if path.parent != shipped("target").parent:
            return make(engine, path, *args, **options)
        key = repr((engine, path, args, options))
        if key not in _MADE:
            _MADE[key] = make(engine, path, *args, **options)
            _MADE[key].opened_as = key
        return copy.copy(_MADE[key])  # whose `info` is its own

    def steady_once(engine: Any) -> Any:
        if not hasattr(engine, "opened_as"):
            return steady(engine)
        key = engine.opened_as, repr(engine.info)
        if key not in _MADE:
            _MADE[key] = steady(engine)
        return copy.copy(_MADE[key])

    monkeypatch.setattr(registry, "_make", make_once)
    monkeypatch.setattr(registry, "steadied", steady_once)


@pytest.fixture(scope="session")
def edge() -> Iterator[str]:
    """Its URL. It serves the shipped target from a thread of its own, which spares a process's start."""
    model, tokenizer = load("target")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    service = Service(reader=Guides(tokenizer))
    server = EdgeServer(OneByOne(model), tokenizer.digest, tokenizer.vocab_size, service=service)
    try:
        asyncio.run_coroutine_threadsafe(server.start("127.0.0.1", 0), loop).result(30)
        yield f"ws://127.0.0.1:{server.port}"
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
