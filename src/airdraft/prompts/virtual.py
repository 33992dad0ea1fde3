"""One prompt in virtual time: the decisions of `pace` over a link and an engine of given speeds."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from airdraft.prompts.blocks import BLOCK
from airdraft.prompts.pace import MOST, WINDOW, Meeting, Speeds


@dataclass(frozen=True)
class StoreLink:
    """The way to a store. Blocks that are asked for together come one after the other."""

    bytes_per_s: float
    rtt_s: float
    lost: frozenset[int] = frozenset()
    """Blocks that do not come: an answer says so."""
    stops: int | None = None
    """After so many blocks no answer comes any more."""

    def first_s(self, size: int) -> float:
        """Seconds until a block of so many bytes comes that was asked for alone."""
        return self.rtt_s + size / self.bytes_per_s


def ttft_s(tokens: int, block_bytes: int, link: StoreLink, tokens_per_s: float, pace: Speeds) -> float:
    """Seconds until a prompt is read, with `pace` deciding; what it learns stays there."""
    blocks = tokens // BLOCK
    if not blocks:
        return tokens / tokens_per_s
    meeting = Meeting(pace, blocks, block_bytes, 0, 0.0)
    on_way: list[tuple[float, int]] = []
    now, at, free_s, asked = 0.0, 0, 0.0, 0

    def ask() -> None:
        nonlocal free_s, asked
        while (block := meeting.ask(at, now)) is not None:
            size = 0 if block in link.lost else block_bytes
            free_s = max(free_s, now + link.rtt_s) + size / link.bytes_per_s
            if link.stops is None or asked < link.stops:
                heapq.heappush(on_way, (free_s, block))
            asked += 1

    def until(end: float) -> None:
        nonlocal now
        while on_way and on_way[0][0] <= end:
            now, block = heapq.heappop(on_way)
            meeting.settle(block, now, came=block not in link.lost)
            ask()
        now = end

    ask()
    while at < tokens:
        ask()
        advice = meeting.advise(at, now)
        if advice.blocks:
            at = BLOCK * advice.blocks.stop
        elif advice.wait_s:
            woken = min(now + advice.wait_s, on_way[0][0] if on_way else math.inf)
            meeting.waited(woken - now)
            until(woken)
        else:
            piece = min(advice.piece or MOST, MOST, tokens - at)
            until(now + piece / tokens_per_s)
            at += piece
    return now


def overlap_s(tokens: int, block_bytes: int, link: StoreLink, tokens_per_s: float) -> float:
    """Seconds until a prompt is read whose engine computes whole pieces from the front, and never waits, while all
    blocks are fetched from the back."""
    blocks, at, now = tokens // BLOCK, 0, 0.0
    came_s = [link.first_s(block_bytes) + (blocks - 1 - block) * block_bytes / _rate(link, block_bytes)
              for block in range(blocks)]  # fmt: skip
    while at < tokens:
        first = at // BLOCK
        if first < blocks and came_s[first] <= now:
            at = BLOCK * blocks
            continue
        piece = min(MOST, tokens - at)
        now, at = now + piece / tokens_per_s, at + piece
    return now


def fetch_s(tokens: int, block_bytes: int, link: StoreLink, tokens_per_s: float) -> float:
    """Seconds until all blocks of a prompt are fetched, and what is left of it computed."""
    blocks = tokens // BLOCK
    left_s = (tokens - BLOCK * blocks) / tokens_per_s
    if not blocks:
        return left_s
    return link.first_s(block_bytes) + (blocks - 1) * block_bytes / _rate(link, block_bytes) + left_s


def _rate(link: StoreLink, block_bytes: int) -> float:
    """Bytes in a second, of which no more can be on their way than are asked for at once."""
    return min(link.bytes_per_s, WINDOW * block_bytes / link.first_s(block_bytes))


def ways_s(tokens: int, token_bytes: int, link: StoreLink, tokens_per_s: float) -> dict[str, float]:
    """Seconds until a prompt is read, in every way. `auto` knows the speeds, as an edge does after a few prompts."""
    size = BLOCK * token_bytes
    known = Speeds(_rate(link, size), link.first_s(size), tokens_per_s)
    return {
        "compute": tokens / tokens_per_s,
        "fetch": fetch_s(tokens, size, link, tokens_per_s),
        "overlap": overlap_s(tokens, size, link, tokens_per_s),
        "auto": ttft_s(tokens, size, link, tokens_per_s, known),
    }
