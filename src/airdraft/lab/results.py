"""The results of a grid, and the questions that tables and figures ask of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import msgspec

from airdraft.core import schemes
from airdraft.errors import BadParameterError
from airdraft.proposers import Lookup, draft

SIMULATED = "simulated (virtual time)"
"""Label beside everything that is shown."""

EXACT: tuple[str, ...] = tuple(
    label
    for name, scheme in schemes.SCHEMES.items()
    for label in ([f"{name}/{race}" for race in schemes.RACES] if scheme.traits.races else [name])
)
"""Exact schemes, one for each race policy where they race, from the simplest to the most elaborate."""


class Help(NamedTuple):
    """What an edge adds to a scheme."""

    scheme: str
    """A stream races always."""
    proposers: tuple[str, ...]
    drafts: bool
    """Whether the edge has a draft model of its own."""


_SERVER, _STREAM, ALL = schemes.SERVER, schemes.STREAM, "all"
COPYING = f"{_STREAM}+{Lookup.name}"
HELPED: dict[str, Help] = {
    f"{_SERVER}+{Lookup.name}": Help(_SERVER, (Lookup.name,), drafts=False),
    f"{_SERVER}+{draft.NAME}": Help(_SERVER, (), drafts=True),
    COPYING: Help(_STREAM, (Lookup.name,), drafts=False),
    ALL: Help(_STREAM, (Lookup.name,), drafts=True),
}
"""Exact schemes at an edge that speculates as well. `all`: the device drafts, the edge drafts and copies."""
GROWN: dict[str, Help] = {
    "tree": Help(_STREAM, (), drafts=False),
    f"tree+{Lookup.name}": Help(_STREAM, (Lookup.name,), drafts=False),
}
"""A raced stream of trees, and the same at an edge that copies. Made-up agreement says nothing of what a draft model
drafts elsewhere than along the text, so there they are chains."""
SCHEMES: tuple[str, ...] = (*EXACT, *HELPED, *GROWN, "auto", "oracle", "device")
"""All that is shown: these, the choice among them, a stream whose drafts are always right, and the device alone, which
is not exact."""
if TYPE_CHECKING:
    Scheme = str
else:
    Scheme = Literal[SCHEMES]  # msgspec refuses any other

NOTES = {"oracle": " (drafts always right)", "device": " (not exact)"}
"""Notes beside the names of schemes that are shown and cannot win."""
TIE = 0.005
"""Schemes whose speeds differ by less are equally fast."""

_TYPICAL_AGREEMENT = "pair T=0.7"
_TYPICAL_UPLINK_MBPS = 5.0
_TYPICAL_MS = (15.0, 30.0)

T = TypeVar("T")


class Row(msgspec.Struct, frozen=True):
    """One scheme at one cell of the grid."""

    rtt_ms: float
    uplink_mbps: float
    draft_ms: float
    """One forward of the draft model."""
    verify_ms: float
    """One forward of the target model."""
    agreement: str
    """Origin of drafts and targets: `pair T=0.7`, `synthetic 0.75`."""
    scheme: Scheme
    length: int | None
    """Drafts in a round, or the window; None where there is neither."""
    tokens_per_s: float
    target_forwards_per_token: float
    uplink_bits_per_token: float
    downlink_bits_per_token: float
    device_drafts_per_token: float
    """Forwards of the device's draft model: what a token costs the device's battery."""
    exact: bool
    bottleneck: str


class Claim(msgspec.Struct, frozen=True):
    """A statement about every cell, and the cell that supports it least."""

    claim: str
    bar: float
    worst: float
    held: bool
    cell: dict[str, Any]


class LaneSpan(msgspec.Struct, frozen=True):
    """A stretch of time on one lane of a timeline."""

    lane: Literal["device", "edge", "uplink", "downlink"]
    start_s: float
    end_s: float
    kind: Literal["draft", "dead", "prefill", "verify", "race", "send", "answer", "mismatch"]
    label: str = ""


class Timeline(msgspec.Struct, frozen=True):
    """One text, as it was written."""

    title: str
    spans: list[LaneSpan]


class Grid(msgspec.Struct, frozen=True):
    """All results of one run."""

    rows: list[Row]
    claims: list[Claim] = []
    means: dict[str, float] = {}
    """Geometric means over all cells: the speed of auto divided by that scheme's."""
    gains: dict[str, float] = {}
    """For each agreement, the speed of a raced stream at an edge that copies divided by that without, likewise."""
    timeline: Timeline | None = None


