"""Prompts in virtual time: computed, fetched, both at once as they come, and as an edge decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from airdraft.prompts.virtual import StoreLink, ways_s

TOKENS = (256, 512, 1024, 2048, 4096, 8192)
RATES_MBPS = (1.0, 10.0, 100.0, 1000.0)
RTTS_MS = (5.0, 50.0)
PREFILLS = (100.0, 1000.0, 10000.0)
"""Tokens a second."""
_SHOWN_TOKENS, _SHOWN_RTT_MS = 2048, 50.0


@dataclass(frozen=True)
class PromptRow:
    """One way to read one prompt."""

    prompt_tokens: int
    rate_mbps: float
    rtt_ms: float
    prefill_tokens_per_s: float
    way: str
    ttft_ms: float


def grid(
    token_bytes: int,
    tokens: Sequence[int] = TOKENS,
    rates_mbps: Sequence[float] = RATES_MBPS,
    rtts_ms: Sequence[float] = RTTS_MS,
    prefills: Sequence[float] = PREFILLS,
) -> Iterator[PromptRow]:
    """Every way in every cell. `token_bytes`: keys and values of a token."""
    for count, rate, rtt, prefill in product(tokens, rates_mbps, rtts_ms, prefills):
        link = StoreLink(rate * 1e6 / 8, rtt / 1e3)
        for way, seconds in ways_s(count, token_bytes, link, prefill).items():
            yield PromptRow(count, rate, rtt, prefill, way, seconds * 1e3)


def worst(rows: Sequence[PromptRow]) -> tuple[float, float]:
    """The least of the best way's time over that of `auto`, and of computing's over it, of all cells."""
    cells: dict[tuple[float, ...], dict[str, float]] = {}
    for row in rows:
        cell = row.prompt_tokens, row.rate_mbps, row.rtt_ms, row.prefill_tokens_per_s
        cells.setdefault(cell, {})[row.way] = row.ttft_ms
    return (
        min(min(cell.values()) / cell["auto"] for cell in cells.values()),
        min(cell["compute"] / cell["auto"] for cell in cells.values()),
    )


def table(rows: Sequence[PromptRow], token_kib: float) -> str:
    """What a page shows of it: one length and round trip, and the worst of all cells."""
    shown = [row for row in rows if (row.prompt_tokens, row.rtt_ms) == (_SHOWN_TOKENS, _SHOWN_RTT_MS)]
    ways = list(dict.fromkeys(row.way for row in shown))
    cells = {(row.prefill_tokens_per_s, row.rate_mbps, row.way): row.ttft_ms / 1e3 for row in shown}
    lines = [
        f"Seconds until a prompt of {_SHOWN_TOKENS} tokens is read, {token_kib:g} KiB a token, "
        f"{_SHOWN_RTT_MS:g} ms RTT; simulated (virtual time):",
        "",
        f"| tokens/s | Mbit/s | {' | '.join(ways)} |",
        f"|--:|--:|{'--:|' * len(ways)}",
    ]
    for speed, rate in dict.fromkeys((row.prefill_tokens_per_s, row.rate_mbps) for row in shown):
        times = " | ".join(f"{cells[speed, rate, way]:.3g}" for way in ways)
        lines.append(f"| {speed:g} | {rate:g} | {times} |")
    of_best, of_computing = worst(rows)
    count = len(rows) // len(ways)
    lines += [
        "",
        f"In all {count} cells `auto` has at least {_floor(of_best)} of the speed of the best way, and at least "
        f"{_floor(of_computing)} of that of computing alone.",
    ]
    return "\n".join(lines)


def _floor(share: float) -> str:
    return f"{math.floor(1000 * share + 1e-9) / 1000:.3f}"
