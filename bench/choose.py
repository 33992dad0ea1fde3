"""`python -m bench.choose [--json FILE]`: how many tokens one edge can choose from a vocabulary of a real size.

The rows are made up and cost nothing, so what is measured is the choice alone: an edge process with 16 texts at
temperature 1 and top-p 0.95, and how long its event loop is held up meanwhile. "Plainly, in the loop" computes the
noise of every candidate, where all connections wait for it. The table goes to the terminal, and into the marked block
of docs/benchmarks.md.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np

from airdraft import transport
from airdraft.api.alone import TargetWriter
from airdraft.core import law
from airdraft.core.choosing import plainly
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams, candidates
from airdraft.edge.access import anybody
from airdraft.edge.server import EdgeServer
from airdraft.errors import AirdraftError
from airdraft.models.base import EngineInfo, FloatArray, Part
from bench.pages import json_file, machine, publish

VOCABULARY = 151936
PARAMS = SamplingParams(1.0, top_p=0.95)
TEXTS = 16
SECONDS = 5.0
BAR = 1000.0
"""Tokens per second that one edge must choose."""
SPREADS = (2.9, 8.0)
"""Standard deviations of the rows: thousands of tokens in the nucleus, and a few."""


class Cache:
    """Nothing but a length."""

    length = 0


class MadeUp:
    """An engine whose rows are there already: one of a few, by the position."""

    def __init__(self, spread: float) -> None:
        rng = np.random.default_rng(0)
        self.rows = (spread * rng.standard_normal((8, VOCABULARY))).astype(np.float32)
        self.info = EngineInfo("made up", VOCABULARY, 1 << 20, max_batch=TEXTS)

    def new_cache(self) -> Cache:
        """See `TargetEngine.new_cache`."""
        return Cache()

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`. Of one token only, as here nobody drafts."""
        return [self.rows[part.keep % 8 :][: part.rows] for part in batch]


async def chosen(engine: MadeUp) -> tuple[float, float]:
    """Tokens per second of all texts together, and the longest time in seconds that the event loop was held up."""
    end, tokens, worst = time.perf_counter() + SECONDS, 0, 0.0

    async def write(seed: int) -> None:
        nonlocal tokens
        request = Request((1, 2, 3), SchemeSpec("server"), PARAMS, seed, 1 << 19)
        async for event in TargetWriter(server, anybody(0.0)).write(request):
            tokens += len(event.tokens) if isinstance(event, Committed) else 0
            if time.perf_counter() > end:
                return

    async def watch() -> None:
        nonlocal worst
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - began - 0.001)

    async with EdgeServer(engine, b"", VOCABULARY) as server:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(write(seed) for seed in range(TEXTS)))
        watching.cancel()
    return tokens / SECONDS, worst


def measure() -> dict[str, Any]:
    """Measure everything in the table."""
    rows = []
    for spread in SPREADS:
        engine = MadeUp(spread)
        kept = [candidates(row, PARAMS)[0].size for row in engine.rows]
        row: dict[str, Any] = {"spread": spread, "kept": float(np.mean(kept))}
        with mock.patch.object(law, "choose", plainly), mock.patch.object(transport, "LARGE", sys.maxsize):
            row["before_tokens_per_s"], row["before_held_up_s"] = asyncio.run(chosen(engine))
        row["tokens_per_s"], row["held_up_s"] = asyncio.run(chosen(engine))
        rows.append(row)
    return {**machine(), "vocab_size": VOCABULARY, "texts": TEXTS, "seconds": SECONDS, "bar": BAR, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"One edge process, {result['texts']} texts, {result['vocab_size']} tokens in the vocabulary, temperature 1, "
        f"top-p 0.95, rows that cost nothing; {result['seconds']:g} s each on: {result['cpu']} ({result['cores']} "
        f"cores, load {result['load']:.1f} meanwhile).",
        "",
        "| tokens in the nucleus | plainly, in the loop | held up for | as it is | held up for |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['kept']:.0f} | {row['before_tokens_per_s']:.0f} tokens/s | {1e3 * row['before_held_up_s']:.0f} ms "
        f"| {row['tokens_per_s']:.0f} tokens/s | {1e3 * row['held_up_s']:.0f} ms |"
        for row in result["rows"]
    ]
    verdict = "kept" if is_kept(result) else "MISSED"
    lines += ["", f"The bar is {result['bar']:.0f} tokens/s for every row: {verdict}."]
    return "\n".join(lines)


def is_kept(result: dict[str, Any]) -> bool:
    """Whether every row meets the bar."""
    return all(row["tokens_per_s"] >= result["bar"] for row in result["rows"])


def main() -> int:
    """Measure, print, write. Exit code 1 if the bar is missed."""
    file = json_file("choose", "Measure how many tokens an edge can choose.")
    result = measure()
    publish("docs/benchmarks.md", {"choose": table(result)}, result, file)
    return int(not is_kept(result))


if __name__ == "__main__":
    sys.exit(main())
