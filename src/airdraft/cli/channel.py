"""`airdraft channel`: simulated and recorded wireless channels, and how well they are estimated and predicted."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from airdraft.channel.generate import ChannelRecipe, Range
from airdraft.channel.profiles import PROFILES
from airdraft.cli import options
from airdraft.cli.bench.results import (
    Figures,
    JsonFile,
    Pages,
    console_for,
    draw_into,
    progress,
    renew_pages,
    write_json,
)
from airdraft.cli.explained import FoldedCommand
from airdraft.errors import BadParameterError
from airdraft.files import check_output

if TYPE_CHECKING:
    from airdraft.channel.bench import Method

_in_grid = functools.partial(typer.Option, rich_help_panel="Grid")
channel = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Wireless channels, simulated or recorded: made, estimated and predicted.

  airdraft channel generate mix.npz --profile all --speed-kmh 3:120
""",
)

Axes = Annotated[
    str | None,
    typer.Option(
        metavar="LETTERS",
        help="Axes of other programs' arrays: n channels, t slots, f subcarriers, a antennas; DeepMIMO's are naaf.",
    ),
]
Key = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the array in a file.")]
TITLES = {
    "csi-files": "what was measured",
    "csi-estimate": "NMSE in dB, the least in bold",
    "csi-predict": "NMSE in dB, the least in bold",
    "channel-nets": "what the learned networks are",
    "channel-reached": "how they stand",
    "channel-estimate": "NMSE in dB, the least in bold",
    "channel-predict": "NMSE in dB, the least in bold",
    "channel-tasks": "the best of each column in bold, those that are told the truth aside",
}


def _ranged(name: str, given: str, unit: float = 1.0) -> Range:
    """Read `LEAST:MOST`, or one number for both."""
    least, _, most = given.partition(":")
    try:
        return float(least) * unit, float(most or least) * unit
    except ValueError:
        raise BadParameterError(f"--{name} is {given!r}; give a number, or LEAST:MOST") from None


@channel.command(cls=FoldedCommand)
def generate(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The .npz file to write.")],
    profiles: Annotated[
        str, typer.Option("--profile", metavar="NAMES", help=f"One or several with commas: {', '.join(PROFILES)}; all.")
    ] = "TDL-A",
    count: Annotated[int, typer.Option(help="How many channels.", min=1)] = 100,
    speed_kmh: Annotated[str, typer.Option(metavar="KM/H", help="The device's speed, or LEAST:MOST.")] = "3",
    delay_spread_ns: Annotated[str, typer.Option(metavar="NS", help="Delay spread, or LEAST:MOST.")] = "100",
    snr_db: Annotated[str, typer.Option(metavar="DB", help="Signal over noise, or LEAST:MOST.")] = "10",
    slots: Annotated[int, _in_grid(help="Points in time.")] = ChannelRecipe.slots,
    subcarriers: Annotated[int, _in_grid(help="Points in frequency.")] = ChannelRecipe.subcarriers,
    antennas: Annotated[int, _in_grid(help="Antennas of the base station.")] = ChannelRecipe.antennas,
    slot_ms: Annotated[float, _in_grid(help="Time between slots.")] = ChannelRecipe.slot_s * 1e3,
    spacing_khz: Annotated[float, _in_grid(help="Between subcarriers.")] = ChannelRecipe.spacing_hz / 1e3,
    carrier_ghz: Annotated[float, _in_grid(help="Carrier frequency.")] = ChannelRecipe.carrier_hz / 1e9,
    noisy: Annotated[bool, typer.Option("--noisy", help="Also write the channels with noise at --snr-db.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same channels.", min=0)] = 0,
) -> None:
    """Write channels after the profiles of 3GPP TR 38.901 into an .npz file.

      airdraft channel generate mix.npz --profile all --speed-kmh 3:120
      airdraft channel generate cdl.npz --profile CDL-C --snr-db 0:20 --noisy

    The file holds `values`, channels x slots x subcarriers x antennas, and what
    they were made with. docs/channel.md says how they are made.
    """
    from airdraft.channel import files  # noqa: PLC0415

    recipe = ChannelRecipe(
        PROFILES if profiles == "all" else tuple(profiles.split(",")),
        _ranged("speed-kmh", speed_kmh), _ranged("delay-spread-ns", delay_spread_ns, 1e-9), _ranged("snr-db", snr_db),
        slots, subcarriers, antennas, slot_ms / 1e3, spacing_khz * 1e3, carrier_ghz * 1e9,
    )  # fmt: skip
    files.write(out, recipe, count, seed, noisy)
    shape = " x ".join(map(str, (count, slots, subcarriers, antennas)))
    typer.echo(f"{out}: {shape} values, {out.stat().st_size / 1e6:.1f} MB")


