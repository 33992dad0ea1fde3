"""`python -m bench.watching [--json FILE]`: what a page that shows ten texts at once costs device and edge.

A real edge and a real device write ten texts at a time. In turns nobody reads the page's stream of events, and one
reader reads it, of either process. The CPU time of a process is the system's own count, so what else runs on the
machine adds little to it. The table goes to the terminal, and into the marked block of docs/page.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import urllib3

from airdraft import local
from airdraft.lab.wall.capacity import used_s
from bench.pages import json_file, machine, publish

TEXTS, BAR = 10, 0.02
"""Texts at a time, and the most of a core that a reader may cost."""
TURN_S, TURNS = 8.0, 6
PROFILE = "phone-8b"


@contextlib.contextmanager
def written(url: str) -> Iterator[None]:
    """Have ten texts written over a device's API, one after the other in each of as many threads."""
    over, pool = threading.Event(), urllib3.PoolManager(maxsize=TEXTS)

    def write(seed: int) -> None:
        while not over.is_set():
            asked = {"model": "target", "prompt": "def f(x):", "max_tokens": 200, "seed": seed, "ignore_eos": True}
            with contextlib.suppress(urllib3.exceptions.HTTPError):  # the device ends before the last texts do
                pool.request("POST", f"{url}/completions", json=asked, retries=False)
            seed += TEXTS

    threads = [threading.Thread(target=write, args=(seed,), daemon=True) for seed in range(TEXTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()


@contextlib.contextmanager
def watched(url: str) -> Iterator[list[int]]:
    """Read a page's stream of events, and count its bytes."""
    answer, count = urllib3.request("GET", f"{url}page/events", preload_content=False, retries=False), [0]

    def read() -> None:
        with contextlib.suppress(urllib3.exceptions.HTTPError, ValueError, AttributeError):  # it is closed meanwhile
            while piece := answer.read1():
                count[0] += len(piece)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield count
    finally:
        answer.shutdown()
        thread.join(5)


@contextlib.asynccontextmanager
async def pages() -> AsyncIterator[dict[str, tuple[int, str]]]:
    """Start both sides. Yield the process and the page of each."""
    options = ("--page", "--api-port", "0", "--propose", "lookup,salvage")
    async with (
        local.serving("target", PROFILE, options) as edge,
        local.device(edge["url"], ["--lookup", "--page"]) as device,
    ):
        yield {
            "device": (device["pid"], device["url"].removesuffix("v1")),
            "edge": (edge["pid"], edge["api"].removesuffix("v1")),
        }


def measured(sides: dict[str, tuple[int, str]]) -> dict[str, Any]:
    """The share of a core that each side takes without a reader, and how much more with one."""
    rows: dict[str, Any] = {}
    for name, (pid, url) in sides.items():
        shares: dict[bool, list[float]] = {False: [], True: []}
        sent = 0
        for turn in range(2 * TURNS):
            reads = bool(turn % 2)
            with watched(url) if reads else contextlib.nullcontext([0]) as count:
                time.sleep(0.5)
                before = time.monotonic(), used_s(pid)
                time.sleep(TURN_S)
                shares[reads].append((used_s(pid) - before[1]) / (time.monotonic() - before[0]))
                sent += count[0]
        more = statistics.median(w - n for n, w in zip(shares[False], shares[True], strict=True))
        rows[name] = {
            "unread": statistics.median(shares[False]), "more": more, "bytes_per_s": sent / TURNS / (TURN_S + 0.5),
        }  # fmt: skip
    return rows


async def run() -> dict[str, Any]:
    """Measure both sides."""
    async with pages() as sides:
        with written(f"{sides['device'][1]}v1"):
            await asyncio.sleep(3.0)  # all texts are under way
            rows = await asyncio.to_thread(measured, sides)
    return {**machine(), "texts": TEXTS, "bar": BAR, "turns": TURNS, "turn_s": TURN_S, "profile": PROFILE, "rows": rows}


def is_kept(result: dict[str, Any]) -> bool:
    """Whether a reader costs no more than the bar on either side."""
    return all(row["more"] <= result["bar"] for row in result["rows"].values())


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"{result['texts']} texts at a time, profile `{result['profile']}`; medians of {result['turns']} turns of "
        f"{result['turn_s']:g} s without a reader and as many with one; {result['cpu']} ({result['cores']} cores, load "
        f"{result['load']:.1f} meanwhile).",
        "",
        "| process | of a core, nobody reads | more with a reader | bytes a second |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {row['unread']:.1%} | {row['more']:+.1%} | {row['bytes_per_s']:,.0f} |"
        for name, row in result["rows"].items()
    ]
    verdict = "kept" if is_kept(result) else "MISSED"
    return "\n".join([*lines, "", f"The bar is {result['bar']:.0%} of a core: {verdict}."])


def main() -> int:
    """Measure, print, write. Exit code 1 if the bar is missed."""
    file = json_file("watching", "Measure what a page that shows ten texts at once costs device and edge.")
    result = asyncio.run(run())
    publish("docs/page.md", {"watching": table(result)}, result, file)
    return int(not is_kept(result))


if __name__ == "__main__":
    sys.exit(main())
