"""Many users on one edge: how many it holds under each scheme, and what a token costs its engine and the devices.

Virtual time, and the real machines: each user has a device and writes recorded texts one after the other; one engine
serves them all. An imitated GPU takes as long for a call as a file says; the shipped target as long as it takes here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from airdraft.control.machine import device_machine
from airdraft.core import schemes
from airdraft.core.edge import EdgeMachine, Limits, Target
from airdraft.core.messages import VERSION, Hello, SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.lab.pool import processes
from airdraft.lab.record import Recording, prompts, record
from airdraft.lab.virtual.gpu import Gpu, Point, gpu
from airdraft.lab.virtual.replay import Blank, Replay
from airdraft.link.const import ConstLink
from airdraft.models.base import Part, TargetEngine
from airdraft.models.fit import Fit
from airdraft.models.profile import EDGE_DRAFT
from airdraft.models.registry import load, load_target
from airdraft.proposers import USUAL, drafting, maker
from airdraft.sim.crowd import Crowd

H100 = Path(__file__).parents[1] / "engines" / "h100-8b.json"
BOUND_MS = 50.0
"""Milliseconds a token: what 99 of 100 texts may take at most."""
DRAFT_MS, RTT_MS, UPLINK_MBPS, DOWNLINK_MBPS = 5.0, 20.0, 5.0, 100.0
MOST_SHARE = 0.6
"""Bar: what the best scheme with devices may take of the imitated GPU's time for a token, as a share of `server`'s."""
WINDOW = 8
"""Most drafts of a device beyond what is committed: a device that chose by itself would take half of the CPU time."""
TEMPERATURE, TEXTS, TOKENS, TRIED = 0.7, 24, 64, 96
WARM_S, SECONDS = 2.0, 4.0
"""Virtual time before the measurement, and of it."""
MOST_TEXTS = 64
"""Texts in a call."""
FIRST_USERS, MOST_USERS, PRECISION = 48, 256, 10
"""Users that are tried first and at most, and the share of them, one in so many, to which the most are found."""
OWN = "target"
"""The word for the shipped target on this machine."""
OWN_TEXTS, OWN_ROWS, OWN_CALLS = (1, 4, 16), (1, 5), 9
"""Calls of the shipped target that are timed, and how often each: the shortest counts, as other work disturbs it least.
"""


@dataclass(frozen=True)
class Way:
    """A scheme with what the edge does of its own."""

    name: str
    scheme: str
    race: str = "always"
    proposers: tuple[str, ...] = ()
    helped: bool = False
    """Whether the edge has a draft model of its own."""

    @property
    def devices(self) -> bool:
        """Whether devices draft."""
        return schemes.traits(self.scheme).drafts


WAYS = (
    Way("server", schemes.SERVER),
    Way("server+lookup", schemes.SERVER, proposers=USUAL),
    Way("server+draft", schemes.SERVER, helped=True),
    Way("server+draft+lookup", schemes.SERVER, proposers=USUAL, helped=True),
    Way("stream/off", schemes.STREAM, "off"),
    Way("stream/idle", schemes.STREAM, "idle"),
    Way("stream/idle+lookup", schemes.STREAM, "idle", USUAL),
    Way("everything", schemes.STREAM, "idle", USUAL, helped=True),
)


class CrowdRow(msgspec.Struct, frozen=True):
    """One scheme with so many users."""

    engine: str
    scheme: str
    users: int
    """Most users held; 0: not even one."""
    target_ms_per_token: float
    """Time of the edge's engine, its own draft model's included, for a committed token."""
    device_drafts_per_token: float
    """Forwards of a device's draft model for a committed token."""
    token_ms_p99: float
    """Milliseconds a token of a text, in 99 of 100 texts at most."""
    wait_ms_p99: float
    """The same of a single token's wait. Those that come together wait for the first."""
    tokens_per_s: float
    """Of all users."""
    texts_per_call: float
    rows_per_text: float
    drafting_share: float
    """Share of the engine's time that its own draft model takes."""
    busy: float
    """Share of the time in which the engine works."""
    exact: bool
    """Whether every text was the recorded one."""
    devices: bool
    """Whether devices draft."""


def recorded() -> Recording:
    """Texts of the shipped pair, the longest of some. Takes seconds."""
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    found = record(draft, target, prompts(TRIED), SamplingParams(TEMPERATURE), TOKENS, 1, tokenizer.vocab_size, "crowd")
    return found.longest(TEXTS)


def own_engine() -> Gpu:
    """The calls of the shipped target on a core of this machine, timed."""
    engine, _ = load_target("target", fit=Fit(threads=1))
    took = np.array([[_timed_ms(engine, texts, rows) for rows in OWN_ROWS] for texts in OWN_TEXTS])
    took = np.maximum.accumulate(np.maximum.accumulate(took, 0), 1)  # no call is sooner over for having more to do
    calls = tuple(
        Point(texts, rows, float(took[at, place]))
        for at, texts in enumerate(OWN_TEXTS)
        for place, rows in enumerate(OWN_ROWS)
    )
    return Gpu("the shipped target on this machine", calls, f"best of {OWN_CALLS} calls at position {len(_PREFIX)}")


