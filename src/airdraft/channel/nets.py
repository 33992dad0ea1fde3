"""Learned networks that are measured: the channel model, and others for one task each, and what they say of themselves.

Their graphs have the inputs of the channel model and at least its output `values`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from airdraft.channel.bench import TASKS, Method
from airdraft.channel.learned import SHIPPED, LearnedChannel
from airdraft.errors import ModelError

SHIPPED_NETS = SHIPPED.parent / "nets"
"""The networks for one task that ship: small ones."""
LEARNED = "learned model"
"""The channel model's name in tables."""


@dataclass(frozen=True)
class About:
    """What a network is; a graph says it in its metadata, by these names, and `tasks` with commas."""

    title: str
    tasks: tuple[str, ...]
    told: str
    """What it knows beside what it has learned and what is observed."""
    parameters: int
    channels: int
    """How many it has learned from."""
    minutes: float
    """CPU time of its training."""


@dataclass(frozen=True)
class ChannelNet:
    """A network for some tasks."""

    about: About
    method: Method


def read(folder: Path) -> list[ChannelNet]:
    """Read every graph of a folder of `python -m training.channel_nets`. Raises: `ModelError` for any other folder."""
    paths = sorted(folder.glob("*.onnx"))
    if not paths:
        raise ModelError(f"{folder} has no network (.onnx); give a folder of `python -m training.channel_nets`")
    found = list[ChannelNet]()
    for path in paths:
        graph = LearnedChannel(path)
        about = described(graph)
        if about is None:
            raise ModelError(
                f"{path} does not say what it is for; give a folder of `python -m training.channel_nets`, and a "
                "channel model by --model"
            )
        if any(each.about.title == about.title and set(each.about.tasks) & set(about.tasks) for each in found):
            raise ModelError(f"{folder} has two networks with the title {about.title!r} for one task; keep one of them")
        found.append(ChannelNet(about, graph.filled))
    return sorted(found, key=lambda net: (TASKS.index(net.about.tasks[0]), net.about.title))


def described(graph: LearnedChannel) -> About | None:
    """Read what a graph says of itself; None if it does not."""
    said = graph.about
    try:
        tasks = tuple(said["tasks"].split(","))
        if not set(tasks) <= set(TASKS):
            return None
        numbers = int(said["parameters"]), int(said["channels"]), float(said["minutes"])
        return About(said["title"], tasks, said["told"], *numbers)
    except (KeyError, ValueError):
        return None


def by_task(nets: Sequence[ChannelNet]) -> dict[str, dict[str, Method]]:
    """Sort networks by what they are for: their methods by name, for each task."""
    return {task: {net.about.title: net.method for net in nets if task in net.about.tasks} for task in TASKS}


def table(abouts: Sequence[About]) -> str:
    """Write what the networks are as Markdown."""
    lines = [
        "| network | for | told beside what is observed | parameters | channels seen | CPU minutes of training |",
        "|---|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {each.title} | {' and '.join(each.tasks)} | {each.told} | {each.parameters:,} | {each.channels:,} | "
        f"{each.minutes:.1f} |"
        for each in abouts
    ]
    return "\n".join(lines)


def metadata(about: About) -> Mapping[str, str]:
    """Write down what a network is, as its graph shall say it."""
    return {
        "title": about.title, "tasks": ",".join(about.tasks), "told": about.told, "parameters": str(about.parameters),
        "channels": str(about.channels), "minutes": f"{about.minutes:.3f}",
    }  # fmt: skip
