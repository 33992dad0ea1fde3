"""The league as Markdown and as figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from airdraft.core import schemes
from airdraft.lab.league import DEVICE, LeagueRow
from airdraft.lab.results import HELPED, NOTES, SIMULATED, TIE

_GROUP = 4
"""Links in one table."""


def best(rows: Sequence[LeagueRow]) -> LeagueRow:
    """The fastest exact row of one link; within `TIE` of it the first, which is the simplest."""
    exact = [row for row in rows if row.exact]
    top = max(row.tokens_per_s for row in exact)
    return next(row for row in exact if row.tokens_per_s >= (1 - TIE) * top)


def blocks(record: dict[str, Any], rows: Sequence[LeagueRow], energy: str) -> dict[str, str]:
    """Blocks of the page by name: `league`, what was run and who wins, `speeds`, `uplinks` and `energy`."""
    links = list(record["links"])
    about = (
        f"The {record['pair']} pair at temperature {record['temperature']:g}: {record['texts']} texts, "
        f"{record['tokens']:,} tokens, acceptance {record['acceptance']:.3f}; compute `{record['profile']}`; "
        f"{SIMULATED}. "
        f"Intervals are 95 % over prompts ({record['resampled']:,} resamplings)."
    )
    return {
        "league": "\n".join([about, "", *_winners(rows, record["links"])]),
        "speeds": _tables(rows, links, _speed, "tokens/s"),
        "uplinks": _tables(rows, links, lambda row: f"{row.uplink_bits_per_token:,.0f}", "bits a token, uplink"),
        "energy": f"J a token. {energy[:1].upper()}{energy[1:]}.\n\n"
        + _tables(rows, links, lambda row: f"{row.joule_per_token:.2f}", "J a token"),
    }


def _speed(row: LeagueRow) -> str:
    return f"{row.tokens_per_s:.1f} ({row.low:.1f} to {row.high:.1f})"


def _winners(rows: Sequence[LeagueRow], full: dict[str, dict[str, Any]]) -> list[str]:
    drafting = next(label for label, help in HELPED.items() if help.drafts and help.scheme == schemes.SERVER)
    lines = [
        f"| link | Mbit/s up, full | fastest exact | tokens/s | × server | × `{drafting}` | × the best published | "
        "least energy, exact |",
        "|---|---:|---|---:|---:|---:|---:|---|",
    ]
    published = {name for name in schemes.SCHEMES if schemes.traits(name).published}
    for link in full:
        here = [row for row in rows if row.link == link]
        won, by_name = best(here), {row.scheme: row for row in here}
        others = max(row.tokens_per_s for row in here if row.scheme in published)
        least = min((row for row in here if row.exact), key=lambda row: row.joule_per_token)
        lines.append(
            f"| {link} | {full[link]['uplink_bps'] / 1e6:.1f} | `{won.scheme}` | {won.tokens_per_s:.1f} | "
            f"{won.tokens_per_s / by_name[schemes.SERVER].tokens_per_s:.2f} | "
            f"{won.tokens_per_s / by_name[drafting].tokens_per_s:.2f} | {won.tokens_per_s / others:.2f} | "
            f"`{least.scheme}`, {least.joule_per_token:.2f} J |"
        )
    return lines


def _tables(rows: Sequence[LeagueRow], links: Sequence[str], cell: Callable[[LeagueRow], str], what: str) -> str:
    tables = []
    for at in range(0, len(links), _GROUP):
        group = links[at : at + _GROUP]
        lines = [f"| {what} | {' | '.join(group)} |", f"|---|{'---:|' * len(group)}"]
        for scheme in dict.fromkeys(row.scheme for row in rows):
            found = {row.link: row for row in rows if row.scheme == scheme}
            cells = [cell(found[link]) if link in found else "–" for link in group]
            lines.append(f"| `{scheme}`{NOTES.get(scheme, '')} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def draw(rows: Sequence[LeagueRow], links: Sequence[str], title: str, folder: Path) -> list[Path]:
    """Draw `league.svg` and `league-energy.svg` into `folder`. Raises: `OSError`, `ModuleNotFoundError`."""
    from airdraft.lab.curves import Curve, Panel, curves  # noqa: PLC0415  only those who draw need matplotlib
    from airdraft.lab.figures import save  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(row.scheme for row in rows if row.scheme != DEVICE))
    speeds, energies = [], []
    for link in links:
        here = {row.scheme: row for row in rows if row.link == link}
        points = [(at, here[name]) for at, name in enumerate(names) if name in here]
        bars = [(row.low, row.high) for _, row in points]
        speed = Curve("tokens/s, with its 95 % interval", [(at, row.tokens_per_s) for at, row in points], bars=bars)
        speeds.append(Panel(link, "", "tokens/s", [speed], ticks=names))
        parts = {
            "all": [(at, row.joule_per_token) for at, row in points],
            "device": [(at, row.device_joule) for at, row in points],
            "cell": [(at, row.cell_joule) for at, row in points],
            "edge": [(at, row.edge_joule) for at, row in points],
        }
        lines = [Curve(part, joules) for part, joules in parts.items()]
        energies.append(Panel(link, "", "J a token", lines, ticks=names))
    return [
        save(curves(_rows(panels), what, title), folder / f"{name}.svg")
        for name, what, panels in (
            ("league", "Every scheme over every link", speeds),
            ("league-energy", "Energy of a token, by where it is spent", energies),
        )
    ]


def _rows(panels: Sequence[Any]) -> list[Sequence[Any]]:
    return [panels[at : at + 3] for at in range(0, len(panels), 3)]
