"""`python -m bench.loopback [--json FILE]`: what the machines, the messages, the sockets and the threads cost.

The shipped pair writes the same texts in three ways that take turns: by the loop of `airdraft.sim.together` in this
process; by device and edge, two processes joined by a WebSocket over loopback, in rounds of the same draft length; and
by the two as `airdraft run` uses them, with `auto`. All choose with the library's shared noise, so the texts must be
identical, and each text of the latter two is compared with the loop's. This is done first at the models' own speed,
where a forward takes about a millisecond, and then slowed to the profile phone-8b. The table goes to the terminal, and
into the marked block of docs/benchmarks.md.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from airdraft import local
from airdraft.control.auto import Auto
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.client import EdgeConnection
from airdraft.lab.record import prompts
from airdraft.models.base import LanguageModel
from airdraft.models.profile import Paced, profile
from airdraft.models.registry import load
from airdraft.sim import together
from bench.pages import json_file, machine, publish

BAR = 0.9
"""Share of the plain loop's speed that the stack must reach, both ways."""
WAYS = ("rounds", "auto")
LENGTH = 4
PARAMS = SamplingParams(0.7)
TOKENS = 128
TURNS = {"none": (8, 5), "phone-8b": (3, 2)}
"""By profile: the number of prompts, and how often each is written both ways."""


def plain(
    draft: LanguageModel, target: LanguageModel, prompt: Sequence[int], seed: int, vocab_size: int
) -> tuple[list[int], int]:
    """Write a text by the loop in one process. Returns it, and the rounds it took."""
    rounds = list(together.write(draft, target, prompt, PARAMS, seed, TOKENS, LENGTH, vocab_size))
    return [token for tokens in rounds for token in tokens], len(rounds)


async def stack(client: EdgeConnection, prompt: Sequence[int], seed: int, way: str, vocab_size: int) -> list[int]:
    """Write a text by device and edge. `way` is `rounds` or `auto`."""
    if way == "auto":
        request = Request(prompt, SchemeSpec("stream"), PARAMS, seed, TOKENS, policy=Auto(vocab_size))
    else:
        request = Request(prompt, SchemeSpec("coupled"), PARAMS, seed, TOKENS, LENGTH)
    return [t async for event in client.write(request) if isinstance(event, Committed) for t in event.tokens]


async def measure(name: str) -> list[dict[str, Any]]:
    """Measure one profile. Returns a row for each way."""
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    pace, vocab = profile(name), tokenizer.vocab_size
    slow_draft, slow_target = Paced(draft, pace.draft_s), Paced(target, pace.target_s)
    count, times = TURNS[name]
    heads = prompts(count)
    rounds = tokens = 0
    plain_s, took_s = 0.0, dict.fromkeys(WAYS, 0.0)
    ratios: dict[str, list[float]] = {way: [] for way in WAYS}
    identical = dict.fromkeys(WAYS, 0)
    async with (
        local.edge("target", name) as url,
        await EdgeConnection.connect(url, slow_draft, tokenizer.digest, vocab) as client,
    ):
        for way in WAYS:
            await stack(client, heads[0], 0, way, vocab)
        plain(slow_draft, slow_target, heads[0], 0, vocab)
        for _ in range(times):
            for seed, head in enumerate(heads):
                began = time.perf_counter()
                expected, needed = plain(slow_draft, slow_target, head, seed, vocab)
                alone_s = time.perf_counter() - began
                plain_s, rounds, tokens = plain_s + alone_s, rounds + needed, tokens + len(expected)
                for way in WAYS:
                    began = time.perf_counter()
                    written = await stack(client, head, seed, way, vocab)
                    text_s = time.perf_counter() - began
                    took_s[way] += text_s
                    ratios[way].append(alone_s / text_s)
                    identical[way] += written == expected
    return [
        {
            "profile": name,
            "way": way,
            "texts": len(ratios[way]),
            "identical": identical[way],
            "tokens": tokens,
            "plain_tokens_per_s": tokens / plain_s,
            "stack_tokens_per_s": tokens / took_s[way],
            "plain_ms_per_round": 1e3 * plain_s / rounds,
            "stack_ms_per_round": 1e3 * took_s[way] / rounds if way == "rounds" else None,
            "ratio": statistics.median(ratios[way]),
            "held": statistics.median(ratios[way]) >= BAR and identical[way] == len(ratios[way]),
        }
        for way in WAYS
    ]


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"Draft length of the loop and of the rounds {LENGTH}, temperature {PARAMS.temperature:g}, at most {TOKENS} "
        f"tokens; {result['cpu']} ({result['cores']} cores, load {result['load']:.1f} meanwhile). The ratio is the "
        "median of paired texts.",
        "",
        "| compute | device and edge | plain loop, tokens/s | device and edge, tokens/s | ratio | ms a round "
        "| identical texts |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        compute = "the models' own" if row["profile"] == "none" else f"imitated, `{row['profile']}`"
        a_round = (
            f"{row['plain_ms_per_round']:.1f} and {row['stack_ms_per_round']:.1f}" if row["way"] == "rounds" else ""
        )
        lines.append(
            f"| {compute} | {row['way']} | {row['plain_tokens_per_s']:.1f} | {row['stack_tokens_per_s']:.1f} "
            f"| {row['ratio']:.3f} | {a_round} | {row['identical']} of {row['texts']} |"
        )
    verdicts = ", ".join(
        f"{row['profile']}, {row['way']}: {'kept' if row['held'] else 'MISSED'}" for row in result["rows"]
    )
    return "\n".join([*lines, "", f"The bar is {BAR:g} with identical texts; {verdicts}."])


def main() -> int:
    """Measure, print, write. Exit code 1 if the bar is missed anywhere."""
    file = json_file("loopback", "What the stack costs.")
    rows = [row for name in TURNS for row in asyncio.run(measure(name))]
    result: dict[str, Any] = {"bar": BAR, "rows": rows, **machine()}
    publish("docs/benchmarks.md", {"loopback": table(result)}, result, file)
    return int(not all(row["held"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
