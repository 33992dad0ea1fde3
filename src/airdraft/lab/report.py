"""A grid of simulated runs as figures and as tables for a page of Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airdraft.core import schemes
from airdraft.errors import BadParameterError
from airdraft.lab.results import COPYING, NOTES, SCHEMES, SIMULATED, Claim, Grid, Row, best, fastest, read, typical

_TYPICAL_RTTS_MS = (5.0, 20.0, 50.0, 100.0, 200.0)
_WORDS = {
    "rtt_ms": "RTT {} ms",
    "uplink_mbps": "{} Mbit/s up",
    "draft_ms": "draft {} ms",
    "verify_ms": "verify {} ms",
    "agreement": "{}",
}


def report(grid: dict[str, Any], folder: Path) -> list[Path]:
    """Draw `winner.svg`, `rtt.svg` and, if the grid has one, `timeline.svg` into `folder`; returns their paths.

    The same grid gives the same bytes with the same matplotlib. Raises `BadParameterError` if the grid is none,
    matplotlib is missing, or `folder` cannot be written.
    """
    results = read(grid)
    try:
        from airdraft.lab import figures  # noqa: PLC0415 - only those who draw need matplotlib
    except ModuleNotFoundError as problem:
        raise BadParameterError("the figures need matplotlib; install airdraft[report]") from problem
    drawn = {"winner": figures.winners(results.rows), "rtt": figures.speed_over_rtt(results.rows)}
    if results.timeline:
        drawn["timeline"] = figures.timeline(results.timeline)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [figures.save(figure, folder / f"{name}.svg") for name, figure in drawn.items()]
    except OSError as problem:
        raise BadParameterError(f"cannot write figures into {folder}: {problem.strerror or problem}") from problem


def blocks(grid: dict[str, Any]) -> dict[str, str]:
    """Markdown by the name of the block it belongs into: `claims`, each with its worst cell, and `typical`, the speed
    of every scheme over RTT. Raises `BadParameterError` if the grid is none."""
    results = read(grid)
    return {"claims": _claims(results), "typical": _typical(results.rows)}


def _claims(results: Grid) -> str:
    cells = len({(row.rtt_ms, row.uplink_mbps, row.draft_ms, row.verify_ms, row.agreement) for row in results.rows})
    lines = [
        f"{cells:,} cells, {SIMULATED}. Each claim is about every cell it applies to; its worst is shown.",
        "",
        "| claim | bar | worst | held? | where it is worst |",
        "|---|---:|---:|---|---|",
    ]
    for claim in results.claims:
        held = "yes" if claim.held else "**NO**"
        lines.append(f"| {_plain(claim.claim)} | {claim.bar:g} | {claim.worst:.3f} | {held} | {_cell(claim)} |")
    if results.means:
        means = ", ".join(f"{mean:.2f} × `{scheme}`" for scheme, mean in results.means.items())
        lines += ["", f"Speed of `auto`, geometric mean over all cells: {means}."]
    if results.gains:
        gains = ", ".join(f"{gain:.2f} × with {_plain(agreement)}" for agreement, gain in results.gains.items())
        lines += ["", f"Speed of `{COPYING}` against `{schemes.STREAM}/always`, geometric mean: {gains}."]
    return "\n".join(lines)


def _cell(claim: Claim) -> str:
    """A cell in words; other keys than the usual are shown as they are."""
    words = [form.format(_number(claim.cell[key])) for key, form in _WORDS.items() if key in claim.cell]
    others = (key for key in claim.cell if key not in _WORDS and key not in SCHEMES)
    words += [f"{key} {_number(claim.cell[key])}" for key in others]
    return _plain(", ".join(words)) or "–"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _typical(rows: list[Row]) -> str:
    view = typical(rows)
    present = sorted({row.rtt_ms for row in view.rows})
    shown = [rtt_ms for rtt_ms in present if rtt_ms in _TYPICAL_RTTS_MS] or present
    columns = {rtt_ms: [row for row in view.rows if row.rtt_ms == rtt_ms] for rtt_ms in shown}
    speeds = {rtt_ms: best(column) for rtt_ms, column in columns.items()}
    leading = {rtt_ms: fastest(column) for rtt_ms, column in columns.items()}
    lines = [
        f"Tokens/s, {SIMULATED}: {_plain(str(view))}; each scheme at its best draft length; the fastest exact in bold.",
        "",
        "| scheme | " + " | ".join(f"RTT {rtt_ms:g} ms" for rtt_ms in shown) + " |",
        "|---" + "|---:" * len(shown) + "|",
    ]
    for scheme in best(view.rows):
        cells = []
        for rtt_ms in shown:
            row = speeds[rtt_ms].get(scheme)
            value = f"{row.tokens_per_s:.1f}" if row else "–"
            cells.append(f"**{value}**" if row in leading[rtt_ms] else value)
        lines.append(f"| `{scheme}`{NOTES.get(scheme, '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that cannot end a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
