"""Virtual time compared with the wall clock: the same texts over real processes and sockets, and replayed.

An edge process, a link process in real time and a device in this process write texts with the shipped pair, slowed to a
profile. Then the virtual machines write the same texts over the same link; their forwards take the profile's time and
the overhead that a forward has on this machine: handing it to a thread, noticing its end, choosing a token and sending
it. That overhead is measured beforehand, at one pace, over loopback without an emulated link. The two may still differ
by what virtual time leaves out: the sockets of a round, the timers of the emulated link, and the other processes' turns
on the cores.

With shared noise the recorded texts and matches are those of the real run. Under `topk`, `dense` and `split` a replay
tosses other coins, so there it replays what the real run wrote, and accepts the drafts that were accepted.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, pairwise
from statistics import median
from typing import Any

from airdraft import local
from airdraft.control.auto import Auto
from airdraft.control.machine import device_machine
from airdraft.core import schemes
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.client import EdgeConnection
from airdraft.errors import BadParameterError
from airdraft.lab.record import RecordedText, Recording, prompts, record
from airdraft.lab.virtual import cell
from airdraft.lab.virtual.branches import Branches
from airdraft.models.base import LanguageModel
from airdraft.models.profile import EDGE_DRAFT, Paced, profile
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer
from airdraft.proposers import NONE, Lookup, maker
from airdraft.proposers.draft import NAME as EDGE_DRAFTS
from airdraft.sim import alone

MEDIAN_BAR, WORST_BAR = 0.08, 0.20
"""Errors that virtual time may have: in the median cell, and in any."""
DOWNLINK_MBPS = 100.0
PARAMS = SamplingParams(0.7)
SEED = 1
TEXTS, TOKENS = 3, 48
CANDIDATES = 16
"""Prompts to try; those with the longest texts are taken."""
OVERHEAD_PROFILE, FEW, MANY = "phone-70b", 1, 5
"""The pace at which overheads are measured, and the draft lengths of two rounds whose difference is the device's
overhead. `server` is not checked at that pace: it would be compared with itself."""


@dataclass(frozen=True)
class Overhead:
    """Seconds that a forward takes beyond its pace."""

    draft_s: float = 0.0
    verify_s: float = 0.0


@dataclass(frozen=True)
class Check:
    """One scheme in one place."""

    profile: str
    rtt_ms: float
    uplink_mbps: float
    scheme: str
    length: int | None = None
    """Draft length; None lets the device choose."""
    propose: tuple[str, ...] = ()
    """The edge's proposers."""
    drafts: bool = False
    """Whether the edge has a draft model of its own."""
    lookup: bool = False
    """Whether the device copies, too."""
    trees: bool = False
    """Whether the device drafts trees. Else it drafts chains."""

    @property
    def place(self) -> tuple[str, float, float, tuple[str, ...], bool]:
        """The edge and the link, which checks of one place share."""
        return self.profile, self.rtt_ms, self.uplink_mbps, self.propose, self.drafts

    @property
    def label(self) -> str:
        """The scheme, and who drafts besides."""
        edge = [*self.propose, *([EDGE_DRAFTS] if self.drafts else [])]
        device = [word for word, said in (("device copies", self.lookup), ("trees", self.trees)) if said]
        return ", ".join(("+".join((self.scheme, *edge)), *device))

    @property
    def has_coins(self) -> bool:
        """Whether the scheme tosses coins of its own, so that texts other than the recorded ones are right."""
        return schemes.traits(self.spec.name).exact == "distribution"

    @property
    def spec(self) -> SchemeSpec:
        """The scheme to begin with."""
        name, _, race = self.scheme.partition("/")
        return SchemeSpec(schemes.STREAM if name == "auto" else name, race=race or "always")


