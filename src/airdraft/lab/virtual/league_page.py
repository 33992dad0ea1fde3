"""The league as Markdown and as figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from airdraft.core import schemes
from airdraft.lab.results import COPYING, HELPED, NOTES, SIMULATED, TIE
from airdraft.lab.virtual.league import AUTO, DEVICE, VARIED, LeagueRow

_GROUP = 4
"""Links in one table."""
_DRAFTING = next(label for label, help in HELPED.items() if help.drafts and help.scheme == schemes.SERVER)
"""Server streaming at an edge that has a draft model of its own."""
_LADDER = next(label for label, spec in VARIED.items() if spec.k == 0)
_CUT = next(label for label, spec in VARIED.items() if spec.cut != VARIED[_LADDER].cut)
_RACED = f"{schemes.STREAM}/{schemes.RACES[-1]}"
"""All that an edge without help can do."""


def best(rows: Sequence[LeagueRow]) -> LeagueRow:
    """The fastest exact row of one link; within `TIE` of it the first, which is the simplest."""
    exact = [row for row in rows if row.exact]
    top = max(row.tokens_per_s for row in exact)
    return next(row for row in exact if row.tokens_per_s >= (1 - TIE) * top)


def blocks(record: dict[str, Any], rows: Sequence[LeagueRow], energy: str) -> dict[str, str]:
    """Blocks of the page by name: `conclusion`, `league` (what was run and who wins), `speeds`, `uplinks`, `energy`."""
    links = list(record["links"])
    about = (
        f"The {record['pair']} pair at temperature {record['temperature']:g}: {record['texts']} texts, "
        f"{record['tokens']:,} tokens, acceptance {record['acceptance']:.3f}; compute `{record['profile']}`; "
        f"{SIMULATED}. "
        f"Intervals are 95 % over prompts ({record['resampled']:,} resamplings)."
    )
    return {
        "conclusion": _conclusion(rows),
        "league": "\n".join([about, "", *_winners(rows, record["links"])]),
        "speeds": _tables(rows, links, _speed, "tokens/s"),
        "uplinks": _tables(rows, links, lambda row: f"{row.uplink_bits_per_token:,.0f}", "bits a token, uplink"),
        "energy": f"J a token. {energy[:1].upper()}{energy[1:]}.\n\n"
        + _tables(rows, links, lambda row: f"{row.joule_per_token:.2f}", "J a token"),
    }


def _speed(row: LeagueRow) -> str:
    return f"{row.tokens_per_s:.1f} ({row.low:.1f} to {row.high:.1f})"


def _conclusion(rows: Sequence[LeagueRow]) -> str:
    """What a reader should take from the rows, where they speak against us too."""
    links = [
        {row.scheme: row for row in rows if row.link == link} for link in dict.fromkeys(row.link for row in rows)
    ]  # fmt: skip
    won = [best(list(here.values())) for here in links]
    published = [max((row for row in here.values() if row.published), key=_tokens_per_s) for here in links]
    thrifty = [min((row for row in here.values() if row.published), key=_joule) for here in links]
    first = Counter(f"`{row.scheme}`" for row in won)
    names = Counter(f"`{row.scheme}`" for row in published)
    frugal = Counter(f"`{min((row for row in here.values() if row.exact), key=_joule).scheme}`" for here in links)
    few, plain, raced, drafting, copying, auto, device = (
        [here[name] for here in links]
        for name in (schemes.COUPLED, schemes.SERVER, _RACED, _DRAFTING, COPYING, AUTO, DEVICE)
    )
    fixed = [max(_tokens_per_s(here[name]) for name in (schemes.LATTICE, _CUT)) for here in links]
    ladder = [_tokens_per_s(here[_LADDER]) / most for here, most in zip(links, fixed, strict=True)]
    slower = sum(row.tokens_per_s < other.tokens_per_s for row, other in zip(published, plain, strict=True))
    apart = sum(row.low > other.high for row, other in zip(won, drafting, strict=True))
    return (
        f"The fastest exact way is {_counted(first)} of {len(links)} links: {_times(won, plain)} × plain server "
        f"streaming and {_times(won, published)} × the best published scheme on the same link. `{AUTO}`, which chooses "
        f"by itself, reaches {_times(auto, won)} × that. The thriftiest exact way is {_counted(frugal)} of them. An "
        f"edge without a draft model gets {_times(raced, plain)} × server streaming from a device that drafts "
        f"(`{_RACED}`), and {_times(copying, plain)} × if it copies as well (`{COPYING}`). The best published scheme "
        f"is {_counted(names)} of {len(links)} links, and slower than server streaming on {slower}.\n\n"
        "Where we lose: most of the first figure is the edge's own draft model. "
        f"`{_DRAFTING}`, which needs no draft on the device, is within {_percent(won, drafting)} of the fastest, and "
        f"on {len(links) - apart} of {len(links)} links their intervals overlap. A raced stream spends "
        f"{_times(raced, thrifty, _joule)} × the energy of the thriftiest published scheme, because the edge's target "
        f"never rests, and {_times(raced, few, _bits)} × the uplink bits of `{schemes.COUPLED}`, because drafts leave "
        f"in small packets. The ladder reaches {_span(ladder)} × the speed of the better of `{schemes.LATTICE}` and "
        f"`{_CUT}`. The device alone writes {_times(device, won)} × as fast at {_times(device, won, _joule)} × the "
        "energy, and its text is not the target's."
    )


def _tokens_per_s(row: LeagueRow) -> float:
    return row.tokens_per_s


def _joule(row: LeagueRow) -> float:
    return row.joule_per_token


def _bits(row: LeagueRow) -> float:
    return row.uplink_bits_per_token


def _times(
    rows: Sequence[LeagueRow], others: Sequence[LeagueRow], of: Callable[[LeagueRow], float] = _tokens_per_s
) -> str:
    """The least and the most that a figure of `rows` is of that of `others`, link by link."""
    return _span([of(row) / of(other) for row, other in zip(rows, others, strict=True)])


def _percent(rows: Sequence[LeagueRow], others: Sequence[LeagueRow]) -> str:
    most = max(1 - other.tokens_per_s / row.tokens_per_s for row, other in zip(rows, others, strict=True))
    return f"{100 * most:.0f} %"


def _span(values: Sequence[float]) -> str:
    low, high = (f"{bound(values):.2f}" for bound in (min, max))
    return low if low == high else f"{low} to {high}"


def _counted(names: Counter[str]) -> str:
    return " and ".join(f"{name} on {count}" for name, count in names.most_common())


def _winners(rows: Sequence[LeagueRow], full: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        f"| link | Mbit/s up, full | fastest exact | tokens/s | × server | × `{_DRAFTING}` | × the best published | "
        "least energy, exact |",
        "|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for link in full:
        here = [row for row in rows if row.link == link]
        won, by_name = best(here), {row.scheme: row for row in here}
        others = max(row.tokens_per_s for row in here if row.published)
        least = min((row for row in here if row.exact), key=lambda row: row.joule_per_token)
        lines.append(
            f"| {link} | {full[link]['uplink_bps'] / 1e6:.1f} | `{won.scheme}` | {won.tokens_per_s:.1f} | "
            f"{won.tokens_per_s / by_name[schemes.SERVER].tokens_per_s:.2f} | "
            f"{won.tokens_per_s / by_name[_DRAFTING].tokens_per_s:.2f} | {won.tokens_per_s / others:.2f} | "
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
    from airdraft.lab.figures import save  # noqa: PLC0415
    from airdraft.lab.virtual.curves import Curve, Panel, curves  # noqa: PLC0415  only those who draw need matplotlib

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
