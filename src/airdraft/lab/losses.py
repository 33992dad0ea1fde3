"""What is lost along texts: by the codecs of prompt blocks, and by documents joined without having seen each other."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import fmean

import numpy as np

from airdraft.models.base import FloatArray, Part, Portable, TargetEngine, Tensors, raised
from airdraft.models.rows import log_probs
from airdraft.models.steady import share
from airdraft.models.text import Tokenizer
from airdraft.prompts.blocks import BLOCK, Layout, portable
from airdraft.prompts.codecs import CODECS
from airdraft.prompts.codecs.base import Codec
from airdraft.prompts.joining import Document, differing, firsts, joined
from airdraft.prompts.rotary import Rotary

BLOCKS, DOCUMENTS, FOLLOWING = 6, 4, 96
"""A prompt is so many blocks, or so many documents; compared are the rows of so many tokens that follow it."""
SHARES = (0.0, 0.05, 0.10, 0.15, 0.30)
FIRSTS = (2, 4, 8, 16)
_CODE = ("textwrap", "heapq", "fractions", "configparser")
_PROSE = ("compound", "specialnames", "formatstrings", "import")


@dataclass(frozen=True)
class CodecRow:
    """One codec and one target."""

    target: str
    codec: str
    lossy: bool
    bytes_per_token: float
    encode_mb_s: float
    """Megabytes of keys and values, as the engine has them, in a second of CPU time."""
    decode_mb_s: float
    overlap: float
    """1 - TV between rows with what was decoded, and with what was encoded; mean."""
    perplexity_ratio: float
    """Of the text that follows."""


@dataclass(frozen=True)
class JoinedRow:
    """Documents of one target, joined in one way."""

    target: str
    way: str
    """`firsts`, of each document, or `share`, of all tokens."""
    number: float
    computed: float
    """Tokens that are computed when the documents are joined, of all of them."""
    overlap: float
    perplexity_ratio: float


@dataclass(frozen=True)
class Passage:
    """A prompt and what follows it, with what a target makes of it."""

    prompt: list[int]
    following: list[int]
    tensors: Tensors
    """Of the prompt."""
    rows: FloatArray
    """That score the tokens which follow, but for the first."""

    @classmethod
    def of(cls, engine: TargetEngine, tokens: Sequence[int]) -> Passage:
        """Read one. Raises: `ModelError`."""
        end, cache = BLOCK * BLOCKS, portable(engine)
        prompt, following = list(tokens[:end]), list(tokens[end : end + FOLLOWING])
        raised(engine.verify([Part(cache, 0, prompt, 0)]).pop())
        tensors = cache.take(0, end)
        return cls(prompt, following, tensors, _rows(engine, cache, end, following))

    def compared(self, engine: TargetEngine, cache: Portable) -> tuple[float, float]:
        """1 - TV, and nats by which what follows is less likely, with the prompt as it is in `cache`; means."""
        rows = _rows(engine, cache, len(self.prompt), self.following)
        return 1 - share(rows, self.rows), _nats(rows, self.following) - _nats(self.rows, self.following)


def passages(engine: TargetEngine, tokenizer: Tokenizer, code: bool) -> list[Passage]:
    """Source code of Python's standard library, or of its manual."""
    if code:
        texts = [inspect.getsource(import_module(name)) for name in _CODE]
    else:
        topics = import_module("pydoc_data.topics").topics
        texts = [topics[name] for name in _PROSE]
    return [Passage.of(engine, tokenizer.encode(text)) for text in texts]


def codecs(target: str, engine: TargetEngine, texts: Sequence[Passage]) -> Iterator[CodecRow]:
    """Every codec, with one target."""
    for codec in CODECS.values():
        yield _coded(target, engine, texts, codec)


