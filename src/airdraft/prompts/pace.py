"""The decision between fetching and computing, block by block. Decides only; fetches nothing, and reads no clock.

The keys and values of a block depend on all tokens before it. So nothing behind a block can be computed until that
block is there, but what is in front of it can: the engine computes from the first token on while blocks are fetched
from the last one back, and where the two meet the prompt is read. Neither waits for the other, so a store that is slow,
or gone, costs next to nothing: a wait of at most 4 % of the time that computing alone would take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from airdraft.prompts.blocks import BLOCK

WINDOW = 16
"""Blocks that are asked for at once, at most."""
_FEW = 2
"""The same where the store's speed is not known. Blocks on their way together share the link, and so all come late: no
more of them than keep the link busy."""
LEAST = 8
"""Fewest tokens that are computed while more is about to come; for less it waits."""
PATIENCE = 0.04
"""Share of the time of computing alone that a prompt may wait in all."""
MOST = 128
"""Tokens in one piece of a prompt."""
_MOMENT_S = 1e-4
"""A shorter wait is none."""
_WEIGHT = 0.5
"""Of a new measurement."""


@dataclass
class Speeds:
    """What is known of a store, and of an engine that reads prompts. None: not yet measured."""

    bytes_per_s: float | None = None
    latency_s: float | None = None
    """From asking until bytes come."""
    tokens_per_s: float | None = None
    """Of a prompt, computed."""

    def fetched(self, count: int, seconds: float, first_s: float) -> None:
        """Learn from bytes that came after the first block, which itself came after `first_s`."""
        self.bytes_per_s = _mixed(self.bytes_per_s, count / max(seconds, 1e-9))
        self.latency_s = _mixed(self.latency_s, first_s)

    def computed(self, tokens: int, seconds: float) -> None:
        """Learn from a piece of a prompt."""
        self.tokens_per_s = _mixed(self.tokens_per_s, tokens / max(seconds, 1e-9))


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else (1 - _WEIGHT) * old + _WEIGHT * new


class Advice(NamedTuple):
    """What a prompt does next."""

    blocks: range = range(0)
    """Take over these, which are there."""
    piece: int | None = None
    """Then compute so many tokens at most."""
    wait_s: float = 0.0
    """Or wait so long for more."""


class Meeting:
    """One prompt of `blocks` blocks, of which the last is asked for first."""

    def __init__(self, pace: Speeds, blocks: int, block_bytes: int, at: int, now: float) -> None:
        """`at`: positions that are computed already."""
        self._pace, self._bytes = pace, block_bytes
        self._front = self._asked = self._end = blocks
        self._began = self._last = now
        self._settled: dict[int, bool] = {}  # whether it came, or is lost
        self._first_s: float | None = None
        self._together = 0  # blocks that were on their way when the first came
        self._at, self._moved = at, now
        self._computing = False
        self._patience_s: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come: all is settled, or was not worth asking for."""
        return self._front == self._asked

    def ask(self, at: int, now: float) -> int | None:
        """The block to ask for now; None: enough are on their way, or computing it is sooner done."""
        block = self._asked - 1
        on_way = self._end - self._asked - len(self._settled)
        if on_way >= self._window or block < 0 or at >= BLOCK * (block + 1):
            return None
        speed = self._pace.tokens_per_s
        if speed is not None and self._eta(block, now) > (BLOCK * (block + 1) - at) / speed:
            return None
        self._asked = block
        return block

    def settle(self, block: int, now: float, *, came: bool) -> None:
        """A block that was asked for came, or will not."""
        self._settled[block] = came
        if came:
            if self._first_s is None:
                self._first_s, self._together = now - self._began, self._end - self._asked
            else:
                count = sum(self._settled.values()) - 1
                if count >= max(_FEW, min(self._together, WINDOW // 2)):
                    each_s = (now - self._began - self._first_s) / count
                    self._pace.fetched(self._bytes, each_s, self._latency_s(each_s))
        self._last = now
        while self._front - 1 in self._settled:
            self._front -= 1

    def advise(self, at: int, now: float) -> Advice:
        """What the prompt does next, of which `at` positions are held."""
        self._learn(at, now)
        first = at // BLOCK
        if self._settled.get(first):
            end = first
            while self._settled.get(end):
                end += 1
            self._at, self._computing = BLOCK * end, False
            return Advice(range(first, end))
        self._computing = True
        if self.over or at >= BLOCK * self._front:
            come = [block for block, came in self._settled.items() if came and block > first]
            return Advice(piece=min(MOST, BLOCK * min(come) - at) if come else None)
        speed = self._pace.tokens_per_s
        if speed is None:
            return Advice(piece=MOST)
        if not math.isfinite(self._per_block_s(now)):
            return Advice(piece=MOST)
        # Met at a block, the engine has computed all before it, and the store has sent it and all behind it.
        meets_s = min(
            max((BLOCK * block - at) / speed, 0.0 if block == self._front else self._eta(block, now))
            for block in range(first, self._front + 1)
        )
        meeting = int(meets_s * speed)
        if meeting >= LEAST:
            return Advice(piece=min(MOST, meeting))
        if self._patience_s is None:
            self._patience_s = PATIENCE * BLOCK * self._end / speed
        wait_s = min(self._patience_s, LEAST / speed)
        if wait_s < _MOMENT_S:
            return Advice(piece=LEAST)
        self._computing = False
        return Advice(wait_s=wait_s)

    def waited(self, seconds: float) -> None:
        """Note a wait."""
        if self._patience_s is not None:
            self._patience_s = max(0.0, self._patience_s - seconds)

    def _latency_s(self, each_s: float) -> float:
        """Seconds that a block takes which is asked for alone, as far as the first one tells: those beside it may have
        had a share of the link."""
        first_s = self._first_s or 0.0
        least_s = max(0.0, first_s - (self._together - 1) * each_s)
        return min(first_s, max(least_s, self._pace.latency_s or 0.0))

    @property
    def _window(self) -> int:
        """Blocks that may be on their way."""
        rate, latency_s = self._pace.bytes_per_s, self._pace.latency_s
        if rate is None or latency_s is None:
            return 1 if self._first_s is None else _FEW
        return min(WINDOW, max(_FEW, math.ceil(latency_s * rate / self._bytes - 1e-9)))

    def _learn(self, at: int, now: float) -> None:
        if self._computing and at > self._at and now > self._moved:
            self._pace.computed(at - self._at, now - self._moved)
        self._at, self._moved = at, now

    def _per_block_s(self, now: float) -> float:
        """Seconds from one block to the next; longer than measured, if the next one is overdue."""
        rate = self._pace.bytes_per_s
        usual = 0.0 if rate is None else self._bytes / rate
        if self._first_s is None and self._pace.latency_s is not None:
            late = now - self._began - self._pace.latency_s
        elif self._first_s is None:
            return math.inf if rate is None else max(usual, now - self._began)
        else:
            late = now - self._last
        return max(usual, 2 * late if late > usual else usual)

    def _eta(self, block: int, now: float) -> float:
        """Seconds until a block comes. 0 where nothing is known of the store: it is worth finding out."""
        if self._pace.bytes_per_s is None or self._pace.latency_s is None:
            return 0.0
        begins = self._began + self._pace.latency_s if self._first_s is None else self._last
        ahead = (self._front - block) if self._first_s is not None else (self._front - block - 1)
        return max(0.0, begins + ahead * self._per_block_s(now) - now)
