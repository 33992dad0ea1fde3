"""`python -m bench.shared [--json FILE]`: texts that begin alike, with a copy each of that, and with one for all.

Sixteen texts of the shipped target share 800 tokens. Both engines write them in turns, so that other work on the
machine affects both alike. Then two devices ask the chat target, at an edge of its own process, behind one system
prompt of 2,000 tokens. The figures go to the terminal, and into the marked block of docs/prompts.md.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from airdraft import local
from airdraft.client import AsyncClient
from airdraft.core.events import Forward
from airdraft.models.base import FloatArray, TargetEngine
from airdraft.models.fit import Fit
from airdraft.models.registry import load_target
from airdraft.scheduler import Owner, Scheduler
from airdraft.scheduler.turns import Sequenced
from bench.pages import ROOT, json_file, machine, publish

TEXTS, SHARED, QUESTION = 16, 800, 12
"""Texts, tokens that all begin with, and tokens of each text's own prompt after those."""
ROUNDS, STEPS = 6, 6
"""Turns of each engine, and tokens of each text in one."""
SYSTEM = 2000
"""Tokens of the chat's system prompt."""
MOST_MEMORY, LEAST_SPEED, MOST_TTFT = 0.2, 1.2, 0.15
"""Bars: memory and speed against a copy each, and the second device's wait against the first's."""


@dataclass
class Crowd:
    """Texts that an engine writes, all at once."""

    engine: TargetEngine
    scheduler: Scheduler
    texts: list[Sequenced] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    rows: list[FloatArray] = field(default_factory=list)
    """The last one of each."""
    seconds: list[float] = field(default_factory=list)
    """Of each turn."""

    @classmethod
    def of(cls, engine: TargetEngine) -> Crowd:
        """Nobody writes yet."""
        return cls(engine, Scheduler(engine, "bench"))

    async def read(self, prompts: list[list[int]]) -> None:
        """Read all prompts: the first one, then the others together."""
        self.texts = [self.scheduler.open(Owner(self.scheduler.tenant)) for _ in prompts]
        self.tokens, self.rows = [list(prompt) for prompt in prompts], [np.zeros(0, np.float32)] * len(prompts)
        await self._begun(0)
        await asyncio.gather(*(self._begun(i) for i in range(1, len(prompts))))

    async def write(self, count: int) -> None:
        """Write so many tokens of each text, the likeliest ones."""
        began_s = time.perf_counter()
        await asyncio.gather(*(self._written(i, count) for i in range(len(self.texts))))
        self.seconds.append(time.perf_counter() - began_s)

    def megabytes(self) -> float:
        """Keys and values in memory: each text's own room, and its part of what it shares."""
        caches: list[Any] = [text.cache for text in self.texts]
        positions: int = sum(cache.room for cache in caches)
        return positions * (self.engine.info.position_bytes or 0) / 1e6

    async def _begun(self, i: int) -> None:
        tokens = self.tokens[i]
        await self.scheduler.run(self.texts[i], lambda: Forward(1, 0, tuple(tokens[:-1]), 0))

    async def _written(self, i: int, count: int) -> None:
        tokens = self.tokens[i]
        for _ in range(count):
            forward = Forward(1, len(tokens) - 1, (tokens[-1],), 1)
            [self.rows[i]] = await self.scheduler.run(self.texts[i], lambda forward=forward: forward)  # type: ignore[misc]
            tokens.append(int(self.rows[i].argmax()))


async def crowded() -> dict[str, Any]:
    """Both engines with all texts; then the first text without company, on the engine that shares."""
    (plain, tokenizer), (spliced, _) = load_target("target"), load_target("target", fit=Fit(splice=True))
    page = tokenizer.encode((ROOT / "docs" / "protocol.md").read_text("utf-8"))
    shared, rest = page[:SHARED], page[SHARED:]
    prompts = [shared + rest[i * QUESTION : (i + 1) * QUESTION] for i in range(TEXTS)]
    engines = {"copies": plain, "shared": spliced}
    crowds, lone = await _by_turns(engines, prompts), await _by_turns(engines, [rest[:QUESTION]])
    alone = Crowd.of(spliced)
    await alone.read(prompts[:1])
    await alone.write(1 + ROUNDS * STEPS)
    own, other = crowds["copies"], crowds["shared"]
    found: dict[str, Any] = {
        "texts": TEXTS, "shared_tokens": SHARED, "own_tokens": QUESTION, "written_tokens": 1 + ROUNDS * STEPS,
        "megabytes": {name: crowd.megabytes() for name, crowd in crowds.items()},
        "tokens_per_s": {name: TEXTS * STEPS / median(crowd.seconds) for name, crowd in crowds.items()},
        "speedup": _speedup(crowds),
        "lone_speedup": _speedup(lone),
        "same_alone": alone.tokens[0] == other.tokens[0] and bool(np.array_equal(alone.rows[0], other.rows[0])),
        "same_texts": sum(a == b for a, b in zip(own.tokens, other.tokens, strict=True)),
        "exactness": {name: crowd.engine.info.exactness.told for name, crowd in crowds.items()},
    }  # fmt: skip
    found["memory"] = found["megabytes"]["shared"] / found["megabytes"]["copies"]
    for crowd in (*crowds.values(), *lone.values(), alone):
        crowd.scheduler.close()
    return found


