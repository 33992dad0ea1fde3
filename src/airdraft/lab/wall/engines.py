"""Times of the engines for a token of the draft and for a verification, and their memory, in wall clock.

All run in this process and take turns of some milliseconds, so that other work on the machine affects all alike. Each
has one thread, which suits models this small. Memory is measured in a process of its own for each.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from airdraft.errors import ModelError
from airdraft.lab.wall.exactness import TEXTS, Depends, depends
from airdraft.models.base import OneByOne, Part, TargetEngine, raised
from airdraft.models.files.folder import shipped
from airdraft.models.fit import Fit
from airdraft.models.gguf import WeightType, write_gguf
from airdraft.models.registry import ENGINES, HERE, load, load_target

THREADS = 1
HELD = 200
"""Positions before those that are timed; the cache is rolled back to them each time."""
WIDTHS = tuple(range(1, 17))
"""Numbers of tokens in a verification."""
TURNS, BURST = 21, 6
"""Turns of an engine at each width, and its forwards in one turn."""
DEFAULT = "onnx"
_NEEDS = {engine: ENGINES[engine].libraries for engine in HERE}

_Which = tuple[str, str]
"""An engine and its weights."""
OnStep = Callable[[int, int], None]
"""A function that gets what is done, and of how many."""


class EngineRow(msgspec.Struct, frozen=True):
    """One engine with the shipped pair. Times are medians."""

    engine: str
    draft_ms: float | None
    """One token of the draft; None for an engine that runs targets only."""
    verify_ms: dict[int, float]
    """By number of tokens: one forward of the target that gives all their rows."""
    verify_ratio_6: float
    """The time for six tokens divided by that for one."""
    memory_bytes: int | None
    """None if it runs elsewhere, or this system does not say."""
    exactness: Depends | None = None
    """What the target's texts depend on."""
    weights: str = "f32"
    """Their type in the files."""

    @property
    def name(self) -> str:
        """The engine, and its weights if they are not those that ship."""
        return self.engine if self.weights == "f32" else f"{self.engine}, {self.weights}"


class Models(msgspec.Struct, frozen=True):
    """The names under which `load` finds the pair's models for one engine."""

    draft: str
    target: str


def installed(folder: Path) -> dict[str, Models]:
    """The engines whose libraries are installed. Files that they need beside the pair's own are written into
    `folder`."""
    found = {}
    for engine in HERE:
        if all(find_spec(library) for library in _NEEDS[engine]):
            found[engine] = _gguf(folder) if engine == "llamacpp" else Models("draft", "target")
    return found


def lighter(folder: Path, here: Mapping[str, Models]) -> dict[_Which, Models]:
    """Models in fewer bits, by engine and type of weights, for those `here`; written into `folder`."""
    found: dict[_Which, Models] = {}
    if "llamacpp" in here:
        found["llamacpp", "q8_0"] = _gguf(folder, "q8_0")
    return found


def _gguf(folder: Path, weights: WeightType = "f32") -> Models:
    draft, target = (folder / weights / name / "model.gguf" for name in ("draft", "target"))
    for file in (draft, target):
        file.parent.mkdir(parents=True)
    write_gguf(shipped("draft"), draft, weights)
    write_gguf(shipped("target"), target, weights)
    return Models(str(draft), str(target))


def engines(
    here: Mapping[str, Models],
    vllm: str | None = None,
    on_step: OnStep = lambda done, of: None,
    lighter: Mapping[_Which, Models] | None = None,
) -> list[EngineRow]:
    """A row for each engine of `installed`, for those of `lighter`, and for the vLLM at the URL `vllm`, which serves
    the target as `target`."""
    found = {(engine, "f32"): models for engine, models in here.items()} | dict(lighter or {})
    drafts: dict[_Which, TargetEngine] = {}
    targets: dict[_Which, TargetEngine] = {}
    for (engine, weights), models in found.items():
        drafts[engine, weights] = OneByOne(load(models.draft, engine=engine, fit=Fit(THREADS))[0])
        targets[engine, weights] = load_target(models.target, engine=engine, fit=Fit(THREADS))[0]
    if vllm is not None:
        targets["vllm", "f32"] = load_target("target", engine="vllm", urls=[vllm])[0]
    draft_ms = _times_ms(drafts, (1,), on_step)
    verify_ms = _times_ms(targets, WIDTHS, on_step)
    done, of = itertools.count(1), 4 * TEXTS * len(targets)
    return [
        EngineRow(
            engine,
            draft_ms[engine, weights][1] if (engine, weights) in drafts else None,
            times,
            times[6] / times[1],
            _memory_bytes(engine, found[engine, weights]) if (engine, weights) in found else None,
            depends(targets[engine, weights], lambda: on_step(next(done), of)),
            weights,
        )
        for (engine, weights), times in verify_ms.items()
    ]


