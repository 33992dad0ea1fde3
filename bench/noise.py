"""`python -m bench.noise [--json FILE]`: how long the shared noise takes, and how much a coupled draft sends.

One row is the noise of a whole vocabulary at one position, on one core. The table goes to the terminal, and into the
marked block of docs/benchmarks.md.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from airdraft.core import schemes
from airdraft.core.choosing import choose
from airdraft.core.law import Law, Place
from airdraft.core.messages import Draft, SchemeSpec, encode
from airdraft.core.noise import gumbel
from airdraft.core.sampling import SamplingParams
from bench.pages import json_file, machine, publish

BAR_MS = 0.5
"""Most that one row of the largest vocabulary may take."""
VOCABULARIES = (4096, 32000, 151936)
ROUNDS = 300


def median_ms(run: Callable[[int], object]) -> float:
    """The median of many runs, so that other work on the machine counts little."""
    times = []
    for at in range(-10, ROUNDS):
        began = time.perf_counter()
        run(at + 10)
        if at >= 0:
            times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def measure() -> dict[str, Any]:
    """Measure everything in the table."""
    rows = []
    for vocab in VOCABULARIES:
        logits = np.random.default_rng(0).normal(0.0, 3.0, vocab).astype(np.float32)
        top = SamplingParams(0.8, top_k=50)
        drafter = schemes.make(SchemeSpec("coupled"), Law(top, 1, vocab), schemes.DEVICE)
        body = drafter.encode(schemes.Drafts((drafter.draw(logits, Place(9)),)))
        rows.append(
            {
                "vocab_size": vocab,
                "row_ms": median_ms(lambda at, vocab=vocab: gumbel(1, at, vocab)),  # type: ignore[misc]
                "choose_top_50_ms": median_ms(lambda at, row=logits, top=top: choose(row, top, 1, at)),  # type: ignore[misc]
                "draft_body_bytes": len(body),
                "draft_frame_bytes": len(encode(Draft(1, 1, 100, 100, 1 << 31, 1, body))),
            }
        )
    return {
        **machine(),
        "numpy": np.__version__,
        "bar_ms": BAR_MS,
        "rounds": ROUNDS,
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"Median of {result['rounds']} runs on one core of: {result['cpu']} ({result['cores']} cores, load "
        f"{result['load']:.1f} meanwhile); numpy {result['numpy']}.",
        "",
        "| vocabulary | noise of one row | one choice at top-k 50 | one coupled draft: body | with its frame |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['vocab_size']} | {row['row_ms']:.3f} ms | {row['choose_top_50_ms']:.3f} ms "
        f"| {row['draft_body_bytes']} bytes | {row['draft_frame_bytes']} bytes |"
        for row in result["rows"]
    ]
    last = result["rows"][-1]
    verdict = "kept" if last["row_ms"] <= result["bar_ms"] else "MISSED"
    lines += ["", f"The bar for {last['vocab_size']} tokens is {result['bar_ms']} ms: {verdict}."]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write. Exit code 1 if the bar is missed."""
    file = json_file("noise", "Time the shared noise.")
    result = measure()
    publish("docs/benchmarks.md", {"noise": table(result)}, result, file)
    return int(result["rows"][-1]["row_ms"] > BAR_MS)


if __name__ == "__main__":
    sys.exit(main())
