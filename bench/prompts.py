"""`python -m bench.prompts [--json FILE]`: the wait for the first row after a long prompt, computed and from a folder.

The prompt is a page of the documentation; what is published of it is whole blocks, and the rest is computed. The folder
lies on this machine's disk. Rows must be the same to the bit. The table goes to the terminal, and into the marked block
of docs/prompts.md.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from typing import Any

import numpy as np

from airdraft.core.events import Forward
from airdraft.models.base import FloatArray, TargetEngine
from airdraft.models.registry import load_target
from airdraft.prompts.arriving import StoredPrompts
from airdraft.prompts.blocks import BLOCK
from airdraft.prompts.publishing import publish as put
from airdraft.scheduler import Owner, Scheduler
from bench.pages import ROOT, json_file, machine, publish

BAR = 0.15
"""Of the time of computing, that the chat target may take with a store."""
TOKENS = {"target": 800, "chat-target": 2000}
"""Of the prompt of each target."""
TEXTS = 3
"""From the store, one after the other, as an edge learns its speed with the first."""


async def first_row(engine: TargetEngine, prompts: StoredPrompts | None, tokens: list[int]) -> tuple[float, FloatArray]:
    """Seconds until the row after a prompt is there, at an edge that has read nothing before, and the row."""
    scheduler = Scheduler(engine, "bench")
    scheduler.caches.elsewhere = prompts
    text, began_s = scheduler.open(Owner()), time.perf_counter()
    await scheduler.run(text, lambda: Forward(1, 0, tuple(tokens[:-1]), 0))
    row = await scheduler.run(text, lambda: Forward(1, len(tokens) - 1, (tokens[-1],), 1))
    seconds = time.perf_counter() - began_s
    scheduler.drop(text)
    scheduler.close()
    return seconds, row


def measure(name: str, count: int) -> dict[str, Any]:
    """One target."""
    engine, tokenizer = load_target(name)
    tokens = tokenizer.encode((ROOT / "docs" / "protocol.md").read_text("utf-8"))[:count]
    asyncio.run(first_row(engine, None, tokens[: 2 * BLOCK]))  # the first forwards take longer
    with tempfile.TemporaryDirectory() as folder:
        made = put(engine, tokens, folder)
        alone_s, row = asyncio.run(first_row(engine, None, tokens))
        prompts = StoredPrompts.at(folder, engine)
        stored = [asyncio.run(first_row(engine, prompts, tokens)) for _ in range(TEXTS)]
    return {
        "target": name,
        "tokens": len(tokens),
        "megabytes": made.bytes / 1e6,
        "computed_s": alone_s,
        "stored_s": [seconds for seconds, _ in stored],
        "same": all(np.array_equal(row, other) for _, other in stored),
    }


def is_kept(rows: list[dict[str, Any]]) -> bool:
    """Whether all bits agree, and the chat target gains enough from its first text on."""
    return all(row["same"] for row in rows) and all(
        max(row["stored_s"]) <= BAR * row["computed_s"] for row in rows if row["target"] == "chat-target"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The result as Markdown."""
    here = machine()
    lines = [
        f"Seconds until the first row after a prompt, of which all whole blocks are in a folder; {here['cpu']}, "
        f"{here['cores']} cores, load {here['load']:.1f}:",
        "",
        "| target | tokens | MB | computed | first text from the folder | later ones | rows |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    lines += [
        f"| `{row['target']}` | {row['tokens']} | {row['megabytes']:.1f} | {row['computed_s']:.3g} "
        f"| {row['stored_s'][0]:.3g} | {max(row['stored_s'][1:]):.3g} | {'the same' if row['same'] else 'DIFFER'} |"
        for row in rows
    ]
    verdict = "kept" if is_kept(rows) else "MISSED"
    lines += ["", f"The bar is at most {BAR:g} of the time of computing with the chat target: {verdict}."]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write. Exit code 1 if the bar is missed."""
    file = json_file("prompts", "Measure what a store of prompts gains.")
    rows = [measure(name, count) for name, count in TOKENS.items()]
    publish("docs/prompts.md", {"prompts-wall": table(rows)}, {"machine": machine(), "rows": rows}, file)
    return int(not is_kept(rows))


if __name__ == "__main__":
    sys.exit(main())
