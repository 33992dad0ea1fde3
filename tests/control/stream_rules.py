"""The rules of a stream, token by token with an event queue and random matches: what predictions are held against."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from airdraft.control.facts import Wire
from airdraft.core.policy import Facts, Mode


@dataclass
class Branch:
    """A run of drafts between two mismatches."""

    bad: float = math.inf
    """First position where the device drafted another token than the target's."""
    arrived: int = 0
    """Last position that has come to the edge."""


@dataclass
class Played:
    """What came of it."""

    tokens: int
    seconds: float
    forwards: int
    uplink_bits: int
    drafts: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


class Stream:
    """One text, long enough to be steady."""

    def __init__(self, facts: Facts, wire: Wire, mode: Mode, seed: int, max_draft: int = 32) -> None:
        self.facts, self.wire, self.mode, self.max_draft = facts, wire, mode, max_draft
        self.rng = np.random.default_rng(seed)
        self.events: list[tuple[float, int, str, object]] = []
        self.order = 0
        self.now = 0.0
        self.committed = self.forwards = self.bits = self.drafts = 0
        self.forwarding = self.drafting = False
        self.edge_branch = self.branch = Branch()
        self.position, self.known, self.held, self.limit = 1, 0, 0, mode.first
        self.uplink_free = self.downlink_free = 0.0

    def at(self, when: float, what: str, value: object = None) -> None:
        self.order += 1
        heapq.heappush(self.events, (when, self.order, what, value))

    def play(self, tokens: int) -> Played:
        self.device()
        self.edge()
        while self.committed < tokens:
            self.now, _, what, value = heapq.heappop(self.events)
            getattr(self, what)(value)
        return Played(self.committed, self.now, self.forwards, self.bits, self.drafts)

    def device(self) -> None:
        """Start a forward of the draft, or flush what the window keeps from growing."""
        if self.drafting:
            return
        if self.position <= self.known + self.mode.length:
            self.drafting, self.drafts = True, self.drafts + 1
            self.at(self.now + self.facts.draft_s, "drafted", (self.branch, self.position))
        elif self.held:
            self.send()

    def drafted(self, asked: tuple[Branch, int]) -> None:
        self.drafting = False
        if asked == (self.branch, self.position) and asked[0] is self.branch:
            if self.rng.random() >= self.facts.acceptance:
                self.branch.bad = min(self.branch.bad, self.position)
            self.position += 1
            self.held += 1
            if self.held == self.limit:
                self.send()
        self.device()

    def send(self) -> None:
        bits = self.wire.packet_bits(self.held)
        self.bits += bits
        self.uplink_free = max(self.uplink_free, self.now) + bits / self.facts.uplink_bps
        self.at(self.uplink_free + self.facts.rtt_s / 2, "arrived", (self.branch, self.position - 1))
        self.held, self.limit = 0, self.mode.then

    def arrived(self, packet: tuple[Branch, int]) -> None:
        self.edge_branch, self.edge_branch.arrived = packet
        self.edge()

    def edge(self) -> None:
        """Start a forward of the target, if one is due."""
        if self.forwarding:
            return
        alive = self.edge_branch.bad > self.committed
        count = min(max(0, self.edge_branch.arrived - self.committed), self.max_draft) if alive else 0
        if count or self.mode.race != "off":
            self.forwarding = True
            self.at(self.now + self.facts.verify_s, "verified", (self.edge_branch, count))

    def verified(self, forward: tuple[Branch, int]) -> None:
        branch, count = forward
        self.forwarding = False
        self.forwards += 1
        bad = branch.bad if self.committed < branch.bad else math.inf
        self.committed = int(min(self.committed + count + 1, bad if count else math.inf))
        self.downlink_free = max(self.downlink_free, self.now) + self.wire.answer_bits / self.facts.downlink_bps
        self.at(self.downlink_free + self.facts.rtt_s / 2, "learned", self.committed)
        self.edge()

    def learned(self, committed: int) -> None:
        self.known = committed
        if self.branch.bad <= committed:
            self.branch = Branch()
            self.position, self.held, self.limit = committed + 1, 0, self.mode.first
        elif self.position <= committed:
            self.position, self.held = committed + 1, 0
        self.device()
