"""The league: every scheme over every kind of link, with intervals over prompts, bytes, and energy by a stated model.

Schemes are asked for by their traits, so a new one joins by itself. A scheme with rounds has the best of several draft
lengths on each link, its own choice by measurement among them. All write the same recorded texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from airdraft.control.ladder import usual
from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.lab.energy import EnergyModel, Joules, Used, capacity_bps
from airdraft.lab.pool import processes
from airdraft.lab.record import Recording, record
from airdraft.lab.results import HELPED, NOTES
from airdraft.lab.virtual.cell import Result, Setting, auto, compute, run
from airdraft.lab.virtual.luck import Lucks, lucks
from airdraft.link.base import LinkModel
from airdraft.link.nr import GRANTS
from airdraft.link.presets import preset
from airdraft.link.trace import TraceLink
from airdraft.link.tracefile import read
from airdraft.models.profile import profile
from airdraft.models.registry import load
from airdraft.proposers import maker
from airdraft.sim.virtual import Compute, VirtualText

TEMPERATURE, SEED = 0.7, 1
"""Sampling, and the seed of the first text."""
PROFILE = "phone-8b"
"""Compute of device and edge."""
LENGTHS = (None, 2, 4)
"""Draft lengths of schemes with rounds. None: chosen by what the device measures."""
SNRS_DB = (0, 5, 10, 20)
RESAMPLED, INTERVAL = 1000, (2.5, 97.5)
"""Resamplings of the texts, and the percentiles of them that make an interval."""
PATIENCE_S = 3600.0
"""A heartbeat that no outage of a trace exceeds: every scheme waits."""
AUTO, DEVICE = "auto", "device"

_TOPK, _LATTICE, _MASS = schemes.TOPK, schemes.LATTICE, 0.95
VARIED: dict[str, SchemeSpec] = {
    f"{_TOPK}/mass": SchemeSpec(_TOPK, mass=_MASS),
    f"{_TOPK}/several": SchemeSpec(_TOPK, candidates=3),
    f"{_LATTICE}/conformal": SchemeSpec(_LATTICE, mass=_MASS, cut="conformal"),
    f"{_LATTICE}/ladder": SchemeSpec(_LATTICE, k=0),
}
"""Options of schemes that make a row of their own: TSLT's two, C-SQS, and the ladder. Further candidates are leaves of
the edge's forward, so there its engine runs trees."""

LINKS: dict[str, str] = {
    "const": "const:up=5,down=100,rtt=20",
    "markov2": "markov2:rtt=20",
    "rayleigh": "rayleigh",
    **{
        f"nr {snr_db} dB, {grant}": f"nr:target={snr_db},grant={grant}"
        for grant in GRANTS for snr_db in SNRS_DB
    },
}  # fmt: skip
"""A preset for each name; traces come beside them."""


class LeagueRow(msgspec.Struct, frozen=True):
    """One scheme over one link."""

    scheme: str
    link: str
    tokens_per_s: float
    low: float
    """The interval of that speed over prompts, 95 %; likewise `high`."""
    high: float
    uplink_bits_per_token: float
    """All bits sent, every header included."""
    downlink_bits_per_token: float
    joule_per_token: float
    device_joule: float
    """The device's part of it, modem included."""
    cell_joule: float
    edge_joule: float
    length: int | None
    """The draft length with rounds, if the best was a fixed one."""
    exact: bool
    """Whether every text was the recorded one."""
    published: bool
    """Whether it is a method from the literature, shown for comparison."""


@dataclass(frozen=True)
class Entrant:
    """A way to write that is run."""

    label: str
    spec: SchemeSpec
    lengths: Sequence[int | None] = (None,)
    proposers: tuple[str, ...] = ()
    """What the edge proposes from."""
    drafts: bool = False
    """Whether the edge has a draft model of its own."""
    chooses: bool = False
    """Whether the program chooses the scheme itself."""

    @property
    def published(self) -> bool:
        """Whether it is a method from the literature. The ladder is not."""
        return schemes.traits(self.spec.name).published and self.spec.k > 0


