"""The grid: every scheme in every cell of RTT x uplink x compute x agreement, and claims about all cells."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import msgspec

from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts, Given, Mode, Policy
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, why
from airdraft.files import replacing
from airdraft.lab.pool import processes
from airdraft.lab.record import Recording, prompts, record, synthetic
from airdraft.lab.results import ALL, COPYING, EXACT, GROWN, HELPED, Claim, Help, Row
from airdraft.lab.timeline import timeline
from airdraft.lab.virtual.branches import KeptBranches
from airdraft.lab.virtual.cell import Result, Setting, auto, best_rounds, constant, run
from airdraft.link.base import HEADER_BYTES
from airdraft.models.registry import load
from airdraft.proposers import maker

RTT_MS = (5.0, 20.0, 50.0, 100.0, 200.0)
UPLINK_MBPS = (0.05, 0.5, 5.0, 50.0)
DOWNLINK_MBPS = 100.0
COMPUTE_MS = ((5.0, 30.0), (15.0, 30.0), (10.0, 60.0), (30.0, 30.0))
"""Pairs of times: a forward of the draft, a forward of the target."""
PAIR = "pair"
"""The first word of the agreements that were recorded with the shipped pair."""
TEMPERATURES = (0.0, 0.7, 1.0)
ACCEPTANCE = (0.6, 0.75, 0.9)
"""Acceptance rates of synthetic agreement."""

TEXTS, TOKENS = 8, 128
"""Texts in a cell, and most tokens of each."""


@dataclass(frozen=True)
class Cell:
    """A place on the grid, with everything fixed but the scheme."""

    rtt_ms: float
    uplink_mbps: float
    draft_ms: float
    verify_ms: float
    agreement: str


def recordings(texts: int = TEXTS, tokens: int = TOKENS) -> list[Recording]:
    """The shipped pair at each temperature, and synthetic agreement. Takes seconds."""
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    found = []
    for temperature in TEMPERATURES:
        params, name = SamplingParams(temperature), f"{PAIR} T={temperature:g}"
        recorded = record(draft, target, prompts(min(100, 6 * texts)), params, tokens, 1, tokenizer.vocab_size, name)
        found.append(recorded.longest(texts))
    found += [synthetic(rate, texts, tokens, 1, tokenizer.vocab_size) for rate in ACCEPTANCE]
    return found


@dataclass(frozen=True)
class Sample:
    """Some cells of the grid, drawn at random."""

    cells: int
    seed: int

    def of(self, every: Sequence[Cell]) -> list[Cell]:
        """Draw them, and keep their order. Raises: `BadParameterError` if there are not as many."""
        if not 1 <= self.cells <= len(every):
            raise BadParameterError(f"a sample of {self.cells} cells of {len(every)}; give a number from 1 to that")
        drawn = random.Random(self.seed).sample(range(len(every)), self.cells)  # noqa: S311
        return [every[at] for at in sorted(drawn)]


def cells(agreements: Iterable[str]) -> list[Cell]:
    """Every cell of the grid."""
    product = itertools.product(agreements, COMPUTE_MS, RTT_MS, UPLINK_MBPS)
    return [Cell(rtt, uplink, draft, verify, name) for name, (draft, verify), rtt, uplink in product]


def rows(cell: Cell, recording: Recording) -> list[Row]:
    """Run every scheme in one cell.

    Schemes with rounds have their best draft length. Streams find their shape by themselves; `stream/off` is also given
    the shape of the best `coupled` rounds, and its faster run counts. `auto` chooses at the edge of `all`, with trees.
    """
    grown = _branches(recording)
    setting = constant(cell.rtt_ms, cell.uplink_mbps, cell.draft_ms, cell.verify_ms, DOWNLINK_MBPS)
    found = [run(recording, setting, SchemeSpec(schemes.SERVER))]
    for name in schemes.named(rounds=True):
        spec = SchemeSpec(name)
        found.append(best_rounds(recording, setting, spec, _facts(cell, recording, name)))
    window = next(result.length for result in found if result.scheme == schemes.COUPLED) or 1
    off, idle, always = (f"{schemes.STREAM}/{race}" for race in schemes.RACES)
    waiting = SchemeSpec(schemes.STREAM, race="off")
    shape = partial(Given, Mode(schemes.STREAM, window, "off", window, window))
    tried = [run(recording, setting, waiting, label=off, policy=policy) for policy in (None, shape)]
    found.append(max(tried, key=lambda result: result.tokens_per_s))
    # With one device the engine is always idle, so what is run only then is run at once.
    raced = run(recording, setting, SchemeSpec(schemes.STREAM), label=always)
    found += [replace(raced, scheme=idle), raced]
    for label, help in HELPED.items():
        found.append(_helped(recording, setting, help, label, grown if label == ALL else None))
    for label, help in GROWN.items():
        if grown is None:  # what is run already: chains
            chains = next(each for each in found if each.scheme == (COPYING if help.proposers else always))
            found.append(replace(chains, scheme=label))
        else:
            found.append(_helped(recording, setting, help, label, grown))
    found.append(_helped(recording, setting, HELPED[ALL], "auto", grown, auto(recording.vocab_size, waiting)))
    if grown is not None:
        grown.keep()
    spec = SchemeSpec(schemes.STREAM)
    found.append(run(recording, setting, spec, label="oracle", oracle=True))
    device = Row(
        **structs_of(cell), scheme="device", length=None, tokens_per_s=1e3 / cell.draft_ms,
        target_forwards_per_token=0.0, uplink_bits_per_token=0.0, downlink_bits_per_token=0.0,
        device_drafts_per_token=1.0, exact=False, bottleneck="draft",
    )  # fmt: skip
    return [*(_row(cell, result) for result in found), device]


def _helped(
    recording: Recording,
    setting: Setting,
    help: Help,
    label: str,
    branches: KeptBranches | None,
    policy: Callable[[], Policy] | None = None,
) -> Result:
    """Run a scheme at an edge that speculates as well. `branches`: the device drafts trees."""
    return run(
        recording, setting, SchemeSpec(help.scheme), label=label, policy=policy, propose=maker(help.proposers),
        drafts=help.drafts, branches=branches,
    )  # fmt: skip


_known: dict[str, KeptBranches] = {}
"""Of this process, by the name of the recording."""


def _branches(recording: Recording) -> KeptBranches | None:
    """What the shipped draft says off the texts; None where they are made up."""
    if any(text.seed is None for text in recording.texts):
        return None
    if recording.name not in _known:
        _known[recording.name] = KeptBranches(recording, "draft")
    return _known[recording.name]


def structs_of(cell: Cell) -> dict[str, Any]:
    """The cell's fields, for a row or for JSON."""
    return {name: getattr(cell, name) for name in Cell.__dataclass_fields__}


