"""The cost of metrics and traces on the hot path. `pytest -s` shows the figures for docs/operate.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from time import perf_counter, thread_time

from airdraft.core.edge import EdgeMachine, Limits, Target
from airdraft.core.events import Begun, Offered, Progress, Taken
from airdraft.edge.access import anybody
from airdraft.edge.watch import Watch
from airdraft.scheduler import Call
from airdraft.telemetry.metrics import Metrics, Readings
from airdraft.telemetry.trace import Traces

from .loopback import TOKENIZER, VOCAB

ROUNDS = 2000
BAR_S = 200e-6
"""Limit for the CPU time of one round. A slow machine may take ten times as long as a quick one."""


def watching(traces: Traces | None) -> Callable[[], None]:
    """Run one round of a text as the edge sees it: a draft, a call, tokens."""
    target = Target("a test", "a target", TOKENIZER, VOCAB, 512, ())
    metrics = Metrics(lambda: Readings(*[0] * len(fields(Readings))))
    watch = Watch(EdgeMachine(target, Limits(), 0.0).text, "peer", anybody(0.0), metrics, traces, perf_counter)
    watch.event(Begun(1, 3, 3, 50, "stream"))
    watch.event(Taken(1, 3))
    drafts, progress, call = Offered(1, 3, 4, 3), Progress(1, 3, 3, 1, 4, raced=False), Call(0.01, 2, 10)

    def once() -> None:
        watch.event(drafts)
        metrics.forward_s.observe(call.seconds)
        metrics.batch.observe(call.texts)
        watch.call(1, call)
        watch.event(progress)

    return once


def test_a_round_costs_little(tmp_path: Path) -> None:
    for what, traces in (("metrics", None), ("metrics and a trace", Traces(tmp_path, "edge"))):
        once = watching(traces)
        best = float("inf")
        for _ in range(5):
            began = thread_time()
            for _ in range(ROUNDS):
                once()
            best = min(best, (thread_time() - began) / ROUNDS)
        print(f"\n{what}: {1e6 * best:.1f} µs a round", end="")  # noqa: T201
        assert best < BAR_S
