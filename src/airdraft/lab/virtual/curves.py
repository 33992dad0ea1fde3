"""Figures of lines: panels side by side, each with its curves, and a ring where a curve has its best point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from airdraft.lab.figures import PALETTE, STYLE, WIDTH, entitled


@dataclass(frozen=True)
class Curve:
    """A line, in the colour of its label."""

    label: str
    points: Sequence[tuple[float, float]]
    best: bool = False
    """Whether its highest point has a ring."""
    dashed: bool = False
    bars: Sequence[tuple[float, float]] = ()
    """Intervals of the points, if they have any: least and most."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    logarithmic: bool = False
    """Of x."""
    mark: float | None = None
    """An x with a line across, a predicted best."""
    ticks: Sequence[str] = ()
    """Words for x = 0, 1, …, if x is no quantity."""


def curves(rows: Sequence[Sequence[Panel]], title: str, setting: str) -> Figure:
    """Draw panels in rows of equal length. A label has one colour in all of them, and one entry in the legend."""
    labels = list(dict.fromkeys(curve.label for panel in chain(*rows) for curve in panel.curves))
    colours = {label: PALETTE[at % len(PALETTE)] for at, label in enumerate(labels)}
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 1.3 + 2.7 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), max(map(len, rows)), squeeze=False)
        for line, panels in zip(axes, rows, strict=True):
            for each, panel in zip(line, panels, strict=False):
                _draw(each, panel, colours)
            for spare in line[len(panels) :]:
                spare.set_visible(False)
        handles: dict[str, Artist] = {}
        for each in axes.flat:
            for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(3, len(handles) or 1),
            frameon=False,
        )
        entitled(figure, title, setting)
    return figure


def _draw(axes: Axes, panel: Panel, colours: dict[str, str]) -> None:
    for curve in panel.curves:
        if not curve.points:
            continue
        xs, ys = zip(*curve.points, strict=True)
        colour = colours[curve.label]
        joined = "" if panel.ticks else "--" if curve.dashed else "-"
        axes.plot(xs, ys, joined, color=colour, linewidth=1.6, marker="o", markersize=3, label=curve.label)
        if curve.bars:
            lows, highs = zip(*curve.bars, strict=True)
            axes.vlines(xs, lows, highs, color=colour, linewidth=1.2)
        if curve.best:
            x, y = max(curve.points, key=lambda point: point[1])
            axes.plot([x], [y], "o", color=colour, markersize=9, fillstyle="none", markeredgewidth=1.6)
    if panel.mark is not None:
        axes.axvline(panel.mark, color="#999999", linewidth=1.0, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.logarithmic:
        axes.set_xscale("log")
    if panel.ticks:
        axes.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=60, ha="right", fontsize=7)
    axes.set_title(panel.title, fontsize=9)
    axes.set(xlabel=panel.x, ylabel=panel.y)
    tops = [y for curve in panel.curves for _, y in (*curve.points, *curve.bars)]
    axes.set_ylim(0, 1.1 * max(tops, default=1.0) or 1.0)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