_OFF, _ALWAYS = (f"{schemes.STREAM}/{race}" for race in ("off", "always"))
CHECKS = (
    Check("phone-8b", 20.0, 20.0, schemes.SERVER),
    Check("phone-8b", 20.0, 20.0, schemes.COUPLED, 3),
    Check("phone-8b", 20.0, 20.0, schemes.TOPK, 3),
    Check("phone-8b", 20.0, 20.0, schemes.SPLIT, 3),
    Check("phone-8b", 20.0, 20.0, _ALWAYS),
    Check("phone-8b", 20.0, 20.0, _ALWAYS, lookup=True),
    Check("phone-8b", 20.0, 20.0, schemes.SERVER, propose=(Lookup.name,)),
    Check("phone-8b", 20.0, 20.0, _ALWAYS, propose=(Lookup.name,)),
    Check("phone-8b", 20.0, 20.0, schemes.SERVER, drafts=True),
    Check("phone-8b", 20.0, 20.0, _ALWAYS, propose=(Lookup.name,), drafts=True, trees=True),
    Check("laptop-8b", 50.0, 5.0, schemes.COUPLED, 6),
    Check("laptop-8b", 50.0, 5.0, schemes.DENSE, 2),
    Check("laptop-8b", 50.0, 5.0, _OFF),
    Check("laptop-8b", 50.0, 5.0, _ALWAYS, trees=True),
    Check("laptop-8b", 50.0, 5.0, "auto", trees=True),
    Check("laptop-8b", 50.0, 5.0, _ALWAYS, propose=(Lookup.name,), trees=True),
    Check("phone-70b", 5.0, 1.0, schemes.TOPK, 4),
    Check("phone-70b", 5.0, 1.0, _ALWAYS),
    Check("phone-70b", 5.0, 1.0, _ALWAYS, trees=True),
    Check("phone-70b", 5.0, 1.0, "auto", trees=True),
    Check("phone-8b", 100.0, 0.5, schemes.SERVER),
    Check("phone-8b", 100.0, 0.5, schemes.COUPLED, 4),
    Check("phone-8b", 100.0, 0.5, _OFF),
    Check("phone-8b", 100.0, 0.5, "auto", trees=True),
)
"""Checks of one place stand together."""


@dataclass(frozen=True)
class Checked:
    """The outcome of a check."""

    check: Check
    wall_tokens_per_s: float
    virtual_tokens_per_s: float
    bare_tokens_per_s: float
    """Speed in virtual time without the overhead."""
    identical: bool
    """Whether the real run wrote the recorded texts. Where the scheme has coins of its own, other texts are right,
    too."""

    @property
    def error(self) -> float:
        """The error of virtual time as a share of the wall clock's speed; above 0 it is too fast."""
        return self.virtual_tokens_per_s / self.wall_tokens_per_s - 1

    @property
    def bare_error(self) -> float:
        """The same without the overhead."""
        return self.bare_tokens_per_s / self.wall_tokens_per_s - 1

    def record(self) -> dict[str, Any]:
        """For JSON."""
        check, pace = self.check, profile(self.check.profile)
        return {
            "scheme": check.label,
            "length": check.length,
            "profile": check.profile,
            "rtt_ms": check.rtt_ms,
            "uplink_mbps": check.uplink_mbps,
            "draft_ms": 1e3 * pace.draft_s,
            "verify_ms": 1e3 * pace.target_s,
            "wall_tokens_per_s": self.wall_tokens_per_s,
            "virtual_tokens_per_s": self.virtual_tokens_per_s,
            "error": self.error,
            "error_without_overhead": self.bare_error,
            "identical": self.identical,
        }


@dataclass(frozen=True)
class WallText:
    """A text of the real run."""

    tokens: list[int]
    accepted: list[bool]
    """For each token, whether it was an accepted draft."""
    times: list[float]
    """Times of the commits, by `time.perf_counter`."""


