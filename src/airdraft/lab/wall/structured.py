"""Answers that keep to JSON schemas, in wall clock: what compiles, what comes out, what masks cost, what forcing gains.

An edge and a device run in this process, joined by a WebSocket on loopback, under `auto`. Every text is written twice
in a row: with forced tokens, and with the same guide that forces none, so that the target chooses each token in a
forward or as a draft. Both are the same text, whose tokens are then walked through again by our guide and by llguidance
alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from airdraft.control.auto import AUTO, way
from airdraft.core.events import Committed
from airdraft.core.law import Guide
from airdraft.core.messages import GuideSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import AirdraftError, BadParameterError
from airdraft.guides import Guides, of_json, of_regex
from airdraft.guides.grammar import LAYOUT
from airdraft.lab.wall.schemas import SCHEMAS, validator
from airdraft.models.files.config import read_json
from airdraft.models.fit import Fit
from airdraft.models.registry import load_draft, load_target
from airdraft.proposers import USUAL, maker

TEMPERATURE, SEED = 0.7, 1
ANYTHING = of_regex(r"(.|\n)*")
"""A guide that allows every text, for what a mask costs."""
MOST_COST, LEAST_GAIN = 0.15, 1.3
"""Bars: the share of tokens a second that masks may cost, and how much faster forced tokens make JSON."""

Encode = Callable[[str], list[int]]
"""A function from what is asked to the ids of a prompt."""
OnStep = Callable[[int, int], None]


class SchemaRow(msgspec.Struct):
    """What came of one schema."""

    name: str
    characters: int
    compiled: bool = False
    why: str = ""
    """Why it was not compiled, or not written."""
    alone: bool = False
    """Whether llguidance alone compiles it, without bounds on size and work."""
    compile_ms: float = 0.0
    alone_ms: float = 0.0
    tokens: int = 0
    finished: bool = False
    """Whether the text ended by itself, within the most tokens and the context."""
    valid: bool | None = None
    """Whether what finished keeps to the schema, as jsonschema says. None: it did not finish."""
    same: bool = True
    """Whether the text is the same with and without forced tokens."""
    forced: int = 0
    """Tokens of which there was one choice only."""
    forwards: int = 0
    """The target's, after the prompt's, with forced tokens."""
    unforced_forwards: int = 0
    seconds: float = 0.0
    unforced_seconds: float = 0.0
    walk_us: float = 0.0
    """Microseconds of our guide, a token of this text: masks, forced runs, states."""
    alone_us: float = 0.0
    """The same of llguidance: a mask, and the token taken."""


class SchemaReport(msgspec.Struct):
    """What was measured so far."""

    draft: str
    target: str
    threads: int | None = None
    """Of each model. None: a trial chose them."""
    vocab_size: int = 0
    rows: list[SchemaRow] = []
    plain_tokens_per_s: float | None = None
    """Of texts without a guide. None: not measured."""
    masked_tokens_per_s: float | None = None
    """Of the same texts under a guide that allows everything."""
    masked_same: int = 0
    masked_texts: int = 0

    @property
    def written(self) -> list[SchemaRow]:
        """Schemas of which there is a text."""
        return [row for row in self.rows if row.tokens]

    @property
    def cost(self) -> float | None:
        """The share of tokens a second that masks cost."""
        if not self.plain_tokens_per_s or self.masked_tokens_per_s is None:
            return None
        return 1 - self.masked_tokens_per_s / self.plain_tokens_per_s

    @property
    def gain(self) -> float | None:
        """How much faster texts are with forced tokens, all together."""
        seconds = sum(row.seconds for row in self.written)
        return sum(row.unforced_seconds for row in self.written) / seconds if seconds else None


class Unforced(Guide):
    """A guide that allows what another does, and forces nothing."""

    forced: int | None = None

    def __init__(self, inner: Guide) -> None:
        self._inner = inner

    def allowed(self) -> NDArray[np.bool_] | None:
        """See `Guide.allowed`."""
        return self._inner.allowed()

    def bent(self, row: np.ndarray) -> np.ndarray:
        """See `Guide.bent`."""
        return self._inner.bent(row)

    def within(self, prompt: Sequence[int]) -> Guide:
        """See `Guide.within`."""
        return Unforced(self._inner.within(prompt))

    def after(self, token: int) -> Guide:
        """See `Guide.after`."""
        return Unforced(self._inner.after(token))


class _Reader:
    """Reads guides for both sides, which force tokens or do not."""

    def __init__(self, guides: Guides) -> None:
        self.name, self.guides, self.forces = guides.name, guides, True

    async def read(self, spec: GuideSpec, eos_ids: Sequence[int]) -> Guide:
        """See `GuideReader`."""
        guide = await self.guides.read(spec, eos_ids)
        return guide if self.forces else Unforced(guide)


@dataclass(frozen=True)
class Stage:
    """A device at an edge, and what both read guides with."""

    writer: Writer
    reader: _Reader
    vocab_size: int
    eos_ids: tuple[int, ...]
    decode: Callable[[Sequence[int]], str]
    encode: Encode

    async def write(self, prompt: list[int], spec: GuideSpec | None, most: int, forces: bool = True) -> _Wrote:
        """Write a text."""
        self.reader.forces = forces
        scheme, policy = way(AUTO, self.vocab_size)
        request = Request(prompt, scheme, SamplingParams(TEMPERATURE), SEED, most, policy=policy, guide=spec)
        began_s, tokens = time.perf_counter(), list[int]()
        async with contextlib.aclosing(self.writer.write(request)) as events:
            async for event in events:
                if isinstance(event, Committed):
                    tokens += event.tokens
        return _Wrote(tokens, request.counts.forwards, time.perf_counter() - began_s)


@dataclass(frozen=True)
class _Wrote:
    """A text, and what it took."""

    tokens: list[int]
    forwards: int
    seconds: float


@contextlib.asynccontextmanager
async def bench(draft: str, target: str, threads: int | None, encode: Encode) -> AsyncIterator[Stage]:
    """A device with `draft` at an edge with `target`, in this process. `threads`: of each. `encode`: makes prompts."""
    engine, tokenizer = load_target(target, fit=Fit(threads))
    model, _ = load_draft(draft, fit=Fit(threads))
    reader = _Reader(Guides(tokenizer))
    async with EdgeServer(
        engine, tokenizer.digest, tokenizer.vocab_size, service=Service(propose=maker(USUAL), reader=reader)
    ) as server:
        await server.start("127.0.0.1", 0)
        edges = [f"ws://127.0.0.1:{server.port}"]
        async with Writer(edges, model, tokenizer.digest, tokenizer.vocab_size, lookup=True, reader=reader) as writer:
            yield Stage(writer, reader, tokenizer.vocab_size, tuple(engine.info.eos_ids), tokenizer.decode, encode)


def schemas_of(folder: Path | None, most: int) -> dict[str, tuple[str, Any]]:
    """What is asked, and the schema, by name: ours, or those of the JSON files in a folder, at most so many of all.

    Raises: `BadParameterError` for a folder without one.
    """
    if folder is None:
        return dict(itertools.islice(SCHEMAS.items(), most))
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not paths:
        what = f"{folder} has no JSON files; fetch schemas into it with `python -m bench.schemas {folder}`"
        raise BadParameterError(what, field="schemas")
    every = max(1.0, len(paths) / most)
    chosen = [paths[int(at * every)] for at in range(min(most, len(paths)))]  # of all kinds
    # In an order in which a run that is interrupted has some of all kinds, too.
    chosen.sort(key=lambda path: hashlib.sha256(path.stem.encode()).digest())
    return {path.stem: (_asked(path.stem, schema := read_json(path)), schema) for path in chosen}


def _asked(name: str, schema: Any) -> str:
    title = schema.get("title") if isinstance(schema, dict) else None
    about = title if isinstance(title, str) and title else name
    return f"Give a short example as JSON: {about[:200]}"


async def structured(
    stage: Stage, schemas: dict[str, tuple[str, Any]], tokens: int, report: SchemaReport, on_step: OnStep
) -> None:
    """Measure all schemas, and what masks cost, into `report`. `tokens`: most of a text."""
    report.vocab_size = stage.vocab_size
    free = [question for question, _ in SCHEMAS.values()]
    of = len(schemas) + len(free)
    for number, (name, (question, schema)) in enumerate(schemas.items(), 1):
        report.rows.append(await _schema(stage, name, question, schema, tokens, number % 2 > 0))
        on_step(number, of)
    plain, masked = list[_Wrote](), list[_Wrote]()
    for number, question in enumerate(free if tokens else (), 1):
        prompt = stage.encode(question)
        await stage.write(prompt, None, 1)
        for guide in (None, ANYTHING) if number % 2 else (ANYTHING, None):
            wrote = await stage.write(prompt, guide, tokens)
            (plain if guide is None else masked).append(wrote)
        report.masked_same += plain[-1].tokens == masked[-1].tokens
        report.masked_texts += 1
        on_step(len(schemas) + number, of)
    if tokens:
        report.plain_tokens_per_s, report.masked_tokens_per_s = _speed(plain), _speed(masked)


def _speed(texts: Sequence[_Wrote]) -> float:
    return sum(len(text.tokens) for text in texts) / sum(text.seconds for text in texts)


async def _schema(stage: Stage, name: str, question: str, schema: Any, tokens: int, forced_first: bool) -> SchemaRow:
    row = SchemaRow(name, len(json.dumps(schema)))
    row.alone, row.alone_ms = _compiles_alone(stage, schema)
    began_s = time.perf_counter()
    try:
        spec = of_json(schema)
        guide = stage.reader.guides.make(spec, stage.eos_ids)
        row.compiled, row.compile_ms = True, 1e3 * (time.perf_counter() - began_s)
        if not tokens:
            return row
        prompt = stage.encode(question)
        await stage.write(prompt, None, 1)  # the prompt is read once, for both
        wrote = {
            forces: await stage.write(prompt, spec, tokens, forces)
            for forces in ((True, False) if forced_first else (False, True))
        }
    except AirdraftError as error:
        row.why = str(error)[:200]
        return row
    text = wrote[True].tokens
    row.tokens, row.same = len(text), text == wrote[False].tokens
    row.forwards, row.unforced_forwards = wrote[True].forwards, wrote[False].forwards
    row.seconds, row.unforced_seconds = wrote[True].seconds, wrote[False].seconds
    row.walk_us, row.forced = _walked(guide.within(prompt), text)
    row.alone_us = _walked_alone(stage, spec, text)
    row.finished = bool(text) and text[-1] in stage.eos_ids
    if row.finished:
        row.valid = _valid(schema, stage.decode(text))
    return row


def _valid(schema: Any, text: str) -> bool:
    try:
        return bool(validator(schema).is_valid(json.loads(text)))
    except json.JSONDecodeError:
        return False


def _walked(guide: Guide, tokens: Sequence[int]) -> tuple[float, int]:
    """Microseconds a token of our guide along a text, and how many tokens were forced."""
    began_s, forced = time.perf_counter(), 0
    for token in tokens:
        forced += guide.forced is not None
        guide.allowed()
        guide = guide.after(token)
    return 1e6 * (time.perf_counter() - began_s) / len(tokens), forced


def _alone(stage: Stage, schema: str) -> Any:
    """A matcher of llguidance, with its own limits."""
    from llguidance import LLMatcher  # noqa: PLC0415  as in `Guides`

    grammar = LLMatcher.grammar_from_json_schema(schema, defaults=LAYOUT)
    return LLMatcher(stage.reader.guides.tokens(stage.eos_ids), grammar, log_level=0)


def _compiles_alone(stage: Stage, schema: Any) -> tuple[bool, float]:
    began_s = time.perf_counter()
    try:
        matcher = _alone(stage, json.dumps(schema))
    except ValueError:
        return False, 0.0
    return not matcher.is_error(), 1e3 * (time.perf_counter() - began_s)


def _walked_alone(stage: Stage, spec: GuideSpec, tokens: Sequence[int]) -> float:
    matcher = _alone(stage, spec.text)
    began_s = time.perf_counter()
    for token in tokens:
        matcher.compute_bitmask()
        matcher.consume_token(token)
    return 1e6 * (time.perf_counter() - began_s) / len(tokens)


def missed(report: SchemaReport) -> list[str]:
    """What is not as it must be."""
    found = [f"{row.name}: not valid" for row in report.rows if row.valid is False]
    found += [f"{row.name}: another text without forced tokens" for row in report.rows if not row.same]
    if report.cost is not None and report.cost > MOST_COST:
        found.append(f"masks cost {report.cost:.0%} of tokens a second; the bar is {MOST_COST:.0%}")
    if report.gain is not None and report.gain < LEAST_GAIN:
        found.append(f"forced tokens gain {report.gain:.2f} ×; the bar is {LEAST_GAIN} ×")
    if report.masked_same < report.masked_texts:
        found.append("a text under a guide that allows everything is another one")
    return found


def table(report: SchemaReport) -> str:
    """The report as Markdown."""
    rows, written = report.rows, report.written
    compiled = [row for row in rows if row.compiled]
    finished = [row for row in written if row.finished]
    alone = sum(row.alone for row in rows)
    lines = [
        f"`{report.draft}` at `{report.target}`, a vocabulary of {report.vocab_size:,}, loopback, `auto`, temperature "
        f"{TEMPERATURE:g}.",
        "", "| | here | llguidance alone |", "|---|---:|---:|",
        f"| schemas compiled, of {len(rows):,} | {len(compiled):,} ({len(compiled) / len(rows):.0%}) "
        f"| {alone:,} ({alone / len(rows):.0%}) |",
    ]  # fmt: skip
    if compiled:
        ours, theirs = (row.compile_ms for row in compiled), (row.alone_ms for row in compiled if row.alone)
        lines.append(f"| milliseconds to compile, median | {median(ours):.1f} | {median(theirs):.1f} |")
    if written:
        tokens = sum(row.tokens for row in written)
        ours_us = sum(row.walk_us * row.tokens for row in written) / tokens
        alone_us = sum(row.alone_us * row.tokens for row in written) / tokens
        lines += [
            f"| microseconds of a guide, a token | {ours_us:.0f} | {alone_us:.0f} |",
            "", "| | forced tokens | none forced |", "|---|---:|---:|",
            f"| tokens a target's forward | {_per(tokens, sum(row.forwards for row in written))} "
            f"| {_per(tokens, sum(row.unforced_forwards for row in written))} |",
            f"| seconds, relative | 1 | {report.gain:.2f} |",
            "",
            f"{len(written):,} texts of {tokens:,} tokens, of which {sum(row.forced for row in written) / tokens:.0%} "
            f"were forced. {len(finished):,} came to their end, and {sum(row.valid is True for row in finished):,} of "
            f"these keep to their schema. {sum(row.same for row in written):,} are the same without forced tokens.",
        ]  # fmt: skip
    if report.cost is not None:
        lines.append(
            f"A guide that allows everything costs {report.cost:.1%} of the tokens a second of {report.masked_texts} "
            f"texts, of which {report.masked_same} are the same."
        )
    return "\n".join(lines)


def _per(tokens: int, forwards: int) -> str:
    return f"{tokens / forwards:.2f}" if forwards else "–"


def run(
    encode: Encode, schemas: dict[str, tuple[str, Any]], tokens: int, report: SchemaReport, on_step: OnStep
) -> None:
    """Measure everything, into `report`. Raises: `BadParameterError` if what checks answers is not installed."""
    validator({})

    async def measure() -> None:
        async with bench(report.draft, report.target, report.threads, encode) as stage:
            await structured(stage, schemas, tokens, report, on_step)

    asyncio.run(measure())
