"""Figures of a grid, drawn with matplotlib: who wins where, speed over RTT, and one text as it was written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from airdraft.core import schemes
from airdraft.lab.results import (
    EXACT,
    GROWN,
    HELPED,
    NOTES,
    SCHEMES,
    SIMULATED,
    TIE,
    LaneSpan,
    Row,
    Scheme,
    Timeline,
    best,
    forwards,
    typical,
    typical_agreement,
    winner,
)

# After Paul Tol's muted scheme, which the usual kinds of colour blindness can tell apart; darker where text needs it.
PALETTE = (
    "#6e6e6e", "#aa4499", "#cc8800", "#cc6677", "#6f6f10", "#3388bb", "#44aa99", "#117733",
    "#bb5566", "#004488", "#997700", "#7755aa", "#008866", "#bb6644", "#558800",
)  # fmt: skip
COLOURS: dict[Scheme, str] = {
    **dict(zip((*EXACT, *HELPED, *GROWN), PALETTE, strict=False)),
    "auto": "#332288",
    "oracle": "#222222",
    "device": "#8a8a8a",
}
_STYLES: dict[Scheme, tuple[str, float, str]] = {
    schemes.SERVER: ("--", 1.8, ""),
    **{name: ("-", 1.6, marker) for name, marker in zip(schemes.named(rounds=True), "v^PsD", strict=False)},
    "auto": ("-", 2.8, "o"),
    "oracle": ("-.", 1.0, ""),
    "device": (":", 1.6, ""),
}
_SPANS = {
    "draft": ("#66bbee", "draft, accepted"),
    "dead": ("#e2e2e2", "draft on a dead branch"),
    "prefill": ("#999933", "prefill"),
    "verify": ("#117733", "verify forward"),
    "race": ("#ddaa33", "raced forward"),
    "send": ("#3377aa", "uplink packet"),
    "answer": ("#882255", "downlink packet"),
    "mismatch": ("#cc3311", "mismatch"),
}

_LEADER = {"arrowstyle": "-", "color": "#cccccc", "linewidth": 0.7, "shrinkA": 2, "shrinkB": 4, "relpos": (0, 0.5)}

_RACED: dict[Scheme, str] = {f"{schemes.STREAM}/idle": "stream/idle; with one device also stream/always and auto"}
_PALEST = 0.35
"""Depth of a winner's colour where it gains nothing over server streaming."""
WIDTH = 9.0
_INK = "#222222"
_TIMELINE_S = 1.2
_STRIP_S = 0.6
_LETTER_IN = 0.06
"""Inches that a letter takes in a span."""

STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    # The widest come first: text laid out in them fits with whichever of these the viewer has.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "font.size": 9.0,
    "text.color": _INK,
    "text.parse_math": False,  # tokens are code: a dollar is a dollar
    "axes.edgecolor": "#bbbbbb",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "airdraft",  # ids are the same from run to run
}


def save(figure: Figure, path: Path) -> Path:
    """Write an SVG that depends on nothing but the figure: no date, no random ids. Returns `path`."""
    with mpl.rc_context(STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return path


def winners(rows: Sequence[Row]) -> Figure:
    """The fastest exact scheme over RTT and uplink rate, and its gain over `server`, for the typical agreement; one
    panel for each pair of forwards."""
    agreement = typical_agreement(rows)
    rows = [row for row in rows if row.agreement == agreement]
    pairs = sorted({(row.draft_ms, row.verify_ms) for row in rows})
    lines = math.ceil(len(pairs) / 3)
    columns = math.ceil(len(pairs) / lines)
    rtts, rates = sorted({row.rtt_ms for row in rows}), sorted({row.uplink_mbps for row in rows})
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 1.15 + lines * (0.75 + 0.34 * len(rates))), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
        seen: set[Scheme] = set()
        won = {
            (pair, rtt_ms, rate): _won([row for row in rows if _place(row) == (pair, rtt_ms, rate)])
            for pair in pairs for rtt_ms in rtts for rate in rates
        }  # fmt: skip
        most = max((gain for _, gain in won.values()), default=1.0)
        for axes, (draft_ms, verify_ms) in zip(panels.flat, pairs, strict=False):
            cells = [[won[(draft_ms, verify_ms), rtt_ms, rate] for rtt_ms in rtts] for rate in rates]
            seen |= _winner_panel(axes, cells, columns, most)
            axes.set_xticks([x + 0.5 for x in range(len(rtts))], [f"{rtt_ms:g}" for rtt_ms in rtts])
            axes.set_yticks([y + 0.5 for y in range(len(rates))], [f"{rate:g}" for rate in rates])
            axes.set_title(forwards(draft_ms, verify_ms), fontsize=9)
        for axes in panels.flat[len(pairs) :]:
            axes.set_visible(False)
        for axes in panels.flat[max(0, len(pairs) - columns) : len(pairs)]:  # the lowest of each column
            axes.set_xlabel("RTT, ms")
        for axes in panels[:, 0]:
            axes.set_ylabel("uplink, Mbit/s")
        setting = f"{agreement}; the deeper, the faster; within {TIE:.1%} the simpler scheme is named"
        entitled(figure, "Which exact scheme is fastest, and its speed over server streaming", setting)
        handles = [
            Patch(color=COLOURS[scheme], label=_RACED.get(scheme, scheme)) for scheme in SCHEMES if scheme in seen
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) or 1, frameon=False)
    return figure