class ShippedPair:
    """The shipped pair, and prompts to write texts after."""

    def __init__(self, texts: int = TEXTS, tokens: int = TOKENS) -> None:
        """Load both models and pick the prompts with the longest texts, which say most about a link. Takes a second or
        two."""
        self.draft: LanguageModel
        self.tokenizer: Tokenizer
        (self.draft, self.tokenizer), (target, _) = load("draft"), load("target")
        vocab = self.tokenizer.vocab_size
        tried = [
            (len(list(alone.write(target, prompt, PARAMS, SEED + at, tokens, vocab))), prompt, SEED + at)
            for at, prompt in enumerate(prompts(CANDIDATES))
        ]
        longest = sorted(tried, key=lambda each: -each[0])[:texts]
        self.prompts = [(prompt, seed) for _, prompt, seed in longest]
        self.max_tokens = tokens
        recorded = [
            record(self.draft, target, [prompt], PARAMS, tokens, seed, vocab, "pair").texts[0]
            for prompt, seed in self.prompts
        ]
        self.recording = Recording("pair", PARAMS, vocab, recorded)
        self._branches = Branches(self.recording, lambda: self.draft)

    @asynccontextmanager
    async def client(self, url: str, draft_s: float, lookup: bool = False) -> AsyncIterator[EdgeConnection]:
        """A connection of a device that drafts at that pace."""
        paced, tokenizer = Paced(self.draft, draft_s), self.tokenizer
        async with await EdgeConnection.connect(
            url, paced, tokenizer.digest, tokenizer.vocab_size, machine=partial(device_machine, lookup=lookup)
        ) as client:
            yield client

    async def wall(self, url: str, check: Check) -> tuple[float, list[WallText]]:
        """Write the texts over real processes. Returns the seconds by the wall clock, and the texts."""
        spec, vocab = check.spec, self.tokenizer.vocab_size
        seconds, texts = 0.0, []
        async with self.client(url, profile(check.profile).draft_s, check.lookup) as client:
            for prompt, seed in self.prompts:
                policy = Auto(vocab, k=spec.k, bits=spec.bits) if check.scheme == "auto" else None
                request = Request(
                    prompt, spec, PARAMS, seed, self.max_tokens, check.length, policy=policy,
                    branches=None if check.trees else 0,
                )  # fmt: skip
                written = WallText([], [], [])
                began = time.perf_counter()
                async for event in client.write(request):
                    if isinstance(event, Committed):
                        written.times.append(time.perf_counter())
                        written.tokens.extend(event.tokens)
                        written.accepted.extend(at < event.accepted for at in range(len(event.tokens)))
                seconds += time.perf_counter() - began
                texts.append(written)
        return seconds, texts

    async def overhead(self) -> Overhead:
        """Measure overheads: medians over the commits of texts that an edge process writes at `OVERHEAD_PROFILE`.

        Raises: as `wall`.
        """
        pace = profile(OVERHEAD_PROFILE)
        timed = ((schemes.SERVER, None), (schemes.COUPLED, FEW), (schemes.COUPLED, MANY))
        async with local.edge("target", OVERHEAD_PROFILE, options=local.PLAIN) as url:
            checks = [Check(OVERHEAD_PROFILE, 0.0, math.inf, *scheme) for scheme in timed]
            server_s, few_s, many_s = [median(await self._between_commits(url, check)) for check in checks]
        return Overhead((many_s - few_s) / (MANY - FEW) - pace.draft_s, server_s - pace.target_s)

    async def _between_commits(self, url: str, check: Check) -> list[float]:
        """Seconds from one commit to the next, of all texts."""
        _, texts = await self.wall(url, check)
        return [after - before for text in texts for before, after in pairwise(text.times)]

    def recording_for(self, check: Check, texts: Sequence[WallText]) -> Recording:
        """The recording to replay: the recorded texts, or `texts` where the scheme has coins of its own."""
        if not check.has_coins:
            return self.recording
        known = zip(self.recording.texts, texts, strict=True)
        return Recording("written", PARAMS, self.recording.vocab_size, [_as_written(*each) for each in known])

    def virtual(self, check: Check, texts: Sequence[WallText], overhead: Overhead) -> float:
        """Tokens/s of the replay."""
        pace, spec, recording = profile(check.profile), check.spec, self.recording_for(check, texts)
        draft_ms, verify_ms = 1e3 * (pace.draft_s + overhead.draft_s), 1e3 * (pace.target_s + overhead.verify_s)
        setting = cell.constant(check.rtt_ms, check.uplink_mbps, draft_ms, verify_ms, DOWNLINK_MBPS)
        # A forward of the edge's own draft model has the overhead of any at the edge. A profile knows one time for a
        # forward of the draft, behind however many drafts.
        own_s = EDGE_DRAFT * pace.target_s + overhead.verify_s
        setting = replace(setting, compute=replace(setting.compute, edge_draft_s=own_s, widening=1.0))
        policy = cell.auto(recording.vocab_size, spec) if check.scheme == "auto" else None
        written = cell.run(
            recording, setting, spec, length=check.length, policy=policy, propose=maker(check.propose),
            lookup=check.lookup, drafts=check.drafts, branches=self._branches if check.trees else None,
        )  # fmt: skip
        return written.tokens_per_s


