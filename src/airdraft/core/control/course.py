"""One cycle of `stream`, with constant delays and independent acceptance.

Renewal-reward (Ross, Stochastic Processes, §3.6): a cycle begins when the edge commits its own token where the device drafted another, and ends when that
happens again; speed is the mean of its tokens by the mean of its time. Until the next mismatch, device and edge run one
fixed course whatever the tokens are. So that course is walked once, and each step weighted with the chance that the
cycle lives to see it.

The rules walked:
- The device learns what a forward committed one downlink delay after its end, and drafts token after token, `draft_s`
  each, as long as the window past the committed length it knows of allows. A forward of the draft is not interrupted:
  after a mismatch the one under way, on a dead branch, takes draft_s/2 more on average.
- Drafts leave in packets of `first`, then `then` tokens, one behind the other at the uplink's rate; a packet that the
  window keeps from filling leaves as it is. What leaves in vain after a mismatch is counted, but not queued for.
- The edge, when free, takes the drafts that have arrived past the committed length, `MAX_DRAFT` at most, and commits
  them and one token of its own. If there are none it commits one token (race) or waits for some (race off).
- A position whose token the device learns before it has drafted one there cannot be a mismatch.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from dataclasses import dataclass

from airdraft.core.control.facts import Facts, Mode, Wire

MAX_DRAFT = 32
"""Drafts in one forward of the target, at most: an edge's usual limit."""

_TAIL = 1e-3
"""The walk ends when a cycle outlives it with this chance; what is left goes on at the pace of the last half."""
_MOST_FORWARDS = 300


@dataclass(frozen=True)
class Cycle:
    """What a cycle amounts to, on average; or, where no mismatch can end it, a stretch of it."""

    tokens: float
    seconds: float
    forwards: float
    """Of the target."""
    uplink_bits: float

    @property
    def tokens_per_s(self) -> float:
        """The reward by the time."""
        return self.tokens / self.seconds


def cycle(facts: Facts, wire: Wire, mode: Mode) -> Cycle:
    """The mean cycle of a stream of this `mode`."""
    down_s = facts.rtt_s / 2 + wire.answer_bits / facts.downlink_bps
    # The device is under way with a dead draft when it learns of a mismatch, unless the window kept it waiting.
    course = _Course(facts, wire, mode, down_s, down_s + facts.draft_s / 2)
    if course.device.idle_s > 0:
        busy = 1 - course.device.idle_s / (course.ends[-1][0] + down_s)
        course = _Course(facts, wire, mode, down_s, down_s + busy * facts.draft_s / 2)
    return course.mean(facts.acceptance)


class _Device:
    """The device on a branch that lives, as it learns of commits."""

    def __init__(self, facts: Facts, wire: Wire, mode: Mode, start_s: float) -> None:
        self._draft_s, self._window, self._then = facts.draft_s, mode.length, mode.then
        self._half_rtt_s = facts.rtt_s / 2
        self._wire, self._uplink_bps = wire, facts.uplink_bps
        self._free_s = start_s
        self._position = 1  # the next to be drafted
        self._known = 0  # committed length the device knows of
        self._commits: list[tuple[float, int]] = []  # (when the device learns it, committed length)
        self._learned = 0  # of those
        self._held, self._limit = 0, mode.first  # drafts not yet sent, and how many the next packet takes
        self._uplink_free_s = 0.0
        self.drafted: list[int] = []
        """Positions drafted before they were known, ascending."""
        self.packets: list[tuple[float, float, int, int]] = []
        """(sent, arrives, last position, bits), in order."""
        self.idle_s = 0.0
        """How long the window kept it waiting."""

    def tell(self, when_s: float, committed: int) -> None:
        """A commit will be known from `when_s` on. In order."""
        self._commits.append((when_s, committed))

    def advance(self, until_s: float, beyond: int | None = None) -> None:
        """Draft until the time `until_s`, or until a packet with a position past `beyond` has left."""
        while beyond is None or not self.packets or self.packets[-1][2] <= beyond:
            self._learn(self._free_s)
            if self._position > self._known + self._window:
                if self._held:
                    self._send()
                elif self._learned < len(self._commits) and self._commits[self._learned][0] <= until_s:
                    self.idle_s += self._commits[self._learned][0] - self._free_s
                    self._free_s = self._commits[self._learned][0]
                else:
                    return
                continue
            done_s = self._free_s + self._draft_s
            if done_s > until_s:
                return
            self._free_s = done_s
            drafting = self._position
            self._learn(done_s)
            if drafting > self._known:
                self.drafted.append(drafting)
                self._position += 1
                self._held += 1
                if self._held == self._limit:
                    self._send()

    def _learn(self, now: float) -> None:
        while self._learned < len(self._commits) and self._commits[self._learned][0] <= now:
            self._known = self._commits[self._learned][1]
            self._learned += 1
            if self._known >= self._position:
                self._position, self._held = self._known + 1, 0

    def _send(self) -> None:
        bits = self._wire.packet_bits(self._held)
        self._uplink_free_s = max(self._uplink_free_s, self._free_s) + bits / self._uplink_bps
        arrives_s = self._uplink_free_s + self._half_rtt_s
        self.packets.append((self._free_s, arrives_s, self._position - 1, bits))
        self._held, self._limit = 0, self._then


