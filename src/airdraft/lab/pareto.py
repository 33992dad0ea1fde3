"""The figure of drafts in few bits: tokens/s over a link against bytes, and the Pareto set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from airdraft.lab.figures import PALETTE, STYLE, WIDTH, save
from airdraft.lab.points import SmallDraft, frontier, worth_most


def draw(panels: Mapping[tuple[str, str], Sequence[SmallDraft]], setting: str, path: Path) -> Path:
    """Draw a panel for each draft and link. setting: what stands below the title. Returns: `path`."""
    rows, columns = (list(dict.fromkeys(key[at] for key in panels)) for at in (0, 1))
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 0.8 + 2.6 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex="row")
        for (draft, link), every in panels.items():
            axes = grid[rows.index(draft)][columns.index(link)]
            axes.scatter([each.mb for each in every], [each.tokens_per_s for each in every], s=14, color=PALETTE[0])
            best, chosen = frontier(every), worth_most(every)
            axes.plot([each.mb for each in best], [each.tokens_per_s for each in best], color=PALETTE[9], marker="o",
                      markersize=4, drawstyle="steps-post")  # fmt: skip
            axes.plot(chosen.mb, chosen.tokens_per_s, "o", color=PALETTE[3], markersize=8)
            axes.annotate(chosen.name, (chosen.mb, chosen.tokens_per_s), xytext=(8, -12),
                          textcoords="offset points", fontsize=8)  # fmt: skip
            axes.set_xscale("log")
            axes.set_title(f"{draft}; {link}", fontsize=9)
            axes.set_xlabel("MB")
            axes.set_ylabel("tokens/s")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("{x:g}")
        title = f"Drafts in few bits: predicted speed on a device, and bytes\n{setting}"
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)