def engines_of(named: Sequence[str]) -> dict[str, Gpu]:
    """The engines of these files, by the files' names without an ending, and the shipped target by `OWN`.

    Raises: `BadParameterError` if a file is none, or two engines have one name.
    """
    found: dict[str, Gpu] = {}
    for each in named:
        name, engine = (OWN, own_engine()) if each == OWN else (Path(each).stem, gpu(Path(each)))
        if name in found or engine.name in (other.name for other in found.values()):
            raise BadParameterError(
                f"two engines are called {name} or {engine.name}; name each file and engine otherwise"
            )
        found[name] = engine
    return found


_PREFIX = [(7 * at) % 1000 for at in range(64)]


def _timed_ms(engine: TargetEngine, texts: int, rows: int) -> float:
    """CPU time: on one thread that is how long a call takes where nothing else runs."""
    caches = [engine.new_cache() for _ in range(texts)]
    for cache in caches:
        engine.verify([Part(cache, 0, _PREFIX, 0)])
    took = []
    for _ in range(1 + OWN_CALLS):
        began = time.process_time()
        engine.verify([Part(cache, len(_PREFIX), list(range(1, rows + 1)), rows) for cache in caches])
        took.append(time.process_time() - began)
    return 1e3 * min(took[1:])


def crowd(recording: Recording, engine: Gpu, way: Way, users: int) -> CrowdRow:
    """Let so many users write for a while. Users begin with different texts, a little apart."""
    replay, vocab, texts = Replay(recording), recording.vocab_size, recording.texts
    target, limits = Target("lab", "target", bytes(16), vocab, Blank.max_context, ()), Limits()
    verify_s, help = engine.ms(1, 1) / 1e3, drafting(Blank.max_context) if way.helped else None

    def pair() -> tuple[Any, EdgeMachine]:
        device = device_machine(Hello(VERSION, "lab", "draft", bytes(16), vocab), Blank.max_context, 0.0, replay.make)
        propose = maker(way.proposers)
        return device, EdgeMachine(target, limits, 0.0, verify_s, replay.make, propose, help, EDGE_DRAFT * verify_s)

    def todo(user: int) -> Callable[[], Request]:
        at = iter(range(user, 1 << 62, 1))

        def request() -> Request:
            number = next(at) % len(texts)
            text = texts[number]
            prompt = text.prompt or [0] * text.prompt_length
            spec = SchemeSpec(way.scheme, race=way.race)
            window = WINDOW if way.devices else 0
            return Request(prompt, spec, recording.params, number, len(text.tokens), window, branches=0)

        return request

    def takes(own: bool, count: int, fed: int) -> float:
        return engine.ms(count, fed) / 1e3 * (EDGE_DRAFT if own else 1.0)

    blank, seconds = Blank(vocab), SECONDS
    link = ConstLink(UPLINK_MBPS * 1e6, DOWNLINK_MBPS * 1e6, RTT_MS / 1e3)
    world = Crowd([pair() for _ in range(users)], (blank, blank), link, DRAFT_MS / 1e3, takes, MOST_TEXTS, todo)
    world.run(WARM_S)
    before = world.tokens, world.busy_s, world.drafting_s, world.drafted, len(world.calls), len(world.written)
    world.run(WARM_S + seconds)
    committed = world.tokens - before[0]
    busy_s, drafting_s, drafted = world.busy_s - before[1], world.drafting_s - before[2], world.drafted - before[3]
    calls, written = world.calls[before[4] :], world.written[before[5] :]
    if not (written and committed and calls):
        raise BadParameterError(f"no text was written in {seconds:g} s by {users} users; give more time")
    each_ms = [1e3 * (text.ended_s - text.began_s) / len(text.tokens) for text in written]
    waits_ms = [1e3 * wait for text in written for wait in text.waits_s]
    joined, fed = sum(count for count, _ in calls), sum(fed for _, fed in calls)
    return CrowdRow(
        engine.name, way.name, users, 1e3 * busy_s / committed, drafted / committed, float(np.percentile(each_ms, 99)),
        float(np.percentile(waits_ms, 99)), committed / seconds, joined / len(calls), fed / joined,
        drafting_s / busy_s, busy_s / seconds, all(text.tokens == texts[text.number].tokens for text in written),
        way.devices,
    )  # fmt: skip