def _facts(cell: Cell, recording: Recording, scheme: str) -> Facts:
    acceptance = recording.acceptance
    traits = schemes.traits(scheme)
    if traits.exact == "distribution":
        chances = [text.chances(traits.options) for text in recording.texts]
        acceptance = sum(map(sum, chances)) / recording.length
    return Facts(
        cell.draft_ms / 1e3, cell.verify_ms / 1e3, cell.rtt_ms / 1e3, cell.uplink_mbps * 1e6, DOWNLINK_MBPS * 1e6,
        min(1.0, acceptance),
    )  # fmt: skip


def _row(cell: Cell, result: Result) -> Row:
    tokens = result.counts.committed
    return Row(
        **structs_of(cell),
        scheme=result.scheme,
        length=result.length,
        tokens_per_s=result.tokens_per_s,
        target_forwards_per_token=result.counts.forwards / tokens,
        uplink_bits_per_token=8 * result.uplink_bytes / tokens,
        downlink_bits_per_token=8 * result.downlink_bytes / tokens,
        device_drafts_per_token=result.counts.draft_rows / tokens,
        exact=result.identical and result.scheme != "oracle",
        bottleneck=result.bottleneck,
    )


class KeptCells:
    """The rows of cells that are done, a line each in a file, so that a grid goes on where it was broken off."""

    def __init__(self, path: Path, recorded: Sequence[Recording]) -> None:
        """Read the file, or begin it. Raises: `BadParameterError` if it is of other texts or another airdraft, or
        cannot be read or written."""
        self._path, head = path, _made_of(recorded).encode()
        self.rows: dict[Cell, list[Row]] = {}
        try:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines if line.endswith(b"\n")]  # the last may have been cut off
            if lines and (not whole or whole[0].rstrip() != head):
                raise BadParameterError(f"{path} keeps cells of another airdraft or other texts; give another file")
            for line in whole[1:]:
                found = msgspec.json.decode(line, type=list[Row])
                self.rows[_cell_of(found[0])] = found
            with replacing(path) as file:
                file.write(b"".join(whole or [head + b"\n"]))
        except (msgspec.DecodeError, IndexError) as problem:
            raise BadParameterError(f"{path} keeps no cells of a grid ({problem}); give another file") from problem
        except OSError as problem:
            raise self._unkept(problem) from problem

    def add(self, found: list[Row]) -> None:
        """Keep the rows of one more cell. Raises: `BadParameterError` if they cannot be written."""
        self.rows[_cell_of(found[0])] = found
        try:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(found) + b"\n")
        except OSError as problem:
            raise self._unkept(problem) from problem

    def _unkept(self, problem: OSError) -> BadParameterError:
        return BadParameterError(f"cells cannot be kept in {self._path} ({why(problem)}); give another file")


def _made_of(recorded: Sequence[Recording]) -> str:
    """A digest of all that the rows depend on: the recordings and the package's source."""
    package = Path(__file__).parents[2]
    made = hashlib.sha256(msgspec.json.encode(recorded))
    for path in sorted(package.rglob("*.py")):
        made.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return made.hexdigest()


