"""Chats with the chat pair, in wall clock: a token in every way to write it, acceptance, a second turn, memory.

Edge and device are processes of their own, asked over HTTP. The ways take turns text by text, so that other work on the
machine affects all alike. What the target writes alone, in this process, is what each of them must write; llama.cpp
draws with noise of its own, and writes as many tokens as that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
import urllib3

from airdraft import local
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import SERVER
from airdraft.errors import LinkError
from airdraft.lab.wall.chat_prompts import PROMPTS
from airdraft.lab.wall.memory import resident_bytes
from airdraft.models.base import LanguageModel, LocalEngine
from airdraft.models.files.fetch import chat_target
from airdraft.models.fit import Fit
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer
from airdraft.sim import alone

TARGET, DRAFT = "chat-target", "chat-draft"
TEMPERATURE = 0.7
"""Of texts that are timed, and of histories."""
TEMPERATURES = (TEMPERATURE, 1.0)
"""At which acceptance is measured."""
TOKENS, LONG = 48, 160
"""Most tokens of a text that is timed, and of one along which acceptance at `TEMPERATURE` is measured."""
FEWEST = 8
"""A text is timed if so many tokens or more follow its first piece."""
HISTORY, HISTORIES, ANSWER = 2000, 3, 16
"""Tokens of the history before a first turn, how many histories there are, and tokens of their answers."""
MOST_RATIO, MOST_TURN, LEAST_ACCEPTANCE = 1.15, 0.1, 0.63
"""Bars: a token by the edge's API against llama.cpp, the wait of a second turn against the first's, and the share of
drafts that are accepted at `TEMPERATURE`."""
MOST_MB = {"edge": 450.0, "device": 250.0}
"""Bars of the memory that each process has resident when it has started and written nothing yet."""
PATIENCE_S = 120.0

LLAMA, OURS, EDGE, DEVICE, DEVICE_AUTO = "llamacpp", "ours_engine", "edge_api", "device_server", "device_auto"
WAYS = {
    LLAMA: "llama.cpp, in process",
    OURS: "our engine, in process",
    EDGE: "edge, over HTTP",
    DEVICE: "device, the edge writes (`server`)",
    DEVICE_AUTO: "device, `auto`",
}

Messages = list[dict[str, str]]
Render = Callable[[Messages], list[int]]
"""A function from messages to the ids of a prompt: the target's chat template."""
OnStep = Callable[[int, int], None]
"""A function that gets what is done, and of how many."""
Done = Callable[[], Awaitable[None]]


class Took(NamedTuple):
    """How long a text took."""

    first_s: float
    """Until its first piece."""
    rest_s: float
    """From there to its end."""
    tokens: int
    """Tokens that came in that time."""


class ChatReport(msgspec.Struct):
    """What was measured so far."""

    threads: int | None = None
    """Of the target, here and at the edge, and of llama.cpp. None: not chosen yet."""
    texts: int = 0
    max_tokens: int = TOKENS
    ms_per_token: dict[str, float | None] = msgspec.field(
        default_factory=lambda: dict[str, float | None].fromkeys(WAYS)
    )
    """By way, after the first piece of a text: the median of texts. None: not measured."""
    first_piece_ms: dict[str, float | None] = msgspec.field(
        default_factory=lambda: dict[str, float | None].fromkeys(WAYS)
    )
    """Until the first piece: the median of texts."""
    identical: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys((EDGE, DEVICE, DEVICE_AUTO), 0))
    """Texts that equal the target's alone."""
    acceptance: dict[str, float] = msgspec.field(default_factory=dict)
    """By temperature: the share of the target's own tokens that the draft chooses with the same noise."""
    accepted_of: dict[str, int] = msgspec.field(default_factory=dict)
    """By temperature: of how many tokens."""
    second_turn_ttft_ratio: float | None = None
    """The wait for the first piece of a second turn, divided by that of the first: the median of histories, over the
    edge's API or over a device, whichever is larger."""
    memory_mb: dict[str, float | None] = msgspec.field(
        default_factory=lambda: dict[str, float | None].fromkeys(MOST_MB)
    )
    """Resident when started. None: this system does not say."""
    memory_after_mb: dict[str, float | None] = msgspec.field(default_factory=dict)
    """Resident at the end, with what is kept of the texts for others that begin alike."""
    notes: list[str] = msgspec.field(default_factory=list)
    complete: bool = False