@channel.command()
def guard(
    out: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The .json file for the thresholds.")] = None,
    false_alarms: Annotated[float, typer.Option(metavar="SHARE", help="Of the looks without a jam.")] = 0.002,
    cells: Annotated[int, typer.Option(help="Simulated cells to learn from.", min=10, max=100_000)] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same thresholds.", min=0)] = 0,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """Learn to tell a jammed channel from a faded one, from simulated cells. A minute.

    A jam has much energy, which is not alike at neighbouring subcarriers. Two
    thresholds are learned, and tried on cells that were not learned from.

      airdraft channel guard guard.json --false-alarms 0.002

    The block `guard` of a --page is renewed.
    """
    import msgspec  # noqa: PLC0415

    from airdraft.channel.guard import write  # noqa: PLC0415
    from airdraft.lab import guarding  # noqa: PLC0415

    console = console_for(no_color, json_file)
    check_output(out)
    with progress(console, "steps") as on_step:
        found = guarding.guarded(cells, false_alarms, seed, on_step)
    if out is not None:
        write(out, found.thresholds)
    write_json(json_file, msgspec.to_builtins(found))
    block = guarding.block(found)
    console.print(Markdown(block))
    renew_pages(page, {"guard": block})


@channel.command()
def describe(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An .npy, .npz or .mat file (up to version 7).")],
    axes: Axes = None,
    key: Key = None,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Say what channels in a file are like: how many, how strong, and how fast they change.

      airdraft channel describe mix.npz
      airdraft channel describe o1.mat --axes naaf --key channel

    docs/channel.md says which files are read.
    """
    from airdraft.channel import files, recorded  # noqa: PLC0415

    found = recorded.described(files.read(file, axes, key).values)
    if as_json:
        typer.echo(json.dumps(found))
        return
    console = Console(no_color=no_color, highlight=False)
    sizes = [f"{found[each]} {each}" for each in ("channels", "slots", "subcarriers", "antennas")]
    console.print(f"{', '.join(sizes)}; channels without power: {found['without_power']}")
    if found["channels"] > 1:
        powers = ", ".join(f"{share} below {db:+.1f} dB" for share, db in found["power_db"].items())
        console.print(f"a channel's power over the mean: {powers}")
    for name, alike in found["alike"].items():
        if alike:
            steps = ", ".join(f"{each:.2f} after {lag}" for lag, each in alike.items())
            console.print(f"correlation along {name}: {steps}")


@channel.command()
def bench(
    csi: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Measure recorded channels instead; may be repeated."),
    ] = None,
    axes: Axes = None,
    key: Key = None,
    count: Annotated[
        int, typer.Option("--channels", help="Channels in each cell; windows of each file.", min=10, max=100_000)
    ] = 200,
    labels: Annotated[
        int | None,
        typer.Option(help="Labelled channels, of which 1, 10 and 100 % are used (2000).", min=50),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="FILE", help="A model of `python -m training.channel`, or none.")
    ] = "shipped",
    nets: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="Those of `python -m training.channel_nets`, or none."),
    ] = "shipped",
    json_file: JsonFile = None,
    page: Pages = None,
    figures: Figures = None,
    no_color: options.NoColor = False,
) -> None:
    """How well channels are estimated from pilots and predicted, and what is read from them. Three minutes.

    The learned model that ships is measured beside networks for one task and
    methods without learning, by SNR, horizon and speed, and with heads for five
    tasks, fitted to few labels. Or all that apply on channels of your own:

      airdraft channel bench --json channel.json
      airdraft channel bench --csi recorded.npy --axes taf

    Blocks of a --page: `channel-` `estimate`, `predict`, `nets`, `reached` and,
    unless --model none, `tasks`; with --csi `csi-` `files`, `estimate`, `predict`.
    """
    from airdraft.channel import bench as measured  # noqa: PLC0415
    from airdraft.channel import nets as networks  # noqa: PLC0415
    from airdraft.channel import tasks  # noqa: PLC0415
    from airdraft.channel.learned import SHIPPED, LearnedChannel  # noqa: PLC0415
    from airdraft.channel.untrained import untrained  # noqa: PLC0415

    if csi is None and (axes or key):
        raise BadParameterError("--axes and --key are of recorded channels; give --csi FILE, or leave them out")
    if csi is not None and (labels is not None or figures is not None):
        raise BadParameterError("--labels and --figures are of simulated channels; leave them out, or --csi")
    labels = tasks.LABELS if labels is None else labels
    console = console_for(no_color, json_file)
    path = SHIPPED if model == "shipped" else Path(model)
    learned = None if model == "none" else LearnedChannel(path)
    folder = networks.SHIPPED_NETS if nets == "shipped" else Path(nets)
    read = [] if nets == "none" else networks.read(folder)
    others = networks.by_task(read)
    ours = {} if learned is None else {networks.LEARNED: learned.filled}
    methods = {task: ours | given for task, given in others.items()}
    if csi is not None:
        _recorded(console, csi, axes, key, count, methods, json_file, page)
        return
    with progress(console, "cells") as told:
        rows = measured.bench(count, methods, told)
    tables, scores = measured.tables(rows), list[tasks.TaskRow]()
    said = [] if learned is None else [networks.described(learned)]
    abouts = [about for about in (*said, *(net.about for net in read)) if about is not None]
    if ours or read:
        tables |= {"channel-nets": networks.table(abouts), "channel-reached": measured.reached(rows, methods)}
    if learned is not None:
        encoders = {"pre-trained": learned, "untrained": LearnedChannel(untrained(path, tasks.LABEL_SEED))}
        with progress(console, "tasks") as told:
            scores = tasks.measure(encoders, labels, nets=others, told=told)
        tables["channel-tasks"] = tasks.table(scores)
    record = {"channels": count, "labels": labels, "tested": tasks.TESTED, "model": model}
    blocks = {"nets": list(map(asdict, abouts)), "rows": list(map(asdict, rows)), "tasks": list(map(asdict, scores))}
    write_json(json_file, record | blocks)
    _show(console, tables, page)
    if figures is not None:

        def draw(folder: Path) -> list[Path]:
            from airdraft.lab import channel_figures  # noqa: PLC0415  only those who draw need matplotlib

            return channel_figures.draw(rows, None if learned is None else learned.filled, folder)

        draw_into(figures, draw)


def _show(console: Console, tables: dict[str, str], page: list[Path] | None) -> None:
    for name, table in tables.items():
        console.print(f"{name}: {TITLES[name]}")
        console.print(Markdown(table))
    renew_pages(page, tables)


def _recorded(
    console: Console, csi: list[Path], axes: str | None, key: str | None, count: int,
    methods: dict[str, dict[str, Method]], json_file: Path | None, page: list[Path] | None,
) -> None:  # fmt: skip
    from airdraft.channel import files, recorded  # noqa: PLC0415

    found = []
    for path in csi:
        values = files.read(path, axes, key).values
        with progress(console, f"cells of {path.name}") as told:
            name = path.name if [each.name for each in csi].count(path.name) == 1 else str(path)
            found.append(recorded.measure(name, values, count, methods, told))
    write_json(json_file, {"channels": count, "files": list(map(asdict, found))})
    _show(console, recorded.tables(found), page)
