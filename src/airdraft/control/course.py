"""One cycle of `stream`, with constant delays and independent acceptance.

By renewal-reward (Ross, Stochastic Processes, §3.6), a cycle begins when the edge commits its own token where the
device drafted another, and ends when that happens again. Speed is the mean of its tokens divided by the mean of its
time. Until the next mismatch, device and edge follow one fixed course, whatever the tokens are. So this module walks
that course, and weights each step by the chance that the cycle reaches it.

The rules of the walk:
- The device learns of a commit one downlink delay after the forward ends. It drafts one token after another, `draft_s`
  each, while its window past the known committed length allows. A draft forward is not interrupted: after a mismatch,
  one under way on the dead branch must end first.
- Drafts leave in packets of `first`, then `then` tokens, one after another at the uplink's rate. A packet that the
  window keeps from filling leaves as it is. Packets wasted after a mismatch are counted, but delay nothing.
- A free edge takes the drafts that have arrived past the committed length, at most `MAX_DRAFT`, and commits them and
  one token of its own. Without drafts it commits one token (race) or waits for some (race off). An edge with a draft
  model of its own first adds drafts, one after another, while that makes it faster and none arrive from the device in
  their place. One of these that is wrong ends the cycle as well.
- A position whose token the device learns before drafting there cannot be a mismatch.
"""

from __future__ import annotations

import functools
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from airdraft.control.facts import Wire
from airdraft.core.policy import Facts, Mode
from airdraft.errors import BadParameterError

MAX_DRAFT = 32
"""Most drafts in one target forward, the usual limit of an edge."""
OWN_DRAFTS = 16
"""Most drafts that an edge makes itself for one."""

_TAIL = 0.02
"""Chance that a cycle outlives the walk, at which it ends. The rest goes on at the pace of the last half."""
_FEWEST_FORWARDS, _MOST_FORWARDS = 12, 150


@dataclass(frozen=True)
class Cycle:
    """The mean of a cycle, or of a stretch of it if no mismatch can end it."""

    tokens: float
    seconds: float
    forwards: float
    """Target forwards."""
    uplink_bits: float
    drafts: float
    """Forwards of the device's draft model, dead ones included."""

    @property
    def tokens_per_s(self) -> float:
        """Tokens divided by time."""
        return self.tokens / self.seconds


def cycle(facts: Facts, wire: Wire, mode: Mode) -> Cycle:
    """Compute the mean cycle of a stream in this `mode`. Raises: `BadParameterError` without a window."""
    if mode.length < 1:
        raise BadParameterError(f"the window of a stream is {mode.length}; give at least 1 token")
    down_s, half_s = facts.rtt_s / 2 + wire.answer_bits / facts.downlink_bps, facts.draft_s / 2
    halfway = _Course(facts, wire, mode, down_s, half_s)
    busy, late_s = halfway.dead_draft()
    if mode.race == "off":  # the edge waits for the device, so the delay is the same in every cycle
        shares = {busy * late_s: 1.0}
    else:  # the clocks are independent, so any part of a forward may be left: try three parts
        third = busy / 3
        shares = {0.0: 1 - busy, facts.draft_s / 6: third, half_s: third, facts.draft_s * 5 / 6: third}
    tokens = seconds = forwards = bits = drafts = 0.0
    for late_s, share in shares.items():
        if share > 0.01:
            mean = (halfway if late_s == half_s else _Course(facts, wire, mode, down_s, late_s)).mean()
            tokens += share * mean.tokens
            seconds += share * mean.seconds
            forwards += share * mean.forwards
            bits += share * mean.uplink_bits
            drafts += share * mean.drafts
    # If a queue would grow, the link sets the pace, except that an edge that races needs no uplink to go on.
    _, alone, took_s = helped(facts.acceptance, facts.verify_s, facts.edge_draft_s)
    queue_s = bits / facts.uplink_bps if mode.race == "off" else min(bits / facts.uplink_bps, tokens * took_s / alone)
    seconds = max(seconds, queue_s, forwards * wire.answer_bits / facts.downlink_bps)
    return Cycle(tokens, seconds, forwards, bits, drafts)


