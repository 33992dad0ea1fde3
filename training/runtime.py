"""What target and draft training share: device set-up, optimisers, the clock, checkpoints, the log."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.errors import UserError
from training.model import Llama
from training.schedule import learning_rate, momentum


def device_of(name: str) -> torch.device:
    """`cpu` or `cuda`, checked."""
    if name not in ("cpu", "cuda"):
        raise UserError(f"--device is {name!r}; give cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")
    return torch.device(name)


def autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """bf16 products; weights, norms and losses stay fp32."""
    return torch.autocast(device.type, torch.bfloat16)


def optimisers(model: Llama, matrix_rate: float, decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, head and norms (Muon suits neither)."""
    matrices: list[nn.Parameter] = []
    groups: dict[str, list[nn.Parameter]] = {"embed": [], "head": [], "norm": []}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            groups["norm"].append(parameter)
        elif "embed" in name:
            groups["embed"].append(parameter)
        elif "lm_head" in name:
            groups["head"].append(parameter)
        else:
            matrices.append(parameter)
    adam: Iterable[dict[str, Any]] = [
        {"params": groups["embed"], "lr": 0.3 * matrix_rate},
        {"params": groups["head"], "lr": 0.15 * matrix_rate},
        {"params": groups["norm"], "lr": 0.15 * matrix_rate},
    ]
    result: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=decay, momentum=0.95),
        torch.optim.AdamW(adam, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0),
    ]
    for optimiser in result:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return result


def set_rates(opts: list[torch.optim.Optimizer], done: float) -> float:
    """Sets every group's rate for the share `done` of the budget; returns the factor."""
    factor = learning_rate(done)
    for optimiser in opts:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor
            if "momentum" in group:
                group["momentum"] = momentum(done)
    return factor


class Clock:
    """Time spent so far out of a budget, across restarts: wall time, or what another clock says."""

    def __init__(self, minutes: float, spent: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self.budget, self.before, self.now, self.start = minutes * 60.0, spent, now, now()

    @property
    def spent(self) -> float:
        """Seconds."""
        return self.before + self.now() - self.start

    @property
    def done(self) -> float:
        """Share of the budget used, in [0, 1]."""
        return min(self.spent / self.budget, 1.0)


class Log:
    """JSON lines, one per logged step; `curve` thins them for the card."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def write(self, **row: float) -> None:
        line = json.dumps({key: round(value, 5) for key, value in row.items()})
        with self.path.open("a", encoding="utf-8") as out:
            out.write(line + "\n")
        print(line, flush=True)

    def rows(self) -> list[dict[str, float]]:
        """The rows that led to the weights: what a restart from an older checkpoint undid is left out."""
        kept: list[dict[str, float]] = []
        for line in self.path.read_text("utf-8").splitlines() if self.path.is_file() else []:
            row = json.loads(line)
            while kept and kept[-1]["step"] > row["step"]:
                kept.pop()
            kept.append(row)
        return kept


def save_state(path: Path, model: Llama, opts: list[torch.optim.Optimizer], facts: dict[str, float]) -> None:
    """All that a restart needs; replaced in one step so that a kill never leaves half a file."""
    state = {"model": model.state_dict(), "optimisers": [o.state_dict() for o in opts], "facts": facts}
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def load_state(path: Path, model: Llama, opts: list[torch.optim.Optimizer]) -> dict[str, float]:
    """Restores model and optimisers; returns the facts saved with them (empty when there is no checkpoint)."""
    if not path.is_file():
        return {}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(opts, state["optimisers"], strict=True):
            peaks = [group["peak"] for group in optimiser.param_groups]
            optimiser.load_state_dict(saved)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["peak"] = peak  # the plan of this run, not of the one that was stopped
    except Exception as error:  # torch's errors for another model's weights, and for no checkpoint, have no common base
        raise UserError(f"{path} is no checkpoint of this model; give its own size, or another folder") from error
    facts: dict[str, float] = state["facts"]
    return facts
