"""The common part of both machines: frames in and out, heartbeats, and failures of the connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import numpy as np

from airdraft.core.events import Echo, Event, Failed, Out
from airdraft.core.logprobs import Logprob
from airdraft.core.messages import MAX_FILLER, MAX_FRAME, Decoder, Error, Message, Ping, Pong, clip, encode
from airdraft.errors import BadParameterError, Code, LocalProtocolError, ModelError, RemoteProtocolError

HEARTBEAT_S = 10.0
SILENCE = 3
"""Heartbeats of silence after which a connection fails."""
MAX_PINGS = 8
"""Most pings that wait for an answer; older ones are forgotten."""


def known_rows(logits: np.ndarray, rows: int, vocab_size: int) -> np.ndarray:
    """Drop the columns that are not tokens from [rows, vocab or more] logits, since models pad their vocabularies.

    An array of answers and rows, see `Forward.needs`, is checked alike, and one of tokens and rows returned.
    Raises: `ModelError` for a row from which no token can be chosen.
    """
    if logits.dtype == object and logits.shape == (rows,):
        for at, row in enumerate(logits := logits.copy()):
            ids = [row.token, *dict(row.top)] if isinstance(row, Logprob) else [row]
            logits[at] = ids[0]
            if not isinstance(ids[0], int):
                known_rows(row[None], 1, vocab_size)
            elif not (min(ids) >= 0 and max(ids) < vocab_size):
                raise ModelError(f"the engine chose the tokens {ids}, of {vocab_size}; its code may be broken")
        return logits
    if logits.ndim != 2 or len(logits) != rows or logits.shape[1] < vocab_size:
        raise LocalProtocolError(f"forwarded() got {logits.shape} logits where ({rows}, {vocab_size}) were asked for")
    logits = logits[:, :vocab_size]
    if not np.isfinite(logits.max(axis=1)).all():  # a NaN anywhere is the maximum
        raise ModelError("the model gave a row with NaN or infinity in it; its weights, or their format, may be broken")
    return logits


class Machine(ABC):
    """One end of a connection. Bytes, model results and times go in; bytes, events and a deadline come out."""

    failed: Callable[[int, str, str], list[Event]]

    def __init__(self, incoming: object, now: float, max_frame: int = MAX_FRAME) -> None:
        self._decoder = Decoder(incoming, max_frame)
        self._out = bytearray()
        self._now = self._heard = self._pinged = now
        self._pings: dict[float, Ping] = {}  # without an answer yet, by send time
        self.heartbeat_s = HEARTBEAT_S
        self.rtt_s: float | None = None
        """The last round-trip time, in seconds."""
        self.closed = False
        self.backlog = 0
        """Bytes taken but not sent yet, set by the driver."""

    @property
    def held_bytes(self) -> int:
        """Bytes that the peer sent and that wait for a model."""
        return 0

    @abstractmethod
    def _handle(self, message: Message, now: float) -> Iterable[Event]:
        """Act on one message. Raises: `RemoteProtocolError` or `BadParameterError` for the peer's faults."""

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take bytes from the peer, split anywhere, and act on all of them. The events do not depend on the split."""
        self.feed(data, now)
        events: list[Event] = []
        while (found := self.step(now)) is not None:
            events += found
        return events

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes from the peer for `step`."""
        self._now = self._heard = now
        if not self.closed:
            self._decoder.add(data)

    def step(self, now: float) -> list[Event] | None:
        """Act on the next message. None: none is complete."""
        self._now = now
        try:
            message = None if self.closed else self._decoder.take()
            if message is None:
                return None
            if isinstance(message, Ping):
                # Send no filler while much is still unsent, or a few bytes of pings could cost megabytes.
                filler = bytes(message.want if self.backlog + len(self._out) < MAX_FILLER else 0)
                self._send(Pong(message.t, filler, self._own_verify_s()))
                return []
            if not isinstance(message, Pong):
                return list(self._handle(message, now))
            ping = self._pings.pop(message.t, None)
            if ping is None:  # its t belongs to none of our pings
                return []
            self.rtt_s = now - message.t
            return [self._echoed(Echo(self.rtt_s, len(encode(ping)), len(encode(message))), message)]
        except (RemoteProtocolError, BadParameterError) as error:
            return [self.fail(error.code, str(error))]
        except ModelError as error:  # the guide of a text has given up, which ends no other
            return self.failed(message.session, error.code, str(error))  # type: ignore[union-attr]

    def take(self) -> bytes:
        """Take the bytes to send now."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def ping(self, now: float, filler: int = 0, want: int = 0) -> None:
        """Send a ping with `filler` bytes of filler, and ask for `want` bytes back. Its answer gives an `Echo`."""
        self._pinged = now
        self._pings[now] = ping = Ping(now, bytes(filler), want)
        if len(self._pings) > MAX_PINGS:
            del self._pings[next(iter(self._pings))]
        self._send(ping)

    def _own_verify_s(self) -> float:
        """Duration of a target forward that our pongs report, in seconds."""
        return 0.0

    def _echoed(self, echo: Echo, pong: Pong) -> Echo:
        """Learn from an answered ping."""
        return echo

    def _filler(self) -> int:
        """Bytes of filler in the next ping."""
        return 0

    def _ping_every_s(self) -> float:
        """Seconds between pings."""
        return self.heartbeat_s

    def deadline(self) -> float | None:
        """Time of the next `tick`, on the caller's clock. None: never."""
        if self.closed:
            return None
        return min(self._pinged + self._ping_every_s(), self._heard + SILENCE * self.heartbeat_s)

    def tick(self, now: float) -> list[Event]:
        """Note that time has passed."""
        self._now = now
        if self.closed:
            return []
        if now >= self._heard + SILENCE * self.heartbeat_s:
            return [self.fail(Code.SILENT, f"nothing was heard from the peer for {SILENCE * self.heartbeat_s:g} s")]
        if now >= self._pinged + self._ping_every_s():
            self.ping(now, self._filler())
        return []

    def fail(self, code: str, message: str) -> Failed:
        """End the connection. Tell the peer why, and ignore whatever still arrives."""
        self._send(Error(None, code, clip(message)))
        self.closed = True
        return Failed(None, code, message, ours=True)

    def _emit(self, outs: Iterable[Out]) -> list[Event]:
        """Send a session's messages and return its events."""
        events: list[Event] = []
        for out in outs:
            if isinstance(out, Message):
                self._send(out)
            else:
                events.append(out)
        return events

    def _send(self, message: Message) -> None:
        if not self.closed:
            self._out += encode(message)