class _Api:
    """A client of an API whose answers are streamed."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/chat/completions"
        self._http = urllib3.PoolManager(retries=False)

    def ask(self, messages: Messages, seed: int, most: int, **more: str) -> tuple[str, str, float, float]:
        """The text, its first piece, and the seconds to that piece and from there to the end. Raises: `LinkError`."""
        body = {
            "messages": messages, "temperature": TEMPERATURE, "top_p": 1, "seed": seed, "max_tokens": most,
            "stream": True, **more,
        }  # fmt: skip
        began_s, first_s, pieces = time.perf_counter(), 0.0, []
        try:
            answer = self._http.request("POST", self._url, json=body, preload_content=False, timeout=PATIENCE_S)
            with contextlib.closing(answer):
                for event in _events(answer):
                    choice = event["choices"][0]
                    if piece := choice["delta"].get("content"):
                        first_s = first_s or time.perf_counter()
                        pieces.append(piece)
                    if choice["finish_reason"]:
                        ended_s = time.perf_counter()
                        return "".join(pieces), pieces[0] if pieces else "", first_s - began_s, ended_s - first_s
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, IndexError) as problem:
            raise LinkError(
                f"{self._url} did not answer as such an API does ({problem}); run the bench again"
            ) from problem
        raise LinkError(f"{self._url} ended an answer early; run the bench again")


def _events(answer: urllib3.BaseHTTPResponse) -> Iterator[dict[str, Any]]:
    """What the lines of an answer hold. Raises: `LinkError` if that is an error."""
    if answer.status != 200:
        raise LinkError(f"an API refused a text ({answer.data[:200].decode(errors='replace')})")
    for line in answer:
        if line.startswith(b"data: {"):
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise LinkError(f"an API gave a text up ({event['error'].get('message')})")
            yield event


class _LlamaCpp:
    """llama-cpp-python in this process, on the file of the target as it is."""

    def __init__(self, file: Path, threads: int) -> None:
        import llama_cpp  # noqa: PLC0415  # an extra

        self._llama = llama_cpp.Llama(str(file), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)

    def write(self, prompt: list[int], tokens: int) -> Took:
        """Write so many tokens, whatever they are."""
        writing = self._llama.generate(
            prompt, temp=TEMPERATURE, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, repeat_penalty=1.0
        )
        began_s = time.perf_counter()
        next(writing)
        first_s = time.perf_counter()
        for _ in itertools.islice(writing, tokens - 1):
            pass
        return Took(first_s - began_s, time.perf_counter() - first_s, tokens - 1)


@dataclass
class _Ways:
    """Everything that writes."""

    target: LanguageModel
    tokenizer: Tokenizer
    render: Render
    edge: _Api
    device: _Api
    llama: _LlamaCpp | None

    def truth(self, prompt: list[int], temperature: float, seed: int) -> tuple[list[int], Took]:
        """What the target alone writes, in this process; the time is that of its first `TOKENS`."""
        most = LONG if temperature == TEMPERATURE else TOKENS
        params, vocab = SamplingParams(temperature), self.tokenizer.vocab_size
        writing = alone.write(self.target, prompt, params, seed, most, vocab)
        began_s = time.perf_counter()
        tokens = [next(writing)]
        first_s = time.perf_counter()
        tokens += itertools.islice(writing, TOKENS - 1)
        took = Took(first_s - began_s, time.perf_counter() - first_s, len(tokens) - 1)
        return [*tokens, *writing], took

    def over_http(self, way: str, question: str, seed: int, tokens: list[int]) -> tuple[bool, Took]:
        """Whether the text is that of `tokens`, and its times."""
        api = self.edge if way == EDGE else self.device
        more = {"scheme": SERVER} if way == DEVICE else {}
        text, piece, first_s, rest_s = api.ask(_asked(question), seed, TOKENS, **more)
        return text == self.tokenizer.decode(tokens), Took(first_s, rest_s, len(tokens) - self._begun(tokens, piece))

    def _begun(self, tokens: list[int], piece: str) -> int:
        """How many of `tokens` a first piece holds."""
        decoder, text = self.tokenizer.stream(), ""
        for count, token in enumerate(tokens, start=1):
            text += decoder.push(token)
            if len(text) >= len(piece):
                return count
        return len(tokens)


def _asked(question: str) -> Messages:
    return [{"role": "user", "content": question}]


async def chat(render: Render, report: ChatReport, on_step: OnStep) -> None:
    """Measure everything, into `report`. Threads that it leaves open are those that a trial of the target chooses."""
    of = len(PROMPTS) * (len(WAYS) + 1) + 2 * HISTORIES
    steps = itertools.count(1)

    async def done() -> None:
        on_step(next(steps), of)
        await asyncio.sleep(0)  # Ctrl-C is noticed here

    target, tokenizer = load(TARGET, fit=Fit(report.threads), steady=True)
    draft, _ = load(DRAFT)
    known = target.info.threads if isinstance(target, LocalEngine) else None
    threads = report.threads = report.threads or (known.count if known is not None else 1)
    llama = None
    if find_spec("llama_cpp"):
        llama = _LlamaCpp(chat_target(), threads)
    else:
        report.notes.append("llama.cpp is left out: llama-cpp-python is not installed (airdraft[llamacpp]).")
    async with (
        local.serving(TARGET, "none", ("--api-port", "0", "--threads", str(threads))) as edge,
        local.device(edge["url"], ("--draft", DRAFT)) as device,
    ):
        pids = {"edge": edge["pid"], "device": device["pid"]}
        report.memory_mb = {name: _resident_mb(pid) for name, pid in pids.items()}
        ways = _Ways(target, tokenizer, render, _Api(edge["api"]), _Api(device["url"]), llama)
        truths = await _texts(ways, draft, report, done)
        await _turns(ways, truths, report, done)
        report.memory_after_mb = {name: _resident_mb(pid) for name, pid in pids.items()}
    report.complete = True


def _resident_mb(pid: int) -> float | None:
    found = resident_bytes(pid)
    return None if found is None else found / 1e6


async def _texts(ways: _Ways, draft: LanguageModel, report: ChatReport, done: Done) -> list[list[int]]:
    """Write every text in every way. Returns: the target's own, at `TEMPERATURE`."""
    took: dict[str, list[Took]] = {way: [] for way in WAYS}
    agreed: dict[str, list[bool]] = {str(temperature): [] for temperature in TEMPERATURES}
    truths, vocab = [], ways.tokenizer.vocab_size
    for seed, (_, question) in enumerate(PROMPTS):
        prompt = ways.render(_asked(question))
        for temperature in TEMPERATURES:
            tokens, own = ways.truth(prompt, temperature, seed)
            await done()
            params = SamplingParams(temperature)
            agreed[str(temperature)] += alone.agreeing(draft, prompt, tokens, params, seed, vocab)
            if temperature == TEMPERATURE:
                truths.append(tokens[:TOKENS])
                took[OURS].append(own)
        others = [way for way in WAYS if way != OURS]
        for way in others[seed % len(others) :] + others[: seed % len(others)]:
            if way != LLAMA:
                same, taken = ways.over_http(way, question, seed, truths[-1])
                report.identical[way] += same
                took[way].append(taken)
            elif ways.llama is not None:
                took[way].append(ways.llama.write(prompt, len(truths[-1])))
            await done()
        report.texts += 1
        report.acceptance = {name: sum(found) / len(found) for name, found in agreed.items()}
        report.accepted_of = {name: len(found) for name, found in agreed.items()}
        report.ms_per_token = {way: _ms_per_token(found) for way, found in took.items()}
        report.first_piece_ms = {
            way: 1e3 * median(each.first_s for each in found) if found else None for way, found in took.items()
        }
    return truths


