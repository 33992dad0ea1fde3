"""Prompts after which a chat model writes: questions in ChatML and openings of plain text, made from lists."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from pathlib import Path

LISTS = Path(__file__).with_name("chat_prompts.toml")
HELD = 16
"""One topic, task and opening of so many is kept for measuring."""


def chat(question: str, system: str) -> str:
    """ChatML up to the answer."""
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def prompts(seed: int, held: bool = False, lists: Path = LISTS) -> Iterator[str]:
    """Endless prompts; `held`: about what no other prompt is about."""
    found = tomllib.loads(lists.read_text("utf-8"))
    rng = random.Random(seed)

    def of(name: str) -> str:
        return str(rng.choice([each for i, each in enumerate(found[name]) if (i % HELD == HELD // 2) == held]))

    while True:
        kind = rng.random()
        system = str(found["systems"][0] if rng.random() < 0.7 else rng.choice(found["systems"]))
        if kind < 0.62:
            form = str(rng.choice(found["forms"]))
            question = form.replace("{}", of("topics"), 1).replace("{}", of("topics"), 1)
            yield chat(question, system)
        elif kind < 0.8:
            form = str(rng.choice(found["task_forms"]))
            yield chat(form.format(language=rng.choice(found["languages"]), task=of("tasks")), system)
        elif kind < 0.92:
            yield chat(of("remarks"), system)
        else:
            yield of("openings").format(topic=of("topics"))