@dataclass(frozen=True)
class Track:
    """A link with its name, and what it carries when it is full, in bit/s."""

    name: str
    link: LinkModel
    uplink_bps: float
    downlink_bps: float


def entrants() -> list[Entrant]:
    """Everything that is run: each scheme, once for each race policy where it races; variants; edges that help; and
    `auto`."""
    found = []
    for name, scheme in schemes.SCHEMES.items():
        if scheme.traits.races:
            specs = [SchemeSpec(name, race=race) for race in schemes.RACES]
            found += [Entrant(f"{name}/{spec.race}", spec) for spec in specs]
        else:
            found.append(Entrant(name, SchemeSpec(name), LENGTHS if scheme.traits.rounds else (None,)))
    found += [Entrant(label, spec, LENGTHS) for label, spec in VARIED.items()]
    for label, help in HELPED.items():
        found.append(Entrant(label, SchemeSpec(help.scheme), proposers=help.proposers, drafts=help.drafts))
    found.append(replace(found[-1], label=AUTO, chooses=True))  # at the edge that does all
    return found


def tracks(traces: Iterable[Path] = ()) -> list[Track]:
    """Every link of the league, and the first run of each trace. Raises: `BadParameterError` if one is no trace."""
    links = {name: preset(text) for name, text in LINKS.items()}
    for path in traces:
        folder = "/".join(path.absolute().parts[-3:-1])  # data sets name their files alike
        name = f"trace {folder}/{path.name}"
        if name in links:
            raise BadParameterError(f"the trace {path} is given twice; leave it out once")
        links[name] = TraceLink(read(path)[0])
    return [
        Track(name, link, capacity_bps(link.uplink()), capacity_bps(link.downlink())) for name, link in links.items()
    ]


def recording(
    draft_name: str, target_name: str, prompts: Sequence[Sequence[int]], name: str, texts: int, tokens: int
) -> tuple[Recording, Lucks]:
    """Record a pair: the longest `texts` of those after the prompts. Raises: `ModelError`, `BadParameterError`."""
    (draft, _), (target, tokenizer) = load(draft_name), load(target_name)
    params, vocab_size = SamplingParams(TEMPERATURE), tokenizer.vocab_size
    found = record(draft, target, prompts, params, tokens, SEED, vocab_size, name)
    longest = found.longest(texts)
    return longest, lucks(longest, draft, target, varied(vocab_size))


def varied(vocab_size: int) -> list[SchemeSpec]:
    """The options whose luck the league needs."""
    rungs = [usual(spec, vocab_size) if spec.k == 0 else [spec] for spec in VARIED.values()]
    return [spec for specs in rungs for spec in specs]


def interval(tokens: Sequence[int], seconds: Sequence[float], seed: int = SEED) -> tuple[float, float]:
    """The 95 % interval of tokens/s over prompts, by the bootstrap: texts drawn again with replacement, percentiles."""
    drawn = np.random.default_rng(seed).integers(len(tokens), size=(RESAMPLED, len(tokens)))
    speeds = np.asarray(tokens)[drawn].sum(axis=1) / np.asarray(seconds)[drawn].sum(axis=1)
    low, high = np.percentile(speeds, INTERVAL).tolist()
    return low, high


