"""What both machines share: frames in and out, heartbeats, and how a connection fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np

from airdraft.core.events import Echo, Event, Failed
from airdraft.core.messages import MAX_FILLER, MAX_FRAME, Decoder, Error, Message, Ping, Pong, encode
from airdraft.errors import BadParameterError, Code, LocalProtocolError, ModelError, RemoteProtocolError

HEARTBEAT_S = 10.0
SILENCE = 3
"""Heartbeats without a byte after which the peer is given up."""
MAX_PINGS = 8
"""Pings that may wait for their answer; an older one is forgotten."""


def known_rows(logits: np.ndarray, rows: int, vocab_size: int) -> np.ndarray:
    """What a forward gave, [rows, vocab or more], without the columns that are no token: models pad vocabularies.

    Raises: `ModelError` for a row in which nothing can be chosen.
    """
    if logits.ndim != 2 or len(logits) != rows or logits.shape[1] < vocab_size:
        raise LocalProtocolError(f"forwarded() got {logits.shape} logits where ({rows}, {vocab_size}) were asked for")
    logits = logits[:, :vocab_size]
    if not np.isfinite(logits.max(axis=1)).all():  # a NaN anywhere is the maximum
        raise ModelError("the model gave a row with NaN or infinity in it; its weights, or their format, may be broken")
    return logits


class Machine(ABC):
    """One end of one connection. Bytes, model results and times go in; bytes, events and a deadline come out."""

    def __init__(self, incoming: object, now: float, max_frame: int = MAX_FRAME) -> None:
        self._decoder = Decoder(incoming, max_frame)
        self._out = bytearray()
        self._now = self._heard = self._pinged = now
        self._pings: dict[float, Ping] = {}  # those without an answer, by their time
        self.heartbeat_s = HEARTBEAT_S
        self.rtt_s: float | None = None
        """The last measured round-trip time."""
        self.closed = False
        self.backlog = 0
        """Bytes that were taken and are not sent yet, as far as the driver has said."""

    @abstractmethod
    def _handle(self, message: Message, now: float) -> Iterable[Event]:
        """Act on one message. Faults of the peer are raised as `RemoteProtocolError` or `BadParameterError`."""

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the peer, cut anywhere. The events do not depend on the cuts."""
        events: list[Event] = []
        self._now = self._heard = now
        messages = self._decoder.feed(data)
        while not self.closed:
            try:
                message = next(messages, None)
                if message is None:
                    break
                if isinstance(message, Ping):
                    # Where much waits to be sent already, no filler: a few bytes of pings must not cost megabytes.
                    filler = bytes(message.want if self.backlog + len(self._out) < MAX_FILLER else 0)
                    self._send(Pong(message.t, filler, self._own_verify_s()))
                elif isinstance(message, Pong):
                    ping = self._pings.pop(message.t, None)
                    if ping is not None:  # any other t is of no ping of ours
                        self.rtt_s = now - message.t
                        events.append(self._echoed(Echo(self.rtt_s, len(encode(ping)), len(encode(message))), message))
                else:
                    events += self._handle(message, now)
            except RemoteProtocolError as error:
                events.append(self.fail(error.code, str(error)))
            except BadParameterError as error:
                events.append(self.fail(Code.SCHEME, str(error)))
        return events

    def take(self) -> bytes:
        """The bytes to send now."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def ping(self, now: float, filler: int = 0, want: int = 0) -> None:
        """Ask for an `Echo`, with `filler` bytes of filler on the way out and `want` on the way back."""
        self._pinged = now
        self._pings[now] = ping = Ping(now, bytes(filler), want)
        if len(self._pings) > MAX_PINGS:
            del self._pings[next(iter(self._pings))]
        self._send(ping)

    def _own_verify_s(self) -> float:
        """What a Pong of ours says of the target's speed."""
        return 0.0

    def _echoed(self, echo: Echo, pong: Pong) -> Echo:
        """A ping was answered. A place to learn from it."""
        return echo

    def _filler(self) -> int:
        """Bytes of filler in the next ping."""
        return 0

    def _ping_every_s(self) -> float:
        """Seconds between pings."""
        return self.heartbeat_s

    def deadline(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock; None when never."""
        if self.closed:
            return None
        return min(self._pinged + self._ping_every_s(), self._heard + SILENCE * self.heartbeat_s)

    def tick(self, now: float) -> list[Event]:
        """Time has passed."""
        self._now = now
        if self.closed:
            return []
        if now >= self._heard + SILENCE * self.heartbeat_s:
            return [self.fail(Code.SILENT, f"nothing was heard from the peer for {SILENCE * self.heartbeat_s:g} s")]
        if now >= self._pinged + self._ping_every_s():
            self.ping(now, self._filler())
        return []

    def fail(self, code: str, message: str) -> Failed:
        """End the connection: tell the peer why, ignore whatever still arrives."""
        self._send(Error(None, code, message))
        self.closed = True
        return Failed(None, code, message, ours=True)

    def _send(self, message: Message) -> None:
        if not self.closed:
            self._out += encode(message)