def documents(target: str, engine: TargetEngine, texts: Sequence[Passage]) -> Iterator[JoinedRow]:
    """Each prompt cut into documents, which are joined again in every way."""
    rotary, length = Rotary.of(engine), BLOCK * BLOCKS // DOCUMENTS
    cut = [
        [Document.of(engine, text.prompt[at : at + length]) for at in range(0, len(text.prompt), length)]
        for text in texts
    ]
    held = [joined(engine, rotary, each, ()).take(0, BLOCK * BLOCKS) for each in cut]
    for way, numbers in (("share", SHARES), ("firsts", FIRSTS)):
        for number in numbers:
            found = []
            for text, pieces, stale in zip(texts, cut, held, strict=True):
                again = (
                    differing(stale, text.tensors, number)
                    if way == "share"
                    else firsts([length] * DOCUMENTS, int(number))
                )
                cache = joined(engine, rotary, pieces, again)
                found.append((len(again) / len(text.prompt), *text.compared(engine, cache)))
            computed, overlap, nats = (fmean(each) for each in zip(*found, strict=True))
            yield JoinedRow(target, way, number, computed, overlap, float(np.exp(nats)))


def codec_table(rows: Sequence[CodecRow]) -> str:
    """The codecs, as Markdown."""
    lines = [
        f"{len(_CODE)} prompts of {BLOCK * BLOCKS} tokens and the {FOLLOWING} tokens after each: source code of "
        "Python's standard library for `target`, its manual for others. MB are of keys and values as the engine "
        "has them, in a second of CPU time. 1 − TV is the mean share of tokens that stay the same; the "
        "perplexity of what follows is given as a multiple of that with exact blocks.",
        "",
        "| target | codec | bytes a token | encode, MB/s | decode, MB/s | 1 − TV | perplexity |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| `{row.target}` | `{row.codec}` | {row.bytes_per_token:,.0f} | {row.encode_mb_s:,.0f} "
        f"| {row.decode_mb_s:,.0f} | {row.overlap:.4f} | × {row.perplexity_ratio:.4f} |"
        for row in rows
    ]
    return "\n".join(lines)


def joined_table(rows: Sequence[JoinedRow]) -> str:
    """The documents, as Markdown."""
    ways = {"share": "{:.0%} that differ most", "firsts": "the first {:.0f} of each"}
    lines = [
        f"The same prompts, cut into {DOCUMENTS} documents of {BLOCK * BLOCKS // DOCUMENTS} tokens that were computed "
        "each on its own, joined again. Computed is the share of tokens that are computed when they are joined.",
        "",
        "| target | computed again | computed | 1 − TV | perplexity |",
        "|---|---|--:|--:|--:|",
    ]
    lines += [
        f"| `{row.target}` | {ways[row.way].format(row.number)} | {row.computed:.1%} | {row.overlap:.3f} "
        f"| × {row.perplexity_ratio:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _coded(target: str, engine: TargetEngine, texts: Sequence[Passage], codec: Codec) -> CodecRow:
    layout, found, encode_s, decode_s = Layout.of(engine, codec), list[tuple[float, float]](), 0.0, 0.0
    raw = size = 0
    for text in texts:
        cache = portable(engine)
        for at in range(0, len(text.prompt), BLOCK):
            block = [each[:, at : at + BLOCK] for each in text.tensors]
            began_s = time.process_time()
            data = [layout.written(block, layer) for layer in range(layout.layers)]
            written_s = time.process_time()
            back = layout.read(data)
            encode_s, decode_s = encode_s + written_s - began_s, decode_s + time.process_time() - written_s
            raw, size = raw + sum(each.nbytes for each in block), size + sum(map(len, data))
            cache.put(at, back)
        found.append(text.compared(engine, cache))
    overlap, nats = (fmean(each) for each in zip(*found, strict=True))
    positions = sum(len(text.prompt) for text in texts)
    return CodecRow(
        target,
        codec.name,
        codec.lossy,
        size / positions,
        raw / 1e6 / encode_s,
        raw / 1e6 / decode_s,
        overlap,
        float(np.exp(nats)),
    )


def _rows(engine: TargetEngine, cache: Portable, at: int, tokens: list[int]) -> FloatArray:
    return raised(engine.verify([Part(cache, at, tokens[:-1], len(tokens) - 1)]).pop())


def _nats(rows: FloatArray, following: Sequence[int]) -> float:
    """Mean of -log of the chances of the tokens after the first."""
    return float(-log_probs(rows)[np.arange(len(rows)), following[1:]].mean())