def _as_written(recorded: RecordedText, written: WallText) -> RecordedText:
    """A recording of what a real run wrote, with its luck. Positions that were never judged do not matter, because a
    replay at the same draft length does not judge them either."""
    chances = [float(accepted) for accepted in written.accepted]
    length = len(written.tokens)
    return RecordedText(
        recorded.prompt_length, written.tokens, written.accepted, chances, chances, chances, chances,
        [0.0] * length, [max(recorded.support)] * length,
    )  # fmt: skip


@dataclass(frozen=True)
class Validation:
    """The outcome of all checks."""

    overhead: Overhead
    found: list[Checked]

    @property
    def median_error(self) -> float:
        """The median of the errors' sizes."""
        return median(abs(each.error) for each in self.found)

    @property
    def worst_error(self) -> float:
        """The largest of the errors' sizes."""
        return max(abs(each.error) for each in self.found)

    @property
    def others(self) -> list[Check]:
        """Checks whose real run wrote other texts than the recorded ones, which shared noise forbids."""
        return [each.check for each in self.found if not (each.identical or each.check.has_coins)]

    @property
    def held(self) -> bool:
        """Whether both bars are met and all texts are right."""
        return self.median_error < MEDIAN_BAR and self.worst_error <= WORST_BAR and not self.others

    def record(self) -> dict[str, Any]:
        """The record that `--json` writes."""
        return {
            "texts": TEXTS,
            "max_tokens": TOKENS,
            "downlink_mbps": DOWNLINK_MBPS,
            "draft_overhead_ms": 1e3 * self.overhead.draft_s,
            "verify_overhead_ms": 1e3 * self.overhead.verify_s,
            "median_error": self.median_error,
            "worst_error": self.worst_error,
            "median_bar": MEDIAN_BAR,
            "worst_bar": WORST_BAR,
            "held": self.held,
            "cells": [each.record() for each in self.found],
        }


async def validate(
    pair: ShippedPair, checks: Sequence[Check] = CHECKS, on_check: Callable[[Check], None] = lambda _: None
) -> Validation:
    """Run every check, one after another. `on_check` gets each as it starts.

    Raises: `LinkError` if a process does not start or goes away, `BadParameterError` if there is nothing to check.
    """
    if not checks:
        raise BadParameterError("nothing to check; give at least one cell")
    overhead = await pair.overhead()
    found = []
    for (name, rtt_ms, uplink_mbps, names, drafts), group in groupby(checks, key=lambda check: check.place):
        options = ["--propose", ",".join(names) or NONE, *(["--draft", "draft"] if drafts else [])]
        async with local.edge("target", name, local.Link(uplink_mbps, DOWNLINK_MBPS, rtt_ms), options) as url:
            # The edge of a replay has been in service, too: it knows how long its forwards take.
            await pair.wall(url, Check(name, rtt_ms, uplink_mbps, schemes.SERVER))
            for check in group:
                on_check(check)
                seconds, texts = await pair.wall(url, check)
                identical = [text.tokens for text in texts] == [text.tokens for text in pair.recording.texts]
                speed = sum(len(text.tokens) for text in texts) / seconds
                virtual, bare = (pair.virtual(check, texts, added) for added in (overhead, Overhead()))
                found.append(Checked(check, speed, virtual, bare, identical))
    return Validation(overhead, found)