@functools.lru_cache(maxsize=1024)
def helped(acceptance: float, verify_s: float, draft_s: float) -> tuple[int, float, float]:
    """A forward of an edge that drafts itself, without a device. A draft takes it `draft_s`; 0: it makes none.

    Returns: the drafts up to which another one makes what is left of the forward faster, the tokens that it then
    commits in the mean, and the seconds that it takes.
    """
    length, chance, tokens = 0, acceptance, 1.0
    while draft_s and length < OWN_DRAFTS and chance * verify_s > tokens * draft_s:
        length, chance, tokens = length + 1, chance * acceptance, tokens + chance
    return length, tokens, verify_s + length * draft_s


class _Device:
    """The device on a live branch, as it learns of commits."""

    def __init__(self, facts: Facts, wire: Wire, mode: Mode, start_s: float) -> None:
        self._draft_s, self._window, self._then = facts.draft_s, mode.length, mode.then
        self._half_rtt_s = facts.rtt_s / 2
        self._wire, self._uplink_bps = wire, facts.uplink_bps
        self._free_s = start_s
        self._position = 1  # the next to draft
        self._known = 0  # committed length known to the device
        self._commits: list[tuple[float, int]] = []  # (time when the device learns it, committed length)
        self._learned = 0  # number of those learned
        self._held, self._limit = 0, mode.first  # unsent drafts, and the size of the next packet
        self._uplink_free_s = 0.0
        self.drafted: list[int] = []
        """Positions drafted before their tokens were known, ascending."""
        self.packets: list[tuple[float, float, int, int]] = []
        """(sent, arrives, last position, bits), in order."""
        self.begun: list[float] = []
        """Start times of its forwards, in order."""
        self.done: list[float] = []
        """Their end times."""

    def tell(self, when_s: float, committed: int) -> None:
        """Note a commit that is known from `when_s` on. Call this in order of time."""
        self._commits.append((when_s, committed))

    def advance(self, until_s: float, beyond: int | None = None) -> None:
        """Draft until time `until_s`, or until a packet with a position past `beyond` leaves."""
        while beyond is None or not self.packets or self.packets[-1][2] <= beyond:
            self._learn(self._free_s)
            if self._position > self._known + self._window:
                if self._held:
                    self._send()
                elif self._learned < len(self._commits) and self._commits[self._learned][0] <= until_s:
                    self._free_s = self._commits[self._learned][0]
                else:
                    return
                continue
            done_s = self._free_s + self._draft_s
            if done_s > until_s:
                return
            self.begun.append(self._free_s)
            self.done.append(done_s)
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

    def __init__(self, facts: Facts, wire: Wire, mode: Mode, down_s: float, late_s: float) -> None:
        """`late_s`: seconds for which a dead draft keeps the device busy after news of the last mismatch."""
        self._device = _Device(facts, wire, mode, down_s + late_s)
        self._ends: list[tuple[float, int]] = [(0.0, 0)]  # (end of a forward, committed length), in order
        self._down_s, self._draft_s, self._acceptance = down_s, facts.draft_s, facts.acceptance
        self._verify_s, self._edge_draft_s = facts.verify_s, facts.edge_draft_s
        self._enough, _, _ = helped(facts.acceptance, facts.verify_s, facts.edge_draft_s)
        self._device_acceptance = facts.acceptance + facts.beside * (1 - facts.acceptance)
        self._own: set[int] = set()  # positions that the edge drafted itself
        self._walk(mode.race)
        self._weigh()

    def _walk(self, race: str) -> None:
        device, packets, taken = self._device, self._device.packets, 0
        alpha = min(max(self._acceptance, _TAIL), 0.97)  # beyond that the course is long, and becomes steady early
        enough = math.log(_TAIL) / math.log(alpha)  # judged drafts
        now, committed, arrived = 0.0, 0, 0
        for number in range(_MOST_FORWARDS):
            if number >= _FEWEST_FORWARDS and bisect_right(device.drafted, committed) >= enough:
                break
            if race == "off" and arrived <= committed:
                device.advance(math.inf, beyond=committed)
                now = max(now, next(packet[1] for packet in packets[taken:] if packet[2] > committed))
            length = 0
            while True:
                device.advance(now)
                while taken < len(packets) and packets[taken][1] <= now:
                    arrived = packets[taken][2]
                    taken += 1
                length = max(length, min(arrived - committed, MAX_DRAFT))
                if length >= self._enough:
                    break
                length, now = length + 1, now + self._edge_draft_s
            now += self._verify_s
            self._own.update(range(max(arrived, committed) + 1, committed + length + 1))
            committed += 1 + length
            self._ends.append((now, committed))
            device.tell(now + self._down_s, committed)
        device.advance(now + self._down_s + self._draft_s)  # its drafts before it knows the last commit

    def _weigh(self) -> None:
        """Find the chance that the cycle reaches each forward, and its tokens until the course ends."""
        drafted, index, alive = self._device.drafted, 0, 1.0
        self._tokens = 0.0
        self._lives = [alive]  # before each forward, and after the last
        for (_, before), (_, committed) in itertools.pairwise(self._ends):
            for position in range(before + 1, committed + 1):
                self._tokens += alive
                known = index < len(drafted) and drafted[index] == position
                index += known
                if position in self._own:
                    alive *= self._acceptance
                elif known:
                    alive *= self._device_acceptance
            self._lives.append(alive)

    def dead_draft(self) -> tuple[float, float]:
        """Return the chance that news of the mismatch meets a dead draft under way, and the time left in it."""
        done, chance, total_s = self._device.done, 0.0, 0.0
        for number in range(1, len(self._ends)):
            heard_s = self._ends[number][0] + self._down_s
            following = bisect_right(done, heard_s)
            left_s = done[following] - heard_s if following < len(done) else math.inf
            if left_s < 0.999 * self._draft_s:  # else it starts then or later, because the window made it wait
                ends_here = self._lives[number - 1] - self._lives[number]
                chance += ends_here
                total_s += ends_here * left_s
        died = 1 - self._lives[-1]
        return (chance / died, total_s / chance) if chance else (0.0, 0.0)

    def mean(self) -> Cycle:
        """Average over the position of the mismatch."""
        lives, alive = self._lives, self._lives[-1]
        seconds = sum(
            life * (end[0] - begin[0])
            for life, (begin, end) in zip(lives[:-1], itertools.pairwise(self._ends), strict=True)
        )
        bits = self._lasting((sent_s, packet_bits) for sent_s, _, _, packet_bits in self._device.packets)
        drafts = self._lasting((begun_s, 1) for begun_s in self._device.begun)
        if alive == 0:
            return Cycle(self._tokens, seconds, sum(lives[:-1]), bits, drafts)
        rest, drafted = self._last_half()
        if self._acceptance == 1 or drafted == 0:
            return rest
        times = alive / (1 - self._acceptance) / drafted
        return Cycle(
            self._tokens + times * rest.tokens,
            seconds + times * rest.seconds,
            sum(lives[:-1]) + times * rest.forwards,
            bits + times * rest.uplink_bits,
            drafts + times * rest.drafts,
        )

    def _lasting(self, begun: Iterable[tuple[float, int]]) -> float:
        """Add up what the device does, as (time, amount) in order: each unless it knows of a mismatch by then."""
        total, running, last = 0.0, 0, len(self._ends) - 1
        for begun_s, amount in begun:
            while running < last and self._ends[running + 1][0] + self._down_s <= begun_s:
                running += 1
            if running == last:
                break
            total += self._lives[running] * amount
        return total

    def _last_half(self) -> tuple[Cycle, int]:
        """Return the last half of the course, and the number of drafts judged in it."""
        half = (len(self._ends) - 1) // 2
        (begin_s, begin), (end_s, end) = self._ends[half], self._ends[-1]
        sent = sum(bits for sent_s, _, _, bits in self._device.packets if begin_s <= sent_s < end_s)
        drafted = self._device.drafted
        judged = len({*drafted[bisect_right(drafted, begin) : bisect_right(drafted, end)],
                      *(position for position in self._own if begin < position <= end)})  # fmt: skip
        drafts = sum(begin_s <= begun_s < end_s for begun_s in self._device.begun)
        return Cycle(end - begin, end_s - begin_s, len(self._ends) - 1 - half, sent, drafts), judged