class View(msgspec.Struct, frozen=True):
    """The rows of one agreement, uplink and pair of forwards: only RTT and scheme differ."""

    agreement: str
    uplink_mbps: float
    draft_ms: float
    verify_ms: float
    rows: list[Row]

    def __str__(self) -> str:
        return f"{self.agreement}; {self.uplink_mbps:g} Mbit/s up; {forwards(self.draft_ms, self.verify_ms)}"


def read(grid: dict[str, Any]) -> Grid:
    """Read a grid from plain JSON. Raises `BadParameterError` if it has no rows or a row is not as `Row` says."""
    try:
        results = msgspec.convert(grid, Grid)
    except msgspec.ValidationError as problem:
        raise BadParameterError(f"this is not a grid of the laboratory ({problem}); run the grid again") from problem
    if not results.rows:
        raise BadParameterError("the grid has no rows; run the grid again")
    return results


def forwards(draft_ms: float, verify_ms: float) -> str:
    """The times of both models' forwards, in words."""
    return f"draft {draft_ms:g} ms, verify {verify_ms:g} ms"


def typical_agreement(rows: Iterable[Row]) -> str:
    """The shipped pair at temperature 0.7 or, failing that, the first."""
    return _prefer([row.agreement for row in rows], _TYPICAL_AGREEMENT)


def typical(rows: Sequence[Row]) -> View:
    """The usual setting: the shipped pair at temperature 0.7, 5 Mbit/s up, 15 and 30 ms a forward. Where the grid lacks
    one of these, its first is taken."""
    agreement = typical_agreement(rows)
    rows = [row for row in rows if row.agreement == agreement]
    draft_ms, verify_ms = _prefer([(row.draft_ms, row.verify_ms) for row in rows], _TYPICAL_MS)
    rows = [row for row in rows if (row.draft_ms, row.verify_ms) == (draft_ms, verify_ms)]
    uplink_mbps = _prefer([row.uplink_mbps for row in rows], _TYPICAL_UPLINK_MBPS)
    return View(agreement, uplink_mbps, draft_ms, verify_ms, [row for row in rows if row.uplink_mbps == uplink_mbps])


def best(rows: Iterable[Row]) -> dict[Scheme, Row]:
    """The fastest row of each scheme, in the order of `SCHEMES`: each at the draft length that suits it best."""
    fastest: dict[Scheme, Row] = {}
    for row in rows:
        if row.scheme not in fastest or row.tokens_per_s > fastest[row.scheme].tokens_per_s:
            fastest[row.scheme] = row
    return {scheme: fastest[scheme] for scheme in SCHEMES if scheme in fastest}


def winner(rows: Iterable[Row]) -> Row | None:
    """The fastest exact scheme of one cell; within `TIE` of it, the simplest. None if none is exact."""
    return next(iter(fastest(rows)), None)


def fastest(rows: Iterable[Row]) -> list[Row]:
    """The exact schemes of one cell that are within `TIE` of the fastest, the simplest first."""
    runners = [row for row in best(rows).values() if row.exact and row.scheme not in NOTES]
    top = max((row.tokens_per_s for row in runners), default=0.0)
    return [row for row in runners if row.tokens_per_s >= (1 - TIE) * top]


def _prefer(values: list[T], wanted: T) -> T:
    return wanted if wanted in values else values[0]
