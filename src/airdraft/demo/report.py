"""The demo's output: the texts as they are written, the table, and conclusions from it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from airdraft.core import schemes
from airdraft.core.events import Committed
from airdraft.demo.live import moves, onto
from airdraft.demo.show import TokenPrinter, legend
from airdraft.device.client import EdgeConnection
from airdraft.lab.results import HELPED
from airdraft.lab.wall.schemes import (
    DRAFTING,
    PROMPTS,
    PUBLISHED,
    ROUNDS,
    SEEDS,
    WITHOUT_ROUNDS,
    Bench,
    Plan,
    SchemeRow,
)
from airdraft.models.profile import profile
from airdraft.telemetry.feed import Feed

SCHEMES = (schemes.SERVER, "device", *DRAFTING, *HELPED)
WATCHED = [*HELPED][-1]


def demo(plan: Plan, console: Console) -> dict[str, Any]:
    """Run the whole demonstration. Returns what `--json` writes."""
    imitated = "" if plan.profile == "none" else f" (compute imitates {plan.profile})"
    console.print(_introduction(plan))
    bench, rows = asyncio.run(_timed(plan, console, imitated))
    with _progress(console) as progress:  # outside the loop, which Ctrl-C would not end before a test of many seconds
        task = progress.add_task("")
        for name in schemes.named(drafts=True):
            progress.update(task, description=f"acceptance over {SEEDS * len(PROMPTS)} texts: {name}")
            rows[name].sample = bench.sample(name)
        for name in ROUNDS:
            progress.update(task, description=f"is it exact? {plan.trials} short texts: {name}")
            rows[name].conformance = bench.conform(name)
    shown = [rows[name] for name in SCHEMES]
    console.print(_table(shown, plan, imitated))
    said = conclusions(shown)
    points = Table.grid(padding=(0, 1))
    for line in said:
        points.add_row(" -", Text(f"{line}{imitated if 'tokens/s' in line else ''}"))
    console.print(points)
    return {
        "pair": {"draft": bench.draft.name, "target": bench.target.name, "vocab_size": bench.tokenizer.vocab_size},
        "profile": plan.profile,
        "imitated_compute": plan.profile != "none",
        "link": {
            "uplink_mbps": _finite(plan.link.uplink_mbps),
            "downlink_mbps": _finite(plan.link.downlink_mbps),
            "rtt_ms": plan.link.rtt_ms,
            "emulated": True,
        },
        "params": {"temperature": plan.params.temperature, "top_k": plan.params.top_k, "top_p": plan.params.top_p,
                   "min_p": plan.params.min_p},
        "seed": plan.seed,
        "draft_length": plan.draft_length,
        "max_tokens": plan.max_tokens,
        "prompts": list(PROMPTS),
        "rows": [row.record() for row in shown],
        "conclusions": said,
    }  # fmt: skip


async def _timed(plan: Plan, console: Console, imitated: str) -> tuple[Bench, dict[str, SchemeRow]]:
    """Write the texts over the link by every scheme, the first of them while the reader watches."""
    async with contextlib.AsyncExitStack() as stack:
        with console.status("starting the edge and the link"):
            bench = await stack.enter_async_context(Bench.start(plan))
            await asyncio.to_thread(bench.write_truth)
        console.print(legend())
        rows = {WATCHED: await _watch(bench, console)}
        with _progress(console) as progress:
            task = progress.add_task("")
            for name in SCHEMES:
                progress.update(task, description=f"the same prompts: {name}{imitated}")
                if name == "device":
                    rows[name] = await bench.device_only()
                elif name in HELPED and name not in rows:
                    rows[name] = await bench.helped(name)
                elif name not in rows:
                    rows[name] = await bench.scheme(name)
    return bench, rows


def conclusions(rows: list[SchemeRow]) -> list[str]:
    """The conclusions from the figures, in sentences, whichever scheme wins."""
    speed = {row.scheme: row.cost.figures()["tokens_per_s"] or 0.0 for row in rows}
    server, published = speed[schemes.SERVER], max(PUBLISHED, key=lambda name: speed[name])
    best = max(DRAFTING, key=lambda name: speed[name])
    known = "" if best == published else f" and {{}}{published}, the best published scheme ({speed[published]:.1f})"
    if speed[best] > server:
        lines = [
            f"{best} wins here: {speed[best]:.1f} tokens/s, {speed[best] / server:.2f} times plain server streaming "
            f"({server:.1f}){known.format(f'{speed[best] / speed[published]:.2f} times ')}."
        ]
    else:
        lines = [
            f"Plain server streaming wins here: {server:.1f} tokens/s against {best}, the fastest of those that draft "
            f"({speed[best]:.1f}){known.format('')}."
        ]
    lines += [
        f"{name} writes {speed[name]:.1f} tokens/s, {speed[name] / server:.2f} times plain server streaming."
        for name in WITHOUT_ROUNDS
        if name != best
    ]
    if speed[published] < server:
        lines.append(
            "Every round of the published schemes waits for a round trip, which at this link costs more than their "
            "speculation saves."
        )
    lines += [f"What auto chose last: {row.why}." for row in rows if row.why]
    payload = {row.scheme: row.cost.figures()["uplink_payload_bits_per_token"] or 0.0 for row in rows}
    if coupled := payload[schemes.COUPLED]:
        topk, dense = (payload[name] / coupled for name in (schemes.TOPK, schemes.DENSE))
        lines.append(
            f"coupled sends {coupled:.1f} bits of draft payload a token; topk {topk:.0f} times that, dense {dense:.0f}."
        )
    beside = ", ".join(f"{name} {speed[name]:.1f}" for name in HELPED)
    lines.append(
        f"An edge that speculates as well writes, tokens/s: {beside}. Its own draft model takes a tenth of the "
        "target's time where compute is imitated, an assumption; server+draft needs neither device nor uplink."
    )
    lines.append(
        f"Acceptance, of each drafted token that was judged, is measured over {SEEDS * len(PROMPTS)} further texts a "
        "scheme, written in memory."
    )
    wrong = [row.scheme for row in rows if row.scheme != "device" and not row.exact]
    lines.append(f"NOT EXACT: {', '.join(wrong)}." if wrong else "Every scheme but the device alone is exact.")
    return lines


def _introduction(plan: Plan) -> Panel:
    pace = profile(plan.profile)
    compute = "real, both models at their own speed"
    if plan.profile != "none":
        times = f"{pace.draft_s * 1e3:g} ms a draft token, {pace.target_s * 1e3:g} ms a target forward"
        compute = f"imitated: {times} ({plan.profile})"
    text = Text.assemble(
        ("draft on the device, verify at the edge\n", "bold"),
        f"models   {plan.draft} drafts, {plan.target} verifies; real processes, real sockets\n",
        f"link     {plan.link}: emulated in real time\n",
        f"compute  {compute}",
    )
    return Panel(text, title="airdraft", title_align="left")


async def _watch(bench: Bench, console: Console) -> SchemeRow:
    """Write the texts while the reader watches: device and edge both draft, so that every colour may come."""
    feed = Feed() if moves(console) else None
    unreal = "link emulated" if bench.plan.profile == "none" else "link emulated, compute imitated"

    @contextlib.asynccontextmanager
    async def watch(at: int, client: EdgeConnection) -> AsyncIterator[Callable[[Committed], None]]:
        console.rule(f"text {at + 1} of {len(PROMPTS)}", style="dim")
        async with onto(console, feed, client, about=unreal) as screen:
            screen.print(Text(PROMPTS[at], "dim"), end="", soft_wrap=True)
            printer = TokenPrinter(screen, bench.tokenizer)
            try:
                yield printer.committed
            finally:
                printer.end()

    return await bench.helped(WATCHED, watch, feed)


def _progress(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _table(rows: list[SchemeRow], plan: Plan, imitated: str) -> Table:
    title = f"{len(PROMPTS)} texts, draft length {plan.draft_length} where there are rounds\n{plan.link}{imitated}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\nscheme", no_wrap=True)
    for heading in (
        "tokens\n/s",
        "accept-\nance",
        "tokens/\nforward",
        "up bits\n/token",
        "down bits\n/token",
        "drafts\n/token",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("the target's\nown text?", no_wrap=True)
    exact = (row for row in rows if row.exact)
    fastest = max(exact, key=lambda row: row.cost.figures()["tokens_per_s"] or 0.0, default=None)
    for row in rows:
        figures = row.cost.figures()
        cells = [
            _number(figures["tokens_per_s"], ".1f"),
            _number(row.sample.acceptance_rate, ".2f"),
            _number(figures["mean_acceptance_length"], ".2f"),
            _number(figures["uplink_bits_per_token"] or None, ",.0f"),
            _number(figures["downlink_bits_per_token"] or None, ",.0f"),
            _number(figures["device_drafts_per_token"], ".1f"),
            _exactness(row),
        ]
        table.add_row(row.scheme, *cells, style="bold" if row is fastest else "")
    return table


def _finite(rate_mbps: float) -> float | None:
    """A rate for JSON, which has no infinity: null is a link without a limit."""
    return rate_mbps if math.isfinite(rate_mbps) else None


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _exactness(row: SchemeRow) -> str:
    if row.scheme == "device":
        return "no"
    if row.conformance is None or row.identical == len(row.texts):
        return f"identical {row.identical}/{len(row.texts)}"
    return f"{'yes' if row.exact else 'NO'}, p = {row.conformance.p_value:.2g}"
