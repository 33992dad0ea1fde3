"""What a greedy text depends on besides its prompt: the others of its call, the widths of forwards, company in memory.

Each prompt's text is written once, a token a forward and alone. Then its tokens are fed again in other ways, and the
text would have been another one where any row's choice differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import msgspec
import numpy as np

from airdraft.errors import AirdraftError
from airdraft.lab.record import prompts
from airdraft.models.base import FloatArray, Part, TargetEngine

TEXTS, TOKENS = 40, 32
TOGETHER = 4
"""Texts in one call, and in memory."""
WIDTHS = (2, 5, 3, 8, 6)

OnText = Callable[[], None]


class Depends(msgspec.Struct, frozen=True):
    """Each `exact`, where all rows have the same bits, or the share of texts that differ; None: cannot be tried."""

    batch: str | float | None
    width: str | float | None
    company: str | float | None


class _Text(msgspec.Struct):
    prompt: list[int]
    tokens: list[int]
    rows: FloatArray
    """[tokens, vocab]: those that chose the tokens."""


def depends(engine: TargetEngine, on_text: OnText = lambda: None) -> Depends:
    """What the texts of `engine` depend on. `on_text` is called four times for each of `TEXTS`."""
    texts = []
    for prompt in prompts(TEXTS):
        texts.append(_written(engine, prompt))
        on_text()
    info = engine.info
    together = min(TOGETHER, max(info.max_batch, info.max_calls), info.max_caches or TOGETHER)
    return Depends(
        batch=_told(texts, _batched(engine, texts, together), on_text),
        width=_told(texts, (_again(engine, [text], WIDTHS)[0] for text in texts), on_text),
        # What is in a server's memory is its own affair.
        company=None if info.max_calls > 1 else _told(texts, _in_company(engine, texts), on_text),
    )


def _told(texts: Sequence[_Text], found: Iterator[FloatArray], on_text: OnText) -> str | float:
    same, other = True, 0
    for text, rows in zip(texts, found, strict=True):
        same &= np.array_equal(rows, text.rows)
        other += rows.argmax(-1).tolist() != text.tokens
        on_text()
    return "exact" if same else other / len(texts)


def _written(engine: TargetEngine, prompt: list[int]) -> _Text:
    cache, tokens, rows = engine.new_cache(), list[int](), list[FloatArray]()
    fed, start = prompt, 0
    while len(tokens) < TOKENS:
        [found] = _rows(engine, [Part(cache, start, fed, 1)])
        rows.append(found)
        tokens.append(int(found[0].argmax()))
        start += len(fed)
        fed = tokens[-1:]
    return _Text(prompt, tokens, np.concatenate(rows))


def _batched(engine: TargetEngine, texts: Sequence[_Text], together: int) -> Iterator[FloatArray]:
    for start in range(0, len(texts), together):
        yield from _again(engine, texts[start : start + together], (1,))


def _in_company(engine: TargetEngine, texts: Sequence[_Text]) -> Iterator[FloatArray]:
    most = min(engine.info.max_caches or TOGETHER, TOGETHER)
    for at, text in enumerate(texts):
        others = [engine.new_cache() for _ in range(most - 1)]
        for i, cache in enumerate(others, start=1):
            other = texts[(at + i) % len(texts)]
            _rows(engine, [Part(cache, 0, [*other.prompt, *other.tokens], 0)])
        yield _again(engine, [text], (1,))[0]
        del others


def _again(engine: TargetEngine, texts: Sequence[_Text], widths: Sequence[int]) -> list[FloatArray]:
    """The rows that choose the tokens of `texts`, which share calls; each feeds so many tokens, in turn."""
    caches = [engine.new_cache() for _ in texts]
    first = [_rows(engine, [Part(c, 0, text.prompt, 1)])[0] for c, text in zip(caches, texts, strict=True)]
    found, start = [[rows] for rows in first], 0
    for width in cycle(widths):
        end = min(start + width, TOKENS - 1)
        if end == start:
            break
        parts = [
            Part(cache, len(text.prompt) + start, text.tokens[start:end], end - start)
            for cache, text in zip(caches, texts, strict=True)
        ]
        for own, rows in zip(found, _rows(engine, parts), strict=True):
            own.append(rows)
        start = end
    return [np.concatenate(rows) for rows in found]


def _rows(engine: TargetEngine, parts: Sequence[Part]) -> list[FloatArray]:
    """The rows of one call, or of several at once where an engine takes those."""
    if engine.info.max_calls > 1 and len(parts) > 1:
        with ThreadPoolExecutor(len(parts)) as pool:
            found = [each for [each] in pool.map(lambda part: engine.verify([part]), parts)]
    else:
        found = engine.verify(parts)
    rows: list[FloatArray] = []
    for each in found:
        if isinstance(each, AirdraftError):
            raise each
        rows.append(each)
    return rows


def table(rows: Sequence[tuple[str, Depends]]) -> str:
    """Engines by name, as Markdown."""
    lines = [
        f"{TEXTS} greedy texts of {TOKENS} tokens by the shipped target: `exact` where every row has the same "
        f"bits, else the share of texts that differ. Batch: {TOGETHER} texts in a call. Width: forwards of "
        f"{min(WIDTHS)} to {max(WIDTHS)} tokens against 1. Company: {TOGETHER - 1} other texts in memory.",
        "",
        "| engine | batch | width | company |",
        "|---|---:|---:|---:|",
    ]
    for name, found in rows:
        told = [f"{each:.3f}" if isinstance(each, float) else each or "" for each in msgspec.structs.astuple(found)]
        lines.append(f"| {name} | {' | '.join(told)} |")
    return "\n".join(lines)