def _place(row: Row) -> tuple[tuple[float, float], float, float]:
    return (row.draft_ms, row.verify_ms), row.rtt_ms, row.uplink_mbps


def _won(cell: Sequence[Row]) -> tuple[Scheme | None, float]:
    """The fastest scheme of a cell, and its speed divided by that of server streaming; 1 where there is no winner."""
    won, server = winner(cell), best(cell).get("server")
    gain = won.tokens_per_s / server.tokens_per_s if won and server and server.tokens_per_s > 0 else 1.0
    return won.scheme if won else None, gain


def _winner_panel(
    axes: Axes, cells: Sequence[Sequence[tuple[Scheme | None, float]]], panels: int, most: float
) -> set[Scheme]:
    """Fill one of `panels` side by side; `most` is the largest gain of all. Returns the winners."""
    seen: set[Scheme] = set()
    room_in = (WIDTH - 0.8) / panels / len(cells[0])
    size = min(8.0, 0.82 * room_in * 72 / (len("×1.00") * 0.62))  # a digit is 0.62 of its size wide
    for y, line in enumerate(cells):
        for x, (scheme, gain) in enumerate(line):
            if scheme is None:
                continue
            seen.add(scheme)
            depth = _PALEST + (1 - _PALEST) * (math.log(max(gain, 1.0)) / math.log(most) if most > 1 else 1.0)
            colour = _paler(COLOURS[scheme], depth)
            axes.add_patch(Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, color=colour, linewidth=0))
            text = f"×{gain:.2f}" if gain < 10 else f"×{gain:.0f}"
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", color=_ink_on(colour), fontsize=size)
    axes.set(xlim=(0, len(cells[0])), ylim=(0, len(cells)))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return seen