def held(recording: Recording, engine: Gpu, way: Way) -> CrowdRow:
    """Find how many users are held, by trying what a line through earlier tries promises.

    Returns: the row of most users that are held; of one, with 0 as their number, if not even that one is.
    """
    good: CrowdRow | None = None
    bad: CrowdRow | None = None
    users = FIRST_USERS
    while True:
        row = crowd(recording, engine, way, users)
        good, bad = (row, bad) if row.token_ms_p99 <= BOUND_MS else (good, row)
        if good is None:
            if users == 1:
                return structs.replace(row, users=0)
            users = max(1, min(users - 1, int(users * BOUND_MS / row.token_ms_p99)))
            continue
        step = max(1, good.users // PRECISION)
        if good.users == MOST_USERS or (bad is not None and bad.users - good.users <= step):
            return good
        if bad is None:
            more = min(3.0, BOUND_MS / good.token_ms_p99)
            users = min(MOST_USERS, step + int(good.users * more))
        else:
            share = (BOUND_MS - good.token_ms_p99) / (bad.token_ms_p99 - good.token_ms_p99)
            users = good.users + int(share * (bad.users - good.users))
            users = max(good.users + (step + 1) // 2, min(bad.users - (step + 1) // 2, users))


def _held(given: tuple[Recording, Gpu, Way]) -> CrowdRow:
    return held(*given)


def crowds(
    engines: Sequence[Gpu], jobs: int, on_row: Callable[[int, int], None] = lambda done, of: None
) -> list[CrowdRow]:
    """Every way on every engine, in `jobs` processes."""
    recording = recorded()
    todo = [(recording, engine, way) for engine in engines for way in WAYS]
    found: list[CrowdRow] = []
    with processes(jobs) as pool:
        for row in pool.map(_held, todo):
            found.append(row)
            on_row(len(found), len(todo))
    return found


class Saving(msgspec.Struct, frozen=True):
    """What devices save of one engine's time."""

    scheme: str
    """The one with devices that takes least of the engine for a token."""
    against_server: float
    """Its time for a token, divided by that of `server`."""
    against_draft: float
    """The same by that of `server+draft`."""


def saving(rows: Sequence[CrowdRow], engine: str) -> Saving:
    """Compare what a token takes of an engine. A share below 1 means that devices save some."""
    of = {row.scheme: row for row in rows if row.engine == engine}
    best = min((row for row in of.values() if row.devices and row.exact), key=lambda row: row.target_ms_per_token)
    first, drafting = (best.target_ms_per_token / of[name].target_ms_per_token for name in ("server", "server+draft"))
    return Saving(best.scheme, first, drafting)


def missed(rows: Sequence[CrowdRow], engines: Sequence[Gpu]) -> bool:
    """Whether devices save the imitated GPU too little, if it is among the engines."""
    bound = gpu(H100)
    return bound in engines and saving(rows, bound.name).against_server > MOST_SHARE


def says(rows: Sequence[CrowdRow], engine: str) -> str:
    """What an operator may conclude of one engine, in two sentences of Markdown."""
    of = {row.scheme: row for row in rows if row.engine == engine}
    most = {
        devices: max((row for row in of.values() if row.devices == devices), key=lambda row: row.users)
        for devices in (True, False)
    }
    found, helped, alone = saving(rows, engine), most[True], most[False]
    plain, best = f"{of['server'].users} users with the target alone", "the best without devices"
    best = f"which is {best}," if alone.scheme == "server" else f"{alone.users} with `{alone.scheme}`, {best},"
    return (
        f"One edge on *{engine}* holds {plain}, {best} and {helped.users} with `{helped.scheme}`, where devices draft: "
        f"{helped.device_drafts_per_token:.1f} forwards of a device's draft model a token. With devices "
        f"`{found.scheme}` takes least of the engine: {found.against_server:.2f} × `server`'s time a token, and "
        f"{found.against_draft:.2f} × that of `server+draft`. The bar is {MOST_SHARE:g} × `server`'s: "
        f"{'kept' if found.against_server <= MOST_SHARE else 'MISSED'}."
    )


def record_of(rows: Sequence[CrowdRow], engines: Sequence[Gpu]) -> dict[str, Any]:
    """The record that `--json` writes."""
    return {
        "simulated": True,
        "bound_ms": BOUND_MS,
        "draft_ms": DRAFT_MS,
        "rtt_ms": RTT_MS,
        "uplink_mbps": UPLINK_MBPS,
        "edge_draft_share": EDGE_DRAFT,
        "seconds": SECONDS,
        "texts": TEXTS,
        "temperature": TEMPERATURE,
        "engines": msgspec.to_builtins(engines),
        "rows": msgspec.to_builtins(rows),
        "most_share": MOST_SHARE,
        "savings": {engine.name: msgspec.to_builtins(saving(rows, engine.name)) for engine in engines},
    }


def table(rows: Sequence[CrowdRow], engine: str) -> str:
    """The results of one engine as Markdown, simulated, and said so."""
    lines = [
        f"**{engine}**, simulated: users held with 99 of 100 texts at {BOUND_MS:g} ms a token or less.", "",
        "| scheme | users | engine ms a token | device drafts a token | tokens/s | rows a text in a call |",
        "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {row.scheme} | {row.users}{'+' if row.users == MOST_USERS else ''} | {row.target_ms_per_token:.2f} | "
        f"{row.device_drafts_per_token:.2f} | {row.tokens_per_s:.0f} | {row.rows_per_text:.1f} |"
        for row in rows
        if row.engine == engine
    ]
    return "\n".join(lines)