def run_grid(
    recorded: Sequence[Recording],
    jobs: int,
    on_cell: Callable[[int, int], None] = lambda done, of: None,
    sample: Sample | None = None,
    kept: KeptCells | None = None,
) -> list[Row]:
    """Run every cell, or a sample, in `jobs` processes. `on_cell` gets the number done, and of how many.

    kept: the cells that need not be run again, and where others are kept as they are done.
    """
    by_name = {recording.name: recording for recording in recorded}
    every = cells(by_name) if sample is None else sample.of(cells(by_name))
    done = {} if kept is None else kept.rows
    todo = [cell for cell in every if cell not in done]
    with processes(jobs) as pool:
        for found in pool.map(rows, todo, [by_name[cell.agreement] for cell in todo]):
            if kept is not None:
                kept.add(found)
            done[_cell_of(found[0])] = found
            on_cell(sum(cell in done for cell in every), len(every))
    return [row for cell in every for row in done[cell]]


def claims(found: Sequence[Row]) -> list[Claim]:
    """The claims about all cells, each with its worst cell, and about means over the pair's cells."""
    grouped = by_cell(found)

    def ratio(speed: dict[str, float], scheme: str, others: Sequence[str]) -> float:
        return speed[scheme] / max(speed[name] for name in others)

    def worst(scheme: str, bar: float, *others: str, words: str = "") -> Claim:
        cell = min(grouped, key=lambda cell: ratio(grouped[cell], scheme, others))
        least = ratio(grouped[cell], scheme, others)
        what = f"{scheme} against {words or others[0]}"
        return Claim(what, bar, least, least >= bar, structs_of(cell) | grouped[cell])

    server, coupled = schemes.SERVER, schemes.COUPLED
    off, always = (f"{schemes.STREAM}/{race}" for race in ("off", "always"))
    copying, drafting, helped, every = HELPED
    said = [
        worst(always, 0.99, server),
        worst("auto", 0.97, *EXACT, *HELPED, *GROWN, words="the best exact scheme"),
        worst(off, 1.0, coupled),
        worst(helped, 0.99, always),
        worst(copying, 0.99, server),
        worst(every, 0.97, drafting),
    ]
    tree, copied = GROWN
    said.append(worst(tree, 0.98, always))
    recorded = {cell: speed for cell, speed in grouped.items() if cell.agreement.startswith(PAIR)}
    fast = {cell: speed for cell, speed in recorded.items() if cell.draft_ms < cell.verify_ms}
    warm = {cell: speed for cell, speed in recorded.items() if cell.agreement == f"{PAIR} T=0.7"}
    for scheme, bar, speeds, where in (
        (every, 1.6, recorded, ""), (copied, 1.35, recorded, ""), (copied, 1.3, warm, " at temperature 0.7"),
        (tree, 1.1, fast, " where a draft takes less than V"),
    ):  # fmt: skip
        if speeds:
            mean = geometric_mean([ratio(speed, scheme, (always,)) for speed in speeds.values()])
            what = f"{scheme} against {always}, mean of the pair's cells{where}"
            said.append(Claim(what, bar, mean, mean >= bar, {}))
    return said


def by_cell(found: Iterable[Row]) -> dict[Cell, dict[str, float]]:
    """Tokens/s of every scheme in every cell."""
    grouped: dict[Cell, dict[str, float]] = {}
    for row in found:
        grouped.setdefault(_cell_of(row), {})[row.scheme] = row.tokens_per_s
    return grouped


def _cell_of(row: Row) -> Cell:
    return Cell(*(getattr(row, name) for name in Cell.__dataclass_fields__))


def means(found: Iterable[Row]) -> dict[str, float]:
    """Geometric means over all cells: the speed of auto divided by that of each other exact scheme."""
    grouped = list(by_cell(found).values())
    return {
        name: geometric_mean(speed["auto"] / speed[name] for speed in grouped) for name in (*EXACT, *HELPED, *GROWN)
    }


def gains(found: Iterable[Row]) -> dict[str, float]:
    """What proposals gain: for each agreement, the geometric mean over its cells of the speed of `stream+lookup`
    divided by that of `stream/always`."""
    ratios: dict[str, list[float]] = {}
    for cell, speed in by_cell(found).items():
        ratios.setdefault(cell.agreement, []).append(speed[COPYING] / speed[f"{schemes.STREAM}/always"])
    return {agreement: geometric_mean(each) for agreement, each in ratios.items()}


def unheld(found: Iterable[Row]) -> list[Row]:
    """Rows of exact schemes whose texts were not the target's. There must be none."""
    return [row for row in found if not row.exact and row.scheme not in ("device", "oracle")]


def record_of(recorded: Sequence[Recording], found: Sequence[Row], sample: Sample | None = None) -> dict[str, Any]:
    """The record that `--json` writes."""
    return {
        "simulated": True,
        "sample": None if sample is None else {"cells": sample.cells, "seed": sample.seed},
        "texts": TEXTS,
        "max_tokens": TOKENS,
        "downlink_mbps": DOWNLINK_MBPS,
        "header_bytes": HEADER_BYTES,
        "agreements": [
            {"name": each.name, "tokens": each.length, "acceptance": each.acceptance, "near_ties": each.near_ties}
            for each in recorded
        ],
        "rows": msgspec.to_builtins(found),
        "claims": msgspec.to_builtins(claims(found)),
        "means": means(found),
        "gains": gains(found),
        "timeline": msgspec.to_builtins(timeline(recorded[1])),
    }
