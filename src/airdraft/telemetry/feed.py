"""The feed of a page: the events of all texts as they happen, the very ones of traces, to whoever reads.

Each event is as in a trace, with the name of its `text`, and with what only a page wants: the `pieces` of text, and the
chances that a model gave to the tokens. Further events, which no file holds:

    unverified  the draft model alone wrote `pieces` from `position` on, while no edge answers
    corrected   the unverified tokens from `position` on were wrong
    readings    once a second, the figures of /metrics by their names there; they belong to no text
    missed      a reader was too slow for so many events (`count`)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from airdraft.errors import Code, RefusedError

LABEL: ContextVar[str] = ContextVar("text", default="")
"""What the feed calls the text that this task writes. Empty: it finds a name by itself."""
ENDS = ("finished", "failed", "lost")
"""The events that end a trace."""
MOST_READERS = 16
"""Readers at once, beyond which the next is refused."""
MOST_WAITING = 4096
"""Events that wait for a reader, beyond which it misses the newest."""
MOST_OPEN = 64
"""Texts under way that a new reader is told of."""
BEAT_S, READINGS_S, HEARD_S = 0.05, 1.0, 0.25
"""Time in seconds between two deliveries to a reader, and between two readings, for a reader and in this process."""
Readings = Callable[[], Mapping[str, Any]]


class Speller(Protocol):
    """Turns the tokens of one text into characters, one after the other."""

    def push(self, token: int) -> str:
        """The characters that this token makes certain."""
        ...


class Feed:
    """Passes events on to readers, each with a queue of its own that is bounded. Without a reader it costs nothing."""

    def __init__(
        self,
        spell: Callable[[], Speller] | None = None,
        readings: Readings | None = None,
        *,
        shared: bool = False,
    ) -> None:
        """
        Args:
            spell: begins to spell a text; None: nobody may read what is written.
            readings: the figures to tell once a second; None: there are none.
            shared: readers are tenants, and hear nothing of each other: neither readings nor who shares a call.
        """
        self.spell, self.readings, self.shared = spell, readings, shared
        self._readers: set[_Reader] = set()
        self._ears = list[Callable[[dict[str, Any]], object]]()
        self._open: dict[str, tuple[str, dict[str, Any]]] = {}

    @property
    def wanted(self) -> bool:
        """Whether anybody reads, who may want words and chances."""
        return bool(self._readers)

    @property
    def heard(self) -> bool:
        """Whether anybody reads or listens."""
        return bool(self._readers or self._ears)

    def publish(self, owner: str, event: dict[str, Any]) -> None:
        """Pass an event of a text on to those who read, and belong to `owner` if there are several."""
        if event["event"] == "opened":
            self._open[event["text"]] = owner, event
        elif event["event"] in ENDS:
            self._open.pop(event["text"], None)
        for ear in self._ears:
            ear(event)
        if not self._readers:
            return
        if self.shared and event["event"] == "call":
            event = {name: value for name, value in event.items() if name not in ("texts", "tokens")}
        data = msgspec.json.encode(event)
        for reader in self._readers:
            if not self.shared or reader.owner == owner:
                reader.put(data)

    def aside(self, event: str, **what: Any) -> None:
        """Pass on an event that belongs to no session, of the text that this task writes."""
        if self.heard:
            self.publish("", {"text": LABEL.get(), "event": event, "at": _now(), **what})

    @contextlib.asynccontextmanager
    async def listening(self, ear: Callable[[dict[str, Any]], object], readings: Readings) -> AsyncIterator[None]:
        """Pass every event to `ear` in this process, with `readings` as often as a screen can show them."""

        def read() -> None:
            ear({"event": "readings", "at": _now(), **readings()})

        async def beat() -> None:
            while True:
                await asyncio.sleep(HEARD_S)
                read()

        read()
        self._ears.append(ear)
        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            self._ears.remove(ear)
            read()

    async def read(self, owner: str) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events as they come, several at once. Raises: `RefusedError` if there are many readers."""
        with self._reading(owner) as reader:
            yield b": an event stream\n\n"
            told = 0
            while True:
                if self.readings is not None and not self.shared and told <= 0:
                    told = round(READINGS_S / BEAT_S)
                    reader.put(msgspec.json.encode({"event": "readings", "at": _now(), **self.readings()}))
                told -= 1
                if data := reader.take():
                    yield data
                elif not told:
                    yield b": still here\n\n"
                await asyncio.sleep(BEAT_S)

    @contextlib.contextmanager
    def _reading(self, owner: str) -> Iterator[_Reader]:
        if len(self._readers) >= MOST_READERS:
            raise RefusedError(Code.BUSY, f"{MOST_READERS} pages are open; close one of them")
        reader = _Reader(owner)
        for whose, event in [*self._open.values()][-MOST_OPEN:]:
            if not self.shared or whose == owner:
                reader.put(msgspec.json.encode(event))
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)


class _Reader:
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._queue: deque[bytes] = deque()
        self._missed = 0

    def put(self, data: bytes) -> None:
        if len(self._queue) < MOST_WAITING:
            self._queue.append(data)
        else:
            self._missed += 1

    def take(self) -> bytes:
        """Everything that waits, as server-sent events."""
        parts = [*self._queue]
        self._queue.clear()
        if self._missed:
            parts.append(msgspec.json.encode({"event": "missed", "count": self._missed}))
            self._missed = 0
        return b"".join(b"data: " + part + b"\n\n" for part in parts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