def row(
    recorded: Recording, lucky: Lucks, pace: Compute, model: EnergyModel, track: Track, entrant: Entrant
) -> LeagueRow:
    """Run one scheme over one link, at its best length."""
    setting, tried, spec = Setting(track.link, pace), [], entrant.spec
    policy = auto(recorded.vocab_size, spec) if entrant.chooses else None
    for length in entrant.lengths:
        texts: list[VirtualText] = []
        found = run(
            recorded, setting, spec, length=length, policy=policy, label=entrant.label, heartbeat_s=PATIENCE_S,
            on_text=texts.append, propose=maker(entrant.proposers), drafts=entrant.drafts,
            lucks=lucky,
        )  # fmt: skip
        tried.append((found, texts))
    best, texts = max(tried, key=lambda each: each[0].tokens_per_s)
    low, high = interval([len(text.tokens) for text in texts], [text.ended_s - text.began_s for text in texts])
    return _row(best, track, low, high, model.joules(_used(best, track)), entrant.published)


def _used(result: Result, track: Track) -> Used:
    return Used(
        result.busy_s["draft"], result.busy_s["target"], result.seconds, 8 * result.uplink_bytes,
        8 * result.downlink_bytes, track.uplink_bps, track.downlink_bps,
    )  # fmt: skip


def _row(result: Result, track: Track, low: float, high: float, joules: Joules, published: bool) -> LeagueRow:
    tokens = result.counts.committed
    return LeagueRow(
        result.scheme, track.name, result.tokens_per_s, low, high, 8 * result.uplink_bytes / tokens,
        8 * result.downlink_bytes / tokens, joules.total / tokens, joules.device / tokens, joules.cell / tokens,
        joules.edge / tokens, result.length, result.identical, published,
    )  # fmt: skip


def alone(track: Track, pace: Compute, model: EnergyModel) -> LeagueRow:
    """The device by itself, which is not exact."""
    speed, joules = 1 / pace.draft_s, model.alone(pace.draft_s)
    parts = joules.total, joules.device, joules.cell, joules.edge
    return LeagueRow(DEVICE, track.name, speed, speed, speed, 0.0, 0.0, *parts, None, exact=False, published=False)


def league(
    recorded: Recording,
    lucky: Lucks,
    over: Sequence[Track],
    jobs: int = 1,
    model: EnergyModel | None = None,
    on_row: Callable[[int, int], None] = lambda done, of: None,
) -> list[LeagueRow]:
    """Run everything over every link, in `jobs` processes. `on_row` gets the number done, and of how many.

    `lucky` holds what `varied` names.
    """
    energy, imitated = model or EnergyModel(), profile(PROFILE)
    pace = compute(1e3 * imitated.draft_s, 1e3 * imitated.target_s)
    todo = [(track, entrant) for track in over for entrant in entrants()]
    found: list[LeagueRow] = []
    with processes(jobs) as pool:
        of, entering = zip(*todo, strict=True)
        every = pool.map(partial(row, recorded, lucky, pace, energy), of, entering)
        for done, (each, (track, entrant)) in enumerate(zip(every, todo, strict=True), 1):
            found.append(each)
            if entrant.label == AUTO:  # the last over a link
                found.append(alone(track, pace, energy))
            on_row(done, len(todo))
    return found


def unheld(rows: Iterable[LeagueRow]) -> list[LeagueRow]:
    """Rows of exact schemes whose texts were not the target's. There must be none."""
    return [each for each in rows if not each.exact and each.scheme not in NOTES]


def record_of(
    recorded: Recording, over: Sequence[Track], rows: Sequence[LeagueRow], model: EnergyModel
) -> dict[str, Any]:
    """The record that `--json` writes."""
    return {
        "simulated": True,
        "pair": recorded.name,
        "temperature": recorded.params.temperature,
        "texts": len(recorded.texts),
        "tokens": recorded.length,
        "acceptance": recorded.acceptance,
        "profile": PROFILE,
        "links": {
            track.name: {"preset": LINKS.get(track.name), "uplink_bps": track.uplink_bps,
                         "downlink_bps": track.downlink_bps}
            for track in over
        },
        "energy": {name: getattr(model, name) for name in EnergyModel.__dataclass_fields__},
        "resampled": RESAMPLED,
        "rows": msgspec.to_builtins(rows),
    }  # fmt: skip
