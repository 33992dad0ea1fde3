"""`airdraft plan --prompt-tokens`: a prompt, computed and from a store, and the rate from which on that pays."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from airdraft.errors import BadParameterError
from airdraft.prompts.blocks import BLOCK
from airdraft.prompts.codecs import CODECS, EXACT, named
from airdraft.prompts.codecs.base import Codec
from airdraft.prompts.virtual import StoreLink, ways_s

_PANEL = "Prompts from a store"
_HEAD = 128
Tokens = Annotated[
    int | None,
    typer.Option(
        help="Instead of schemes: the time to read a published prompt of so many tokens, computed and from a store.",
        rich_help_panel=_PANEL,
    ),
]
PrefillSpeed = Annotated[
    float, typer.Option(help="Tokens of a prompt that the target computes in a second.", rich_help_panel=_PANEL)
]
TokenKib = Annotated[
    float,
    typer.Option(
        help="Keys and values of a token, KiB: 2 x layers x key-value heads x head size x bytes of a number / 1024. "
        "With --prompts-codec: those of 2 bytes a number.",
        rich_help_panel=_PANEL,
    ),
]
StoreMbps = Annotated[float, typer.Option(help="Rate from the store to the edge, Mbit/s.", rich_help_panel=_PANEL)]
StoreRtt = Annotated[float, typer.Option(help="Round trip between them, ms.", rich_help_panel=_PANEL)]
PromptsCodec = Annotated[
    str,
    typer.Option(
        help=f"How keys and values are written there: {', '.join(CODECS)}. Reckoned are heads of {_HEAD} channels; "
        "what each costs in decoding and in tokens is in docs/prompts.md.",
        rich_help_panel=_PANEL,
    ),
]

GAIN = 0.95
"""Share of the time of computing below which a store is worth having."""
_LOWEST_MBPS, _HIGHEST_MBPS = 0.01, 1e6


def tell(
    tokens: int, tokens_per_s: float, token_kib: float, mbps: float, rtt_ms: float, codec: str, *,
    as_json: bool, no_color: bool,
) -> None:  # fmt: skip
    """Print the times, and the rate from which on a store gains. Raises: `BadParameterError`."""
    if not BLOCK <= tokens <= 1 << 20:
        raise BadParameterError(f"prompt-tokens is {tokens}; give {BLOCK} to {1 << 20}, shorter prompts are not stored")
    for name, value in (("prefill-tokens-per-s", tokens_per_s), ("token-kib", token_kib), ("store-mbps", mbps)):
        if not 0 < value < math.inf:  # NaN lands here too
            raise BadParameterError(f"{name} is {value:g}; give a finite number above 0")
    if not 0 <= rtt_ms < math.inf:
        raise BadParameterError(f"store-rtt-ms is {rtt_ms:g}; give a finite time, 0 or more")
    written = named(codec)
    size = max(1, round(1024 * token_kib * _share(written)))
    found = ways_s(tokens, size, StoreLink(mbps * 1e6 / 8, rtt_ms / 1e3), tokens_per_s)
    crossover = crossover_mbps(tokens, size, rtt_ms, tokens_per_s)
    if as_json:
        record: dict[str, Any] = {"predicted": True, "prompt_tokens": tokens, "store_bytes": tokens * size}
        record |= {"codec": written.name, "lossy": written.lossy, "token_bytes": size}
        record |= {"ttft_ms": {way: 1e3 * seconds for way, seconds in found.items()}, "crossover_mbps": crossover}
        print(json.dumps(record, indent=2))  # noqa: T201
        return
    console = Console(no_color=no_color, highlight=False)
    console.print(
        f"Predicted, not measured: a prompt of {tokens} tokens, {tokens * size / 1e6:.1f} MB of keys and values"
        f"{'' if written is EXACT else f' as {written.name}'}; "
        f"{tokens_per_s:g} tokens/s, store at {mbps:g} Mbit/s and {rtt_ms:g} ms RTT."
    )
    console.print(
        f"  computed {_s(found['compute'])}, fetched {_s(found['fetch'])}, as an edge with --prompts does "
        f"{_s(found['auto'])}"
    )
    console.print(
        "  No rate makes a store worth having: a round trip takes as long as computing."
        if crossover is None
        else f"  From {crossover:.3g} Mbit/s on a store saves 5 % and more of the time of computing."
    )
    if written.lossy:
        console.print(f"  {written.name} loses something: texts after such a prompt are not the target's own.")


def _share(codec: Codec) -> float:
    """The bytes that a codec takes at most, as a share of those of 16-bit numbers."""
    like = [np.zeros((1, 0, _HEAD), np.float16)] * 2
    return 1.0 if codec is EXACT else codec.size(like, BLOCK) / EXACT.size(like, BLOCK)


def crossover_mbps(tokens: int, token_bytes: int, rtt_ms: float, tokens_per_s: float) -> float | None:
    """The rate from which on an edge with a store needs at most `GAIN` of the time of computing; None: no rate."""

    def gains(mbps: float) -> bool:
        found = ways_s(tokens, token_bytes, StoreLink(mbps * 1e6 / 8, rtt_ms / 1e3), tokens_per_s)
        return found["auto"] <= GAIN * found["compute"]

    low, high = math.log(_LOWEST_MBPS), math.log(_HIGHEST_MBPS)
    if not gains(math.exp(high)):
        return None
    while high - low > 0.005:
        middle = (low + high) / 2
        low, high = (low, middle) if gains(math.exp(middle)) else (middle, high)
    return math.exp(high)


def _s(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
