"""Many devices at one edge, in wall clock: the edge in a process of its own, batching or not, all devices in this one.

The edge runs the shipped target for real, at its own speed or slowed to a profile. The draft model's choices were
recorded, so a device drafts at once and costs this machine little: what is measured is the edge. Devices write under
`coupled`, in rounds, so that each asks for a verification as soon as it has the last verdict. Links are loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from airdraft import local
from airdraft.core import schemes
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.client import EdgeConnection
from airdraft.errors import BadParameterError, LinkError
from airdraft.lab.record import prompts, record
from airdraft.models.base import FloatArray, LanguageModel
from airdraft.models.registry import load

DEVICES = (1, 4, 16, 64)
PROFILES = ("none", "phone-8b")
OWN = "the models' own speed"
SECONDS = 6.0
"""Duration of each measurement, after all devices have begun."""
WARM_S = 1.5
"""Time before that, for all devices to connect and begin."""
PARAMS = SamplingParams(0.7)
DRAFT_LENGTH = 4
TEXTS, TOKENS = 16, 200
BAR, BAR_AT, BAR_PROFILE = 1.5, 16, "phone-8b"
"""Factor by which a batching edge must commit more than one that does not, at so many devices and at a profile whose
forwards take as long as a useful model's. Those of the shipped one take a millisecond, like the messages around
them."""


class SessionsRow(msgspec.Struct, frozen=True):
    """One measurement."""

    profile: str
    devices: int
    batched: bool
    tokens_per_s: float
    """Committed tokens of all devices together."""
    token_p50_ms: float
    """Wait between a token and the one before it, at the device; tokens of one commit share the wait."""
    token_p99_ms: float
    target_forwards_per_token: float
    """Texts in the engine's calls, divided by committed tokens."""
    identical: int
    """Texts that equal the recorded ones, to the token, up to where they were written."""
    texts: int


