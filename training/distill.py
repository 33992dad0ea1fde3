"""Trains the draft to foresee the frozen target: KL first, then the total variation that decides acceptance."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training import data, runtime
from training.model import Config, Llama, load, save

TEMPERATURES = (1.0, 0.7)  # those at which the pair is used and measured


@dataclass(frozen=True)
class DraftPlan:
    """How long and on what; the defaults made the shipped draft."""

    minutes: float = 23.0
    context: int = 512  # tokens of a row; prompt and completion of a demonstration fit
    rows: int = 16  # per update
    own_rows: int = 6  # of which from text that the target wrote
    rate: float = 0.015
    decay: float = 0.02
    turn: tuple[float, float] = (0.2, 0.5)  # share of the budget over which the loss turns from KL to TV
    checkpoint_seconds: float = 240.0
    log_every: int = 50
    compile: bool = True


def divergences(target: Tensor, draft: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean KL(target, draft) in nats and mean TV in [0, 1] of logits [..., vocab] at a temperature."""
    log_p = F.log_softmax(target.float() / temperature, dim=-1)
    log_q = F.log_softmax(draft.float() / temperature, dim=-1)
    p, q = log_p.exp(), log_q.exp()
    return (p * (log_p - log_q)).sum(-1).mean(), 0.5 * (p - q).abs().sum(-1).mean()


def turned(done: float, turn: tuple[float, float]) -> float:
    """Weight of the TV loss at `done`: TV is the goal itself, but its gradient is weak while the draft is far off."""
    start, end = turn
    return 0.95 * min(max((done - start) / (end - start), 0.0), 1.0)


@torch.no_grad()
def shrink(target: Llama, draft: Llama) -> None:
    """Starts the draft's embedding and head from the leading directions of the target's.

    Tokens that the target treats alike then start out alike, which saves the first minutes.
    """
    for wide, narrow in ((target.model.embed_tokens, draft.model.embed_tokens), (target.lm_head, draft.lm_head)):
        weight = wide.weight.float()  # [vocab, width]
        if draft.config.tied:  # what all tokens share is in no softmax, and would be most of every embedding
            weight = weight - weight.mean(0)
        u, s, _ = torch.linalg.svd(weight, full_matrices=False)
        narrow.weight.copy_((u * s)[:, : draft.config.width])


def run(target_folder: Path, config: Config, plan: DraftPlan, work: Path, out: Path, device: torch.device) -> Path:
    """Distils until the budget is spent; writes the fp32 draft to `out` and the log to `work/draft.jsonl`."""
    torch.manual_seed(1)
    target = load(target_folder).to(device).requires_grad_(False)
    draft = Llama(config)
    shrink(target.cpu(), draft)
    target, draft = target.to(device), draft.to(device)
    opts = runtime.optimisers(draft, plan.rate, plan.decay)
    state = work / "draft.state"
    facts = runtime.load_state(state, draft, opts)
    context = min(plan.context, target.config.context)
    corpus = None
    if plan.rows > plan.own_rows:
        corpus = data.Reader(data.tokens(work, "train"), context, seed=5, cursor=int(facts.get("corpus", 0)))
    own = data.Reader(data.tokens(work, "own"), context, seed=6, cursor=int(facts.get("own", 0)))
    log = runtime.Log(work / "draft.jsonl")
    step, seen = int(facts.get("step", 0)), int(facts.get("tokens", 0))

    def losses(x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with runtime.autocast(device):
            with torch.no_grad():
                wanted = target(x)
            given = draft(x)
        kl_1, tv_1 = divergences(wanted, given, TEMPERATURES[0])
        kl_2, tv_2 = divergences(wanted, given, TEMPERATURES[1])
        # TV counts five-fold: it is bounded by 1 and its gradient is that much smaller than KL's.
        loss = (1.0 - turn) * 0.5 * (kl_1 + kl_2) + turn * 2.5 * (tv_1 + tv_2)
        return loss, tv_1.detach(), tv_2.detach()

    compiled = torch.compile(losses, dynamic=False) if plan.compile else losses
    clock = runtime.Clock(plan.minutes, facts.get("seconds", 0.0))
    saved, mark, mark_tokens = time.monotonic(), time.monotonic(), seen

    def facts_now() -> dict[str, float]:
        return {
            "step": step,
            "tokens": seen,
            "corpus": corpus.cursor if corpus else 0,
            "own": own.cursor,
            "seconds": clock.spent,
        }

    while clock.done < 1.0:
        factor = runtime.set_rates(opts, clock.done)
        turn = turned(clock.done, plan.turn)
        parts = [own.batch(plan.own_rows * context, context)[0]]
        if corpus:
            parts.append(corpus.batch((plan.rows - plan.own_rows) * context, context)[0])
        loss, tv_1, tv_2 = compiled(torch.cat(parts).to(device), torch.tensor(turn, device=device))
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser in opts:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + plan.rows * context
        if step % plan.log_every == 0:
            now = time.monotonic()
            log.write(
                step=step, tokens=seen, seconds=clock.spent, rate=factor, turn=turn, loss=float(loss.detach()),
                accept_1=1.0 - float(tv_1), accept_07=1.0 - float(tv_2),
                tokens_per_second=(seen - mark_tokens) / (now - mark),
            )  # fmt: skip
            mark, mark_tokens = now, seen
        if time.monotonic() - saved > plan.checkpoint_seconds:
            runtime.save_state(state, draft, opts, facts_now())
            save(draft, work / "draft.latest")
            saved = time.monotonic()
    runtime.save_state(state, draft, opts, facts_now())
    save(draft, out)
    log.write(step=step, tokens=seen, seconds=clock.spent)
    return out