def _times_ms(
    models: Mapping[_Which, TargetEngine], widths: Sequence[int], on_step: OnStep
) -> dict[_Which, dict[int, float]]:
    """The median time of a forward, by model and by number of tokens."""
    rng = np.random.default_rng(0)
    caches = {}
    for name, model in models.items():
        caches[name] = model.new_cache()
        _forward(model, Part(caches[name], 0, range(HELD), 1))
    taken: dict[_Which, dict[int, list[float]]] = {name: {width: [] for width in widths} for name in models}
    for done, (_, width, name) in enumerate(itertools.product(range(TURNS), widths, models), start=1):
        # The first forward of a burst brings back into the CPU's caches what the engine before pushed out. No tokens
        # are fed twice, because a server with a prefix cache would have their rows already.
        for at, tokens in enumerate(rng.integers(models[name].info.vocab_size, size=(BURST, width)).tolist()):
            began = time.perf_counter()
            _forward(models[name], Part(caches[name], HELD, tokens, width))
            if at > 0:
                taken[name][width].append(1e3 * (time.perf_counter() - began))
        on_step(done, TURNS * len(widths) * len(models))
    return {name: {width: median(times) for width, times in rows.items()} for name, rows in taken.items()}


def _forward(model: TargetEngine, part: Part) -> Any:
    return raised(model.verify([part]).pop())


def _memory_bytes(engine: str, models: Models) -> int | None:
    words = [sys.executable, "-m", "airdraft.lab.wall.memory", engine, models.draft, models.target]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode != 0:
        last = (ended.stderr.strip() or "no reason given").splitlines()[-1]
        raise ModelError(f"the process that measures the memory of {engine} failed ({last}); mend that engine")
    grown: int | None = msgspec.json.decode(ended.stdout, type=int | None)
    return grown


def table(rows: Sequence[EngineRow]) -> str:
    """The rows as Markdown."""
    lines = [
        f"The shipped pair after {HELD} positions, ms: {THREADS} thread each, all in one process, taking turns; "
        f"medians of {TURNS} turns. Memory: a process of its own that loads both models, libraries included.",
        "",
        "| engine | draft, 1 token | verify 1 | verify 6 | verify 16 | 6 by 1 | memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        draft = "" if row.draft_ms is None else f"{row.draft_ms:.2f}"
        memory = "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}"
        verify = " | ".join(f"{row.verify_ms[width]:.2f}" for width in (1, 6, 16))
        lines.append(f"| {row.name} | {draft} | {verify} | {row.verify_ratio_6:.2f} | {memory} |")
    return "\n".join([*lines, "", _against_the_quickest(rows)])


def _against_the_quickest(rows: Sequence[EngineRow]) -> str:
    """A sentence that says where the default engine is not the quickest."""
    drafts = {row.name: row.draft_ms for row in rows if row.draft_ms is not None}
    verifies = {row.name: row.verify_ms[6] for row in rows}
    said = []
    for what, times_ms in (("a draft's token", drafts), ("verifying 6", verifies)):
        engine, best_ms = min(times_ms.items(), key=lambda item: item[1])
        if engine != DEFAULT:
            said.append(f"{times_ms[DEFAULT] / best_ms:.2f} × the time of {engine} for {what}")
    return (
        f"{DEFAULT}, the default, takes {' and '.join(said)}." if said else f"{DEFAULT}, the default, is the quickest."
    )
