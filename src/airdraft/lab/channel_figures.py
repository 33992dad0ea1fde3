"""Figures of channels: one as it is, as it is seen and as it is estimated, and errors by SNR and by horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from airdraft.channel import bench
from airdraft.channel.baselines import interpolated
from airdraft.channel.bench import Method, NmseRow
from airdraft.channel.generate import ChannelRecipe
from airdraft.channel.nets import LEARNED
from airdraft.lab.figures import PALETTE, STYLE, WIDTH, entitled, save

SHOWN = ChannelRecipe(("TDL-B",), (60.0, 60.0), (200e-9, 200e-9), (10.0, 10.0))
NUMBER = 7
"""Seed of the channel that is shown."""


def draw(rows: Sequence[NmseRow], learned: Method | None, folder: Path) -> list[Path]:
    """Draw `channel.svg` and `channel-nmse.svg` into `folder`. Raises: `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [save(shown(learned), folder / "channel.svg"), save(errors(rows), folder / "channel-nmse.svg")]


def shown(learned: Method | None) -> Figure:
    """The amplitude of one channel at one antenna, over slots and subcarriers, and estimates of it."""
    (seen,) = bench.drawn(SHOWN, bench.ESTIMATE, NUMBER, 1)
    pilots = np.full(seen.observed.shape, np.nan)
    at = np.ix_(seen.comb.slots, seen.comb.subcarriers)
    pilots[at] = np.abs(seen.observed[at])
    panels = {
        "the channel": np.abs(seen.channel.values),
        "seen: pilots in noise": pilots,
        "least squares, lines between": np.abs(interpolated(seen.observed, seen.comb)),
    }
    if learned is not None:
        panels[LEARNED] = np.abs(learned(seen))
    most = float(np.abs(seen.channel.values[:, :, 0]).max())
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 2.9), layout="constrained")
        for axes, (name, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            axes.imshow(
                values[:, :, 0].T,
                cmap="viridis",
                vmin=0.0,
                vmax=most,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
            )
            axes.set_title(name, fontsize=9)
            axes.set(xlabel="slot", ylabel="subcarrier")
        setting = "TDL-B, 60 km/h, delay spread 200 ns, pilots at 10 dB; amplitude at the first of 4 antennas"
        entitled(figure, "A channel and its estimates", setting)
    return figure


def errors(rows: Sequence[NmseRow]) -> Figure:
    """The error of every method: estimation over SNR above, prediction over the horizon below, a panel a speed."""
    speeds, methods = sorted({row.speed_kmh for row in rows}), list(dict.fromkeys(row.method for row in rows))
    colours = {method: PALETTE[at % len(PALETTE)] for at, method in enumerate(methods)}
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 6.4), layout="constrained")
        grid = figure.subplots(2, len(speeds), squeeze=False)
        for line, (task, word) in zip(grid, (("estimate", "SNR, dB"), ("predict", "slots ahead")), strict=True):
            for axes, speed_kmh in zip(line, speeds, strict=True):
                chosen = [row for row in rows if (row.task, row.speed_kmh) == (task, speed_kmh)]
                _lines(axes, chosen, colours)
                axes.set_title(f"{task}, {speed_kmh:g} km/h", fontsize=9)
                axes.set(xlabel=word, ylabel="NMSE, dB", ylim=(-35, 5))
        found = {
            label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=3, frameon=False)
        setting = f"Pilots at every second slot and fourth subcarrier; predictions at {bench.PREDICTED_SNR_DB:g} dB"
        entitled(figure, "Errors of estimates and predictions", setting)
    return figure


def _lines(axes: Axes, rows: Sequence[NmseRow], colours: Mapping[str, str]) -> None:
    for method in dict.fromkeys(row.method for row in rows):
        points = [(row.horizon or row.snr_db, row.nmse_db) for row in rows if row.method == method]
        xs, ys = zip(*sorted(points), strict=True)
        dashed = "--" if "true" in method else "-"
        width = 3.0 if method == LEARNED else 1.6
        axes.plot(xs, ys, dashed, color=colours[method], linewidth=width, marker="o", markersize=3, label=method)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
