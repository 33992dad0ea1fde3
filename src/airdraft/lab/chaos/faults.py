"""Faults between a device and an edge, drawn from a seed and applied in a session's virtual time.

A fault has a kind, a moment and, for some kinds, a length. Lasting faults are functions of time alone: bytes that
arrive and forwards that begin meanwhile are delayed or slowed. Momentary ones end the connection, or cost the edge its
cache.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from airdraft.core.connection import SILENCE
from airdraft.core.events import Forward
from airdraft.link.base import LinkModel, Pipe
from airdraft.sim.virtual import Compute, Side

Kind = Literal[
    "delay", "stall", "silence", "drop", "tear", "restart", "handover", "busy", "evict", "slow device", "slow edge"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
MEANING: dict[Kind, str] = {
    "delay": "for a while every message takes longer",
    "stall": "nothing arrives for a while, less than three heartbeats, then all of it at once",
    "silence": "nothing arrives for longer than three heartbeats",
    "drop": "the connection ends; what is in flight is lost",
    "tear": "the connection ends in the middle of a frame: a part of it arrives",
    "restart": "the edge ends, and with it its sessions and caches; it listens again after a while",
    "handover": "the device moves to another edge with the same target",
    "busy": "the connection ends, and for a while the edge refuses every text as `busy`",
    "evict": "the edge loses a text's cache and feeds it again: a longer forward",
    "slow device": "for a while a forward of the draft model takes longer",
    "slow edge": "for a while a forward of the target takes longer",
}
ENDING: tuple[Kind, ...] = ("drop", "tear", "restart", "handover", "busy")
"""Kinds that end the connection at their moment."""
MOST = 9
"""Most faults in one session. After the last its text must come to its end."""
FEED_S = 2e-3
"""Seconds to feed a token again, after an eviction."""


@dataclass
class Fault:
    """One fault. Times are in seconds of the session's clock."""

    kind: Kind
    at_s: float
    lasts_s: float = 0.0
    strength: float = 0.0
    """delay: seconds; slow: a factor; tear: the share that arrives."""
    side: Side = "device"
    """tear: the side that receives the torn bytes."""
    hit: bool = field(default=False, compare=False)
    """Whether the session has felt it."""

    @property
    def until_s(self) -> float:
        """The time at which it is over."""
        return self.at_s + self.lasts_s

    def __str__(self) -> str:
        lasting = f" for {self.lasts_s:.3f} s" if self.lasts_s else ""
        by = f" by {self.strength:.3g}" if self.strength else ""
        return f"{self.kind}{lasting}{by}"


def draw(rng: random.Random, seconds: float, heartbeat_s: float) -> list[Fault]:
    """Draw faults for a text that would take so many seconds without them, in the order of their moments."""
    faults, at_s = [], rng.uniform(0, seconds / 2)
    for _ in range(rng.randint(1, MOST)):
        kind = rng.choice(KINDS)
        fault = Fault(kind, at_s, side=rng.choice(("device", "edge")))
        if kind in ("delay", "slow device", "slow edge"):
            fault.lasts_s = rng.uniform(0.1, 1.0) * seconds
            fault.strength = rng.uniform(0.01, 0.3) if kind == "delay" else rng.uniform(2, 10)
        elif kind == "stall":
            fault.lasts_s = rng.uniform(0.1, 0.9) * SILENCE * heartbeat_s
        elif kind == "silence":
            fault.lasts_s = rng.uniform(1.1, 2.0) * SILENCE * heartbeat_s
        elif kind in ("restart", "busy"):
            fault.lasts_s = rng.uniform(0.05, 3.0)
        elif kind == "tear":
            fault.strength = rng.uniform(0.05, 0.95)
        faults.append(fault)
        at_s += rng.expovariate(3 / seconds) + (fault.lasts_s if kind in ("silence", "restart", "busy") else 0)
    return faults


def _during(faults: Sequence[Fault], now: float, *kinds: Kind) -> Iterator[Fault]:
    return (fault for fault in faults if fault.kind in kinds and fault.at_s <= now < fault.until_s)


class _Pipe:
    """A pipe that delivers later while a fault lasts, and in order, as TCP does."""

    def __init__(self, pipe: Pipe, faults: Sequence[Fault]) -> None:
        self._pipe, self._faults = pipe, faults
        self._arrival_s = 0.0

    @property
    def payload_bytes(self) -> int:
        """See `Pipe`."""
        return self._pipe.payload_bytes

    @property
    def sent_bytes(self) -> int:
        """See `Pipe`."""
        return self._pipe.sent_bytes

    @property
    def free_at_s(self) -> float:
        """See `Pipe`."""
        return self._pipe.free_at_s

    def send(self, now: float, nbytes: int) -> float:
        """See `Pipe.send`."""
        arrival_s = self._pipe.send(now, nbytes)
        for fault in _during(self._faults, now, "delay"):
            arrival_s += fault.strength
            fault.hit = True
        for fault in self._faults:  # in the order of their moments, so that one may end in the next
            if fault.kind in ("stall", "silence") and fault.at_s <= arrival_s < fault.until_s:
                arrival_s = fault.until_s
                fault.hit = True
        self._arrival_s = max(self._arrival_s, arrival_s)
        return self._arrival_s


@dataclass(frozen=True)
class TroubledLink:
    """A link that faults act on."""

    link: LinkModel
    faults: Sequence[Fault]

    def uplink(self) -> Pipe:
        """See `LinkModel`."""
        return _Pipe(self.link.uplink(), self.faults)

    def downlink(self) -> Pipe:
        """See `LinkModel`."""
        return _Pipe(self.link.downlink(), self.faults)


@dataclass(frozen=True)
class TroubledCompute(Compute):
    """Compute that faults act on."""

    faults: Sequence[Fault] = ()

    def takes_s(self, side: Side, forward: Forward, now: float) -> float:
        """See `Compute.takes_s`."""
        seconds = super().takes_s(side, forward, now)
        for fault in _during(self.faults, now, "slow device" if side == "device" else "slow edge"):
            seconds *= fault.strength
            fault.hit = True
        if side == "edge" and forward.keep:
            for fault in self.faults:
                if fault.kind == "evict" and fault.at_s <= now and not fault.hit:
                    seconds += FEED_S * forward.keep
                    fault.hit = True
        return seconds