class Told:
    """A recorded draft model: its rows say what it chose at each position of the text being written."""

    name = "recorded draft"

    def __init__(self, like: LanguageModel) -> None:
        self.vocab_size, self.max_context, self.eos_ids = like.vocab_size, like.max_context, like.eos_ids
        self.choices: list[int] = []
        """From position 0 on; those within the prompt do not matter."""

    def new_cache(self) -> Any:
        """An empty cache: the position is all that is needed."""
        return None

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`. One token is certain, the others impossible."""
        logits = np.full((rows, self.vocab_size), -np.inf, np.float32)
        first = keep + len(tokens) - rows + 1
        for row, position in enumerate(range(first, first + rows)):
            logits[row, self.choices[position] if position < len(self.choices) else 0] = 0.0
        return logits


@dataclass(frozen=True)
class Work:
    """One text that devices write again and again."""

    prompt: list[int]
    seed: int
    tokens: list[int]
    """The target's tokens."""
    choices: list[int]
    """The draft model's choices, from position 0 on."""


def works(draft: LanguageModel, target: LanguageModel, vocab_size: int) -> list[Work]:
    """The longest of some texts of a pair. Takes seconds."""
    found = []
    for seed, prompt in enumerate(prompts(4 * TEXTS)):
        with contextlib.suppress(BadParameterError):  # too short
            [text] = record(draft, target, [prompt], PARAMS, TOKENS, seed, vocab_size, "").texts
            drafted = [
                token if match else (token + 1) % vocab_size
                for token, match in zip(text.tokens, text.matches, strict=True)
            ]
            found.append(Work(prompt, seed, text.tokens, [*prompt, *drafted]))
    return sorted(found, key=lambda work: -len(work.tokens))[:TEXTS]


class Tally:
    """A count of what devices report, while it is switched on."""

    def __init__(self) -> None:
        self.counting = False
        self.tokens = self.forwards = self.texts = self.identical = 0
        self.waits_s: list[float] = []
        self.began_s = self.took_s = 0.0

    @contextlib.asynccontextmanager
    async def devices(
        self, url: str, draft: LanguageModel, tokenizer: bytes, vocab_size: int, todo: Sequence[Work], count: int
    ) -> AsyncIterator[list[EdgeConnection]]:
        """Let so many devices write, each one text after another. Any device's fault is raised at the end."""
        async with contextlib.AsyncExitStack() as stack:
            tasks, clients = [], []
            for at in range(count):
                told = Told(draft)
                client = await EdgeConnection.connect(url, told, tokenizer, vocab_size)
                clients.append(await stack.enter_async_context(client))
                turns = itertools.islice(itertools.cycle(todo), at % len(todo), None)
                tasks.append(asyncio.create_task(_device(client, told, turns, self)))
            yield clients
            failed = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in failed:
                task.result()

    async def count(self, seconds: float) -> None:
        """Count for so many seconds, once all devices have begun."""
        await asyncio.sleep(WARM_S)
        self.counting, self.began_s = True, time.perf_counter()
        await asyncio.sleep(seconds)
        self.counting, self.took_s = False, time.perf_counter() - self.began_s
        self.check(seconds)

    def check(self, seconds: float) -> None:
        """Check that there is something to speak of. Raises: `LinkError` if no token came in so many seconds."""
        if seconds and not self.tokens:
            raise LinkError(f"no device wrote a token in {seconds:g} s, so nothing was measured; free the machine")

    @property
    def tokens_per_s(self) -> float:
        """Tokens/s of all devices together."""
        return self.tokens / self.took_s

    def wait_ms(self, percentile: float) -> float:
        """A percentile of the waits between tokens."""
        return float(1e3 * np.percentile(self.waits_s, percentile))


async def _device(client: EdgeConnection, told: Told, todo: Iterator[Work], tally: Tally) -> None:
    """Write text after text, until cancelled."""
    for work in todo:
        told.choices = work.choices
        counts, written, last_s, forwards = Counts(), list[int](), time.perf_counter(), 0
        request = Request(
            work.prompt, SchemeSpec(schemes.COUPLED), PARAMS, work.seed, len(work.tokens), DRAFT_LENGTH, counts=counts
        )
        async for event in client.write(request):
            if not isinstance(event, Committed):
                continue
            now_s = time.perf_counter()
            if tally.counting and written:  # the first token waits for the prompt
                tally.tokens += len(event.tokens)
                tally.forwards += counts.forwards - forwards
                tally.waits_s += [(now_s - last_s) / len(event.tokens)] * len(event.tokens)
            forwards, last_s = counts.forwards, now_s
            written += event.tokens
        if tally.counting:
            tally.texts += 1
            tally.identical += written == work.tokens


async def measure(
    draft: LanguageModel, tokenizer: bytes, vocab_size: int, todo: Sequence[Work], devices: int, batched: bool,
    profile_name: str,
) -> SessionsRow:  # fmt: skip
    """Measure one row."""
    tally = Tally()
    options = () if batched else ("--max-batch", "1")
    async with (
        local.edge("target", profile_name, options=options) as url,
        tally.devices(url, draft, tokenizer, vocab_size, todo, devices),
    ):
        await tally.count(SECONDS)
    return SessionsRow(
        profile_name, devices, batched, tally.tokens_per_s, tally.wait_ms(50), tally.wait_ms(99),
        tally.forwards / tally.tokens, tally.identical, tally.texts,
    )  # fmt: skip


async def sessions(on_row: Callable[[SessionsRow], None] = lambda _: None) -> list[SessionsRow]:
    """Measure every row."""
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    todo = works(draft, target, tokenizer.vocab_size)
    found = []
    for profile_name, devices, batched in itertools.product(PROFILES, DEVICES, (False, True)):
        found.append(await measure(draft, tokenizer.digest, tokenizer.vocab_size, todo, devices, batched, profile_name))
        on_row(found[-1])
    return found


def gain(rows: Sequence[SessionsRow], profile_name: str, devices: int = BAR_AT) -> float:
    """Tokens/s of the batching edge divided by those of the other."""
    speed = {row.batched: row.tokens_per_s for row in rows if (row.profile, row.devices) == (profile_name, devices)}
    return speed[True] / speed[False]


def held(rows: Sequence[SessionsRow]) -> bool:
    """Whether batching gains as much as it must, and texts were completed, all of them the target's."""
    right = all(row.identical == row.texts for row in rows) and any(row.texts for row in rows)
    return gain(rows, BAR_PROFILE) >= BAR and right


def table(rows: Sequence[SessionsRow]) -> str:
    """The rows as Markdown."""
    lines = [
        "| compute | devices | batched | tokens/s, all devices | ms a token, p50 | p99 | target forwards a token |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        compute = "the models' own" if row.profile == "none" else f"imitated, `{row.profile}`"
        lines.append(
            f"| {compute} | {row.devices} | {'yes' if row.batched else 'no'} | {row.tokens_per_s:.0f} "
            f"| {row.token_p50_ms:.1f} | {row.token_p99_ms:.1f} | {row.target_forwards_per_token:.2f} |"
        )
    gains = {name: gain(rows, name) for name in dict.fromkeys(row.profile for row in rows)}
    told = ", ".join(f"{OWN if name == 'none' else name}: {value:.2f}" for name, value in gains.items())
    verdict = f"bar {BAR:g} with {BAR_PROFILE}" + (
        f": {'kept' if gains[BAR_PROFILE] >= BAR else 'MISSED'}" if BAR_PROFILE in gains else ""
    )
    right, texts = sum(row.identical for row in rows), sum(row.texts for row in rows)
    return "\n".join([
        *lines, "", f"Batching by not batching at {BAR_AT} devices: {told} ({verdict}). {right} of {texts} texts "
        "were the target's own, to the token.",
    ])  # fmt: skip