def speed_over_rtt(rows: Sequence[Row]) -> Figure:
    """Tokens/s of every scheme over RTT, in the typical setting."""
    view = typical(rows)
    rtts = sorted({row.rtt_ms for row in view.rows})
    at = {rtt_ms: best([row for row in view.rows if row.rtt_ms == rtt_ms]) for rtt_ms in rtts}
    top = max(row.tokens_per_s for row in view.rows) * 1.05 or 1.0
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 4.9), layout="constrained")
        axes = figure.subplots()
        ends: list[tuple[Scheme, float, float]] = []
        for scheme in best(view.rows):
            style, width, marker = _STYLES.get(scheme, ("-", 1.6, "o"))
            points = [(rtt_ms, found[scheme].tokens_per_s) for rtt_ms, found in at.items() if scheme in found]
            xs, ys = zip(*points, strict=True)
            under = 1.9 if scheme == "auto" else 2.0  # the widest line lies beneath those it coincides with
            axes.plot(
                xs, ys, style, color=COLOURS[scheme], linewidth=width, marker=marker, markersize=3.5, zorder=under
            )
            ends.append((scheme, xs[-1], ys[-1]))
        if rtts[-1] > 0:  # logarithmic, but for a step down to 0 if there is one
            axes.set_xscale("symlog", linthresh=next(rtt_ms for rtt_ms in rtts if rtt_ms > 0), linscale=0.6)
        axes.minorticks_off()
        axes.set_xticks(rtts, [f"{rtt_ms:g}" for rtt_ms in rtts])
        axes.set(xlabel="RTT, ms", ylabel="tokens/s", ylim=(0, top))
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        heights = spread([y / top for _, _, y in ends], 0.052)
        for (scheme, x, y), height in zip(ends, heights, strict=True):
            axes.annotate(
                scheme + NOTES.get(scheme, ""), (x, y), (1.035, height), textcoords="axes fraction",
                color=COLOURS[scheme], va="center", fontweight="bold" if scheme == "auto" else "normal",
                arrowprops=_LEADER,
            )  # fmt: skip
        entitled(figure, "Speed over RTT, each scheme at its best draft length", str(view))
    return figure


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights of labels in [0, 1], in the given order, near the wanted ones and `gap` apart where there is room."""
    gap = min(gap, 1.0 / max(1, len(heights)))
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    floor = 0.0
    for at in order:
        placed[at] = floor = max(heights[at], floor)
        floor += gap
    ceiling = 1.0
    for at in reversed(order):
        placed[at] = ceiling = min(placed[at], ceiling)
        ceiling -= gap
    return placed


def timeline(text: Timeline) -> Figure:
    """One text in virtual time: forwards on the device above and at the edge below, packets aslant between them."""
    spans = sorted((span for span in text.spans if span.start_s < _TIMELINE_S), key=lambda span: span.start_s)
    end = min(_TIMELINE_S, max((span.end_s for span in spans), default=_STRIP_S))
    strips = max(1, math.ceil(round(end / _STRIP_S, 6)))
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 1.1 + 1.75 * strips), layout="constrained")
        for strip, axes in enumerate(figure.subplots(strips, 1, squeeze=False).flat):
            start = strip * _STRIP_S
            for span in spans:
                if span.start_s < start + _STRIP_S and span.end_s >= start:
                    _span(axes, span)
            axes.set(xlim=(start, start + _STRIP_S), ylim=(-0.15, 3.15))
            ticks = [start + step * 0.1 for step in range(round(_STRIP_S / 0.1) + 1)]
            axes.set_xticks(ticks, [f"{tick * 1e3:.0f}" for tick in ticks])
            axes.set_yticks([2.75, 1.5, 0.25], ["device", "link", "edge"])
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        axes.set_xlabel("time, ms")
        entitled(figure, text.title)
        kinds = [kind for kind in _SPANS if any(span.kind == kind for span in spans)]
        handles = [_key(kind) for kind in kinds]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _span(axes: Axes, span: LaneSpan) -> None:
    colour, _ = _SPANS[span.kind]
    bottom = 2.5 if span.lane in {"device", "uplink"} else 0.0
    if span.kind == "mismatch":
        axes.plot(
            [span.start_s], [2.38 if bottom else 0.62], "x", color=colour, markersize=6, markeredgewidth=1.8, zorder=4
        )
    elif span.lane == "uplink":
        axes.plot([span.start_s, span.end_s], [2.5, 0.5], color=colour, linewidth=1.0, solid_capstyle="round")
    elif span.lane == "downlink":
        axes.plot([span.start_s, span.end_s], [0.5, 2.5], color=colour, linewidth=1.0, dashes=(4, 1.5))
    else:
        box = Rectangle(
            (span.start_s, bottom), span.end_s - span.start_s, 0.5, facecolor=colour, edgecolor="white", linewidth=0.7
        )  # fmt: skip
        axes.add_patch(box)
        label = _printable(span.label)
        width_in = (span.end_s - span.start_s) / _STRIP_S * (WIDTH - 1.0)
        if 0 < len(label) * _LETTER_IN < width_in:
            ink = "#6e6e6e" if span.kind == "dead" else _ink_on(colour)
            middle = (span.start_s + span.end_s) / 2
            axes.text(middle, bottom + 0.25, label, color=ink, fontsize=6.5, ha="center", va="center", clip_on=True)


def _printable(label: str) -> str:
    """A token as it can be drawn: line ends as arrows, what the font may lack as dots."""
    label = label.strip(" ").replace("\n", "↵")
    return "".join(letter if letter == "↵" or (letter.isprintable() and letter < "\u0250") else "·" for letter in label)


def _key(kind: str) -> Patch | Line2D:
    """The legend's entry for one kind of span."""
    colour, label = _SPANS[kind]
    if kind == "mismatch":
        return Line2D([], [], color=colour, marker="x", linestyle="", markeredgewidth=1.8, label=label)
    if kind == "send":
        return Line2D([], [], color=colour, linewidth=1.0, label=label)
    if kind == "answer":
        return Line2D([], [], color=colour, linewidth=1.0, dashes=(4, 1.5), label=label)
    return Patch(color=colour, label=label)


def entitled(figure: Figure, title: str, setting: str = "") -> None:
    """Write what is shown above the figure, and that it was simulated."""
    figure.suptitle(f"{title}\n{setting + '; ' if setting else ''}{SIMULATED}", fontsize=10, x=0.01, ha="left")


def _paler(colour: str, depth: float) -> str:
    """`colour` mixed with white; the share `depth` of it remains."""
    red, green, blue = (1 - depth * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def _ink_on(colour: str) -> str:
    """White or black, whichever reads better on `colour` (#rrggbb)."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else _INK
