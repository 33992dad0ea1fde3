"""The WebSocket of both sides, which bounds what a peer may take: time of the loop, and memory.

The library reads and answers as much as comes. Here bytes are worked off in slices, what waits is bounded, and a peer
that does not read is not read.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Any, ClassVar

from websockets.asyncio.connection import Connection

MESSAGE_BYTES = 1 << 16
"""Most bytes in one WebSocket message. Frames are split anywhere, so no receiver has to take a long one, or several
waiting ones, as a single message."""
QUEUE = 4
"""WebSocket frames that may wait to be read."""
SLICE_S = 0.002
"""Seconds of this thread that one connection's bytes are worked on before others get their turn."""
SHARE = 0.15
"""Share of the loop's time that all connections get together which have used more than their own."""
BURST_S = 0.05
"""Seconds of work that a connection may do at once, whatever the others do."""
TURN_S = 2e-5
"""What a message costs the loop besides the work that is measured."""
ANSWER_S = 5e-5
"""What an answer, or a forward that is asked for, costs the loop after the work on a message."""
TEXT_S = 1e-3
"""What a text costs besides all of its messages and forwards: a place in the scheduler, a trace, lines of a log."""
PIECE = 1 << 11
"""Bytes that the library parses at once: the shortest frame has six."""
MOST_ANSWERS = 1 << 18
"""Most bytes in the transport's buffer, beyond which nothing is read. Only answers to WebSocket pings get there."""


class LoopShare:
    """The time of the loop that one connection may take. It is earned as time passes, and spent by working.

    A connection that has spent more rests until it is earned. Those that rest earn `SHARE` of the time together, so
    any number of them leaves the rest to the others.
    """

    _resting: ClassVar[weakref.WeakSet[LoopShare]] = weakref.WeakSet()

    def __init__(self) -> None:
        self._left_s = BURST_S
        self._at = time.monotonic()

    def spend(self, seconds: float) -> float:
        """Note work. Returns the seconds to rest."""
        now, rate = time.monotonic(), SHARE / max(1, len(self._resting))
        self._left_s = min(BURST_S, self._left_s + (now - self._at) * rate) - seconds
        self._at = now
        if self._left_s >= 0:
            self._resting.discard(self)
            return 0.0
        self._resting.add(self)
        return -self._left_s / rate

    def charge(self, seconds: float) -> None:
        """Note work to come, for which the next `spend` rests."""
        self._left_s -= seconds

    def rested(self) -> None:
        """Note the end of a rest."""
        self._resting.discard(self)


class Reined(Connection):
    """A WebSocket that reads in slices, and not at all while its peer does not read."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.share = LoopShare()
        self._unread = bytearray()
        self._rest: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the library's hold on the transport."""
        super().connection_made(transport)
        self.recv_messages.pause = self._pause
        self.recv_messages.resume = self._resume

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what is unread."""
        if self._rest is not None:
            self._rest.cancel()
        self._unread.clear()
        self.share.rested()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Work off what came, as far as the slice goes."""
        self._unread += data
        if self._rest is None:
            self._read()

    def resume_writing(self) -> None:
        """Go on reading from a peer that reads again."""
        super().resume_writing()
        self._resume()

    def _pause(self) -> None:
        self.transport.pause_reading()

    def _resume(self) -> None:
        if self._rest is None:
            self._rest = self.loop.call_later(0, self._rested)

    def _rested(self) -> None:
        self._rest = None
        self.share.rested()
        self._read()

    def _read(self) -> None:
        if self.transport.is_closing():
            self._unread.clear()
            return
        began_s, rest_s = time.thread_time(), 0.0
        while self._unread and not self._is_full():
            piece = bytes(self._unread[:PIECE])
            del self._unread[:PIECE]
            super().data_received(piece)
            if time.thread_time() - began_s > SLICE_S:
                break
        rest_s = self.share.spend(time.thread_time() - began_s)
        if not self._is_full() and (rest_s or self._unread):
            self._rest = self.loop.call_later(rest_s, self._rested)
        if self._rest is not None or self._is_full():
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _is_full(self) -> bool:
        """Whether reading waits for the driver, or for the peer to read: `_resume` is called afterwards."""
        return self.recv_messages.paused or (self.paused and self.transport.get_write_buffer_size() > MOST_ANSWERS)
