"""Trains the target by next-token prediction within a wall-time budget. Resumes from its last checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training import data, runtime
from training.model import Config, Llama, save
from training.schedule import context


@dataclass(frozen=True)
class TargetPlan:
    """How long and how big; the defaults made the shipped target."""

    minutes: float = 89.0
    batch: int = 8192  # tokens per update
    micro: int = 8192  # tokens per forward pass
    rate: float = 0.012  # Muon's peak; the other groups scale with it
    decay: float = 0.05
    checkpoint_seconds: float = 240.0
    log_every: int = 40
    repeat_share: float = 0.25  # of the rows, until `repeat_until` of the budget is used: see data.repeat_some
    repeat_until: float = 0.0  # off: the shipped run used it for a few minutes, without clear gain
    compile: bool = True


@torch.no_grad()
def held_out_loss(model: Llama, work: Path, split: str, limit: int, device: torch.device) -> float:
    """Mean nats per token over up to `limit` windows of a held-out split, in bf16 (quick, for the log)."""
    total, count = 0.0, 0
    for x, y in data.windows(data.tokens(work, split), model.config.context, limit):
        with runtime.autocast(device):
            logits = model(x[None].to(device))
        total += float(F.cross_entropy(logits[0].float(), y.to(device), reduction="sum"))
        count += len(y)
    return total / count


def run(config: Config, plan: TargetPlan, work: Path, out: Path, device: torch.device) -> Path:
    """Trains until the budget is spent; writes the fp32 model to `out` and the log to `work/target.jsonl`."""
    torch.manual_seed(0)
    model = Llama(config).to(device)
    opts = runtime.optimisers(model, plan.rate, plan.decay)
    state = work / "target.state"
    facts = runtime.load_state(state, model, opts)
    reader = data.Reader(data.tokens(work, "train"), config.context, cursor=int(facts.get("cursor", 0)))
    log = runtime.Log(work / "target.jsonl")
    step, seen = int(facts.get("step", 0)), int(facts.get("tokens", 0))
    rng = np.random.default_rng(step)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with runtime.autocast(device):
            logits = model(x)
        return F.cross_entropy(logits.view(-1, config.vocab).float(), y.view(-1))

    compiled = torch.compile(loss_of, dynamic=False) if plan.compile else loss_of
    clock = runtime.Clock(plan.minutes, facts.get("seconds", 0.0))
    saved, mark, mark_tokens = time.monotonic(), time.monotonic(), seen
    while clock.done < 1.0:
        factor = runtime.set_rates(opts, clock.done)
        rows = context(clock.done, config.context)
        loss = torch.zeros((), device=device)
        parts = plan.batch // plan.micro
        for _ in range(parts):
            x, y = reader.batch(plan.micro, rows)
            if clock.done < plan.repeat_until:
                x, y = data.repeat_some(x, y, plan.repeat_share, rng)
            part = compiled(x.to(device), y.to(device)) / parts
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
        for optimiser in opts:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + plan.batch
        if step % plan.log_every == 0:
            now = time.monotonic()
            log.write(
                step=step, tokens=seen, seconds=clock.spent, context=rows, rate=factor, loss=float(loss),
                tokens_per_second=(seen - mark_tokens) / (now - mark),
            )  # fmt: skip
            mark, mark_tokens = now, seen
        if time.monotonic() - saved > plan.checkpoint_seconds:
            facts = {"step": step, "tokens": seen, "cursor": reader.cursor, "seconds": clock.spent}
            runtime.save_state(state, model, opts, facts)
            save(model, work / "target.latest")
            saved = time.monotonic()
    facts = {"step": step, "tokens": seen, "cursor": reader.cursor, "seconds": clock.spent}
    runtime.save_state(state, model, opts, facts)
    save(model, out)
    held = held_out_loss(model, work, "held_files", 40, device)
    log.write(step=step, tokens=seen, seconds=clock.spent, held_loss=held)
    return out