class _Course:
    """Device and edge until the next mismatch."""

    def __init__(self, facts: Facts, wire: Wire, mode: Mode, down_s: float, start_s: float) -> None:
        self.device = device = _Device(facts, wire, mode, start_s)
        self.ends: list[tuple[float, int]] = [(0.0, 0)]
        """(end of a forward, committed length), in order."""
        self._down_s = down_s
        acceptance = facts.acceptance
        enough = math.inf if acceptance == 1 else math.log(_TAIL) / math.log(max(acceptance, _TAIL))
        packets, taken = device.packets, 0
        now, committed, arrived = 0.0, 0, 0
        while len(self.ends) <= _MOST_FORWARDS and bisect_right(device.drafted, committed) < enough:
            if mode.race == "off":
                device.advance(math.inf, beyond=committed)
                now = max(now, next(packet[1] for packet in packets[taken:] if packet[2] > committed))
            else:
                device.advance(now)
            while taken < len(packets) and packets[taken][1] <= now:
                arrived = packets[taken][2]
                taken += 1
            now += facts.verify_s
            committed += 1 + min(max(0, arrived - committed), MAX_DRAFT)
            self.ends.append((now, committed))
            device.tell(now + down_s, committed)
        device.advance(now + down_s)  # what it drafts until the last commit is known

    def mean(self, acceptance: float) -> Cycle:
        """The mean over where the mismatch comes."""
        drafted, index, alive = self.device.drafted, 0, 1.0
        tokens = seconds = bits = 0.0
        lives = []  # the chance that each forward takes place
        for (before_s, before), (end_s, committed) in itertools.pairwise(self.ends):
            lives.append(alive)
            seconds += alive * (end_s - before_s)
            for position in range(before + 1, committed + 1):
                tokens += alive
                if index < len(drafted) and drafted[index] == position:
                    alive *= acceptance
                    index += 1
        # A packet leaves if no mismatch is known by then.
        running = 0
        for sent_s, _, _, packet_bits in self.device.packets:
            while running < len(lives) and self.ends[running + 1][0] <= sent_s - self._down_s:
                running += 1
            if running == len(lives):
                break
            bits += lives[running] * packet_bits
        whole = Cycle(tokens, seconds, sum(lives), bits)
        if alive == 0:
            return whole
        half = len(self.ends) // 2
        (begin_s, begin), (end_s, end) = self.ends[half], self.ends[-1]
        sent = sum(packet[3] for packet in self.device.packets if begin_s <= packet[0] < end_s)
        rest = Cycle(end - begin, end_s - begin_s, len(self.ends) - 1 - half, sent)
        inside = bisect_right(drafted, end) - bisect_right(drafted, begin)
        if acceptance == 1 or inside == 0:
            return rest
        times = alive / (1 - acceptance) / inside
        return Cycle(
            whole.tokens + times * rest.tokens,
            whole.seconds + times * rest.seconds,
            whole.forwards + times * rest.forwards,
            whole.uplink_bits + times * rest.uplink_bits,
        )