def _ms_per_token(found: Sequence[Took]) -> float | None:
    timed = [1e3 * each.rest_s / each.tokens for each in found if each.tokens >= FEWEST]
    return median(timed) if timed else None


async def _turns(ways: _Ways, truths: Sequence[list[int]], report: ChatReport, done: Done) -> None:
    """Ask after long histories, and once more; each history is new to the edge and to the device."""
    ratios: dict[str, list[float]] = {EDGE: [], DEVICE_AUTO: []}
    apis = {EDGE: ways.edge, DEVICE_AUTO: ways.device}
    for number, (at, way) in enumerate(itertools.product(range(HISTORIES), ratios)):
        messages = _history(ways, truths, at * len(PROMPTS) // HISTORIES, f"This is talk number {number}.")
        waits = []
        for question in ("Which of my questions was the hardest?", "And which one was the easiest?"):
            messages += _asked(question)
            text, _, first_s, _ = apis[way].ask(messages, number, ANSWER)
            messages.append({"role": "assistant", "content": text})
            waits.append(first_s)
        ratios[way].append(waits[1] / waits[0])
        report.second_turn_ttft_ratio = max(median(each) for each in ratios.values() if each)
        await done()


def _history(ways: _Ways, truths: Sequence[list[int]], start: int, system: str) -> Messages:
    """Questions with the target's answers to them, `HISTORY` tokens or a little more in all."""
    messages: Messages = [{"role": "system", "content": system}]
    for at in itertools.islice(itertools.cycle(range(len(truths))), start, None):
        messages += _asked(PROMPTS[at][1])
        messages.append({"role": "assistant", "content": ways.tokenizer.decode(truths[at])})
        if len(ways.render(messages)) >= HISTORY:
            return messages
    return messages


def missed(report: ChatReport) -> list[str]:
    """The bars that are not kept, in words."""
    found = []
    ours, theirs = report.ms_per_token[EDGE], report.ms_per_token[LLAMA]
    if ours is not None and theirs is not None and ours > MOST_RATIO * theirs:
        found.append(f"a token by the edge's API takes {ours / theirs:.2f} × llama.cpp's, bar {MOST_RATIO:g}")
    ratio = report.second_turn_ttft_ratio
    if ratio is not None and ratio > MOST_TURN:
        found.append(f"a second turn waits {ratio:.2f} × as long as the first, bar {MOST_TURN:g}")
    share = report.acceptance.get(str(TEMPERATURE))
    if share is not None and share < LEAST_ACCEPTANCE:
        found.append(f"acceptance at temperature {TEMPERATURE:g} is {share:.3f}, bar {LEAST_ACCEPTANCE:g}")
    for name, most in MOST_MB.items():
        memory = report.memory_mb[name]
        if memory is not None and memory > most:
            found.append(f"an idle {name} takes {memory:.0f} MB, bar {most:.0f}")
    for way, count in report.identical.items():
        if count < report.texts:
            found.append(f"{report.texts - count} of {report.texts} texts of {way} are not the target's own")
    if not report.complete:
        found.append("the run did not come to its end")
    return found


def table(report: ChatReport) -> str:
    """The report as Markdown."""
    lines = [
        f"The chat pair, {report.texts} requests of six kinds, temperature {TEMPERATURE:g}, at most "
        f"{report.max_tokens} tokens each, threads of the target: {report.threads}; medians of texts. "
        "Edge and device are processes, asked over HTTP; all ways take turns.",
        "",
        "| way | ms a token | × llama.cpp | first piece after, ms | the target's own text |",
        "|---|---:|---:|---:|---:|",
    ]
    base = report.ms_per_token[LLAMA]
    for way, what in WAYS.items():
        each, first = report.ms_per_token[way], report.first_piece_ms[way]
        against = f"{each / base:.2f}" if each is not None and base is not None else ""
        same = f"{report.identical[way]} of {report.texts}" if way in report.identical else ""
        shown = ["" if value is None else f"{value:.1f}" for value in (each, first)]
        lines.append(f"| {what} | {shown[0]} | {against} | {shown[1]} | {same} |")
    accepted = ", ".join(
        f"{share:.3f} at temperature {name} ({report.accepted_of[name]:,} tokens)"
        for name, share in report.acceptance.items()
    )
    lines += ["", f"Acceptance, the share of the target's own tokens that the draft would have chosen: {accepted}."]
    if report.second_turn_ttft_ratio is not None:
        lines.append(
            f"A second turn, after a history of {HISTORY:,} tokens, waits {report.second_turn_ttft_ratio:.3f} × as "
            "long for its first piece as the first turn."
        )
    memory = [
        f"{name} {value:.0f} MB idle" + (f", {after:.0f} MB after the texts" if after is not None else "")
        for name, value in report.memory_mb.items()
        if value is not None
        for after in [report.memory_after_mb.get(name)]
    ]
    if memory:
        lines.append(f"Memory: {'; '.join(memory)}.")
    lines += report.notes
    failed = missed(report)
    lines += ["", f"Bars: {'MISSED: ' + '; '.join(failed) if failed else 'kept'}."]
    return "\n".join(lines)
