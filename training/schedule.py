"""Schedules as functions of the share of the time budget used, so that a deadline holds on a noisy machine."""

from __future__ import annotations


def learning_rate(done: float, warmup: float = 0.02, hold: float = 0.25) -> float:
    """Factor on the peak rate at `done` in [0, 1]: linear warm-up, short plateau, linear decay to 0."""
    done = min(max(done, 0.0), 1.0)
    if done < warmup:
        return max(done / warmup, 0.02)
    if done < hold:
        return 1.0
    return (1.0 - done) / (1.0 - hold)


def momentum(done: float, warmup: float = 0.05) -> float:
    """Muon's momentum: 0.85 rising to 0.95 while the first gradients are still noisy."""
    return 0.85 + 0.10 * min(max(done, 0.0) / warmup, 1.0)


def context(done: float, longest: int, grow_at: float = 0.88) -> int:
    """Rows of half the context until `grow_at`, then full ones: half is cheaper and most of code is local."""
    return longest if done >= grow_at else longest // 2