async def _by_turns(engines: dict[str, TargetEngine], prompts: list[list[int]]) -> dict[str, Crowd]:
    """Texts after these prompts by each engine, in turns."""
    crowds = {name: Crowd.of(engine) for name, engine in engines.items()}
    for crowd in crowds.values():
        await crowd.read(prompts)
        await crowd.write(1)  # the first one takes longer
        crowd.seconds.clear()
    for at in range(ROUNDS):
        for crowd in list(crowds.values())[:: 1 if at % 2 else -1]:
            await crowd.write(STEPS)
    return crowds


def _speedup(crowds: dict[str, Crowd]) -> float:
    """Of the engine that shares, the median of all turns."""
    own, other = crowds["copies"], crowds["shared"]
    return median(a / b for a, b in zip(own.seconds, other.seconds, strict=True))


async def two_devices() -> dict[str, Any]:
    """Seconds until each device has the first words, behind one system prompt, at an edge of its own process."""
    waits = list[float]()
    async with local.serving("chat-target", "none", ("--splice",)) as edge:
        for question in ("What is this page about?", "Which message opens a text?"):
            async with AsyncClient(edge["url"], draft="chat-draft") as device:
                tokenizer = device.tokenizer
                page = tokenizer.encode((ROOT / "docs" / "protocol.md").read_text("utf-8"))[:SYSTEM]
                began_s = time.perf_counter()
                async for _ in device.stream(page + tokenizer.encode(question), temperature=0.0, max_tokens=2):
                    waits.append(time.perf_counter() - began_s)
                    break
    return {"system_tokens": SYSTEM, "ttft_s": waits, "ratio": waits[1] / waits[0]}


def is_kept(crowd: dict[str, Any], devices: dict[str, Any]) -> bool:
    """Whether all bars are, and a text has the bits that it has without company."""
    bars = crowd["memory"] <= MOST_MEMORY, crowd["speedup"] >= LEAST_SPEED, devices["ratio"] <= MOST_TTFT
    return all(bars) and bool(crowd["same_alone"])


def table(crowd: dict[str, Any], devices: dict[str, Any]) -> str:
    """The result as Markdown."""
    here = machine()
    bits = "has the same bits alone" if crowd["same_alone"] else "DIFFERS from the same text alone"
    verdict = "kept" if is_kept(crowd, devices) else "MISSED"
    names = {"copies": "a copy each", "shared": "once (`--splice`)"}
    lines = [
        f"{TEXTS} texts of the shipped target share {SHARED} tokens of their prompts; {here['cpu']}, {here['cores']} "
        f"cores, load {here['load']:.1f}:",
        "",
        "| keys and values | MB | tokens/s of all |",
        "|---|--:|--:|",
        *(
            f"| {said} | {crowd['megabytes'][name]:.1f} | {crowd['tokens_per_s'][name]:.0f} |"
            for name, said in names.items()
        ),
        "",
        f"Memory: {crowd['memory']:.3f} of copies (bar: {MOST_MEMORY:g}). Speed: {crowd['speedup']:.2f} times (bar: "
        f"{LEAST_SPEED:g}), the median of {ROUNDS} pairs. A text in this company {bits}; {crowd['same_texts']} of "
        f"{TEXTS} texts are those of the engine that copies, whose rows are rounded otherwise. A short text alone is "
        f"written {crowd['lone_speedup']:.2f} times as fast with `--splice` as without.",
        "",
        f"Two devices ask the chat target behind one system prompt of {SYSTEM} tokens: the first waits "
        f"{devices['ttft_s'][0]:.1f} s for its first words, the second {devices['ttft_s'][1]:.2f} s, "
        f"{devices['ratio']:.3f} of that (bar: {MOST_TTFT:g}). All bars: {verdict}.",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write. Exit code 1 if a bar is missed."""
    file = json_file("shared", "Measure what sharing the beginnings of texts gains.")
    crowd, devices = asyncio.run(crowded()), asyncio.run(two_devices())
    record = {"machine": machine(), "crowd": crowd, "devices": devices}
    publish("docs/prompts.md", {"prompts-shared": table(crowd, devices)}, record, file)
    return int(not is_kept(crowd, devices))


if __name__ == "__main__":
    sys.exit(main())
