"""The plain loop and other programs that decode speculatively: same weights, prompts and draft length, greedy.

All write each text in turn, and speeds are compared text by text. The time of a text is that of its prompt and its
tokens, in a program that has started: Transformers runs in this process, and llama.cpp's own example prints what it
took. Each has one thread.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, ModelError
from airdraft.lab.record import prompts
from airdraft.lab.wall.engines import DEFAULT, THREADS, Models, OnStep
from airdraft.models.base import LanguageModel
from airdraft.models.files.folder import shipped
from airdraft.models.fit import Fit
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer
from airdraft.sim import alone, together

GREEDY = SamplingParams(0)
LENGTH = 5
TOKENS = 64
TEXTS, TURNS = 12, 2
_PATIENCE_S = 120
_TRIES = 20
_SPEED = r"{} +(\d+) tokens in +[\d.]+ seconds, speed: +([\d.]+) t/s"


class PeerRow(msgspec.Struct, frozen=True):
    """One engine of airdraft beside one peer."""

    peer: str
    ours_engine: str
    ours_tokens_per_s: float
    peer_tokens_per_s: float
    ratio: float
    """Our speed divided by theirs: the median of paired texts."""
    identical: int
    texts: int


class Compared(msgspec.Struct, frozen=True):
    """All rows, and the reasons why others are missing."""

    peers: list[PeerRow]
    notes: list[str]


class Written(NamedTuple):
    """One text: its characters, its number of tokens, and the seconds they took."""

    text: str
    tokens: int
    seconds: float


Writer = Callable[[list[int]], Written]
"""A function that writes after a prompt."""


def ours(draft: LanguageModel, target: LanguageModel, tokenizer: Tokenizer) -> Writer:
    """The loop of `together.write`."""

    def write(prompt: list[int]) -> Written:
        began = time.perf_counter()
        rounds = list(together.write(draft, target, prompt, GREEDY, 0, TOKENS, LENGTH, tokenizer.vocab_size))
        took_s = time.perf_counter() - began
        tokens = [token for each in rounds for token in each]
        return Written(tokenizer.decode(tokens), len(tokens), took_s)

    return write


def assisted_generation(tokenizer: Tokenizer, *, own_length: bool = False) -> Writer:
    """Transformers' `generate` with an assistant, whose draft length is ours, or the one that it adapts by default."""
    import torch  # noqa: PLC0415  # an extra
    import transformers  # noqa: PLC0415

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    target, draft = (
        transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)
        for path in (shipped("target"), shipped("draft"))
    )
    if not own_length:
        draft.generation_config.num_assistant_tokens = LENGTH
        draft.generation_config.num_assistant_tokens_schedule = "constant"
        draft.generation_config.assistant_confidence_threshold = 0.0

    def write(prompt: list[int]) -> Written:
        ids = torch.tensor([prompt])
        began = time.perf_counter()
        whole = target.generate(
            ids, attention_mask=torch.ones_like(ids), assistant_model=draft, do_sample=False, max_new_tokens=TOKENS
        )
        took_s = time.perf_counter() - began
        tokens = whole[0, len(prompt) :].tolist()
        return Written(tokenizer.decode(tokens), len(tokens), took_s)

    return write


def llama_speculative(program: Path, models: Models, tokenizer: Tokenizer) -> Writer:
    """llama.cpp's example `llama-speculative-simple`, with keys, values and attention in fp32 like ours."""
    words = [
        str(program.resolve()), "-m", models.target, "-md", models.draft, "--spec-type", "draft-simple",
        "--spec-draft-n-max", str(LENGTH), "-n", str(TOKENS), "--temp", "0", "--top-k", "1", "--seed", "1",
        "-t", str(THREADS), "-td", str(THREADS), "-c", "1024", "-ctk", "f32", "-ctv", "f32", "-fa", "off",
        "--no-escape",
    ]  # fmt: skip

    def write(prompt: list[int]) -> Written:
        head = tokenizer.decode(prompt)
        said, log = _run(program, [*words, "-p", head])
        for _ in range(_TRIES):
            if re.search(_SPEED.format("decoded"), said + log):
                break
            # It logs in a thread, and on a busy machine may end before that has written: seen in one of three runs.
            said, log = _run(program, [*words, "-p", head])
        return read(said, log, head, str(program))

    return write


def _run(program: Path, words: Sequence[str]) -> tuple[str, str]:
    """Run it. Returns its standard output and error. Raises: `ModelError` if it does not run, or fails."""
    try:
        ended = subprocess.run(words, capture_output=True, timeout=_PATIENCE_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise ModelError(f"{program} does not run ({problem}); give a llama-speculative-simple built here") from problem
    said, log = (stream.decode(errors="replace") for stream in (ended.stdout, ended.stderr))
    if ended.returncode != 0:
        last = (log.strip() or "it does not say why").splitlines()[-1]
        raise ModelError(f"{program} ended with code {ended.returncode} ({last}); build llama.cpp of 2026 or later")
    return said, log


def read(said: str, log: str, head: str, program: str) -> Written:
    """Read what `program` wrote after the prompt `head` from its standard output and error.

    Raises: `ModelError` if it prints neither as llama-speculative-simple does.
    """
    found = [re.search(_SPEED.format(word), said + log) for word in ("encoded", "decoded")]
    _, begun, text = said.partition(head)
    if not all(found) or not begun:
        raise ModelError(
            f"{program} printed no text after the prompt or no `encoded` and `decoded ... tokens in ... seconds, "
            "speed: ... t/s`; give llama-speculative-simple of a llama.cpp of 2026"
        )
    (encoded, prompt_speed), (decoded, speed) = (match.groups() for match in found if match)
    if not float(prompt_speed) or not float(speed):
        raise ModelError(f"{program} printed a speed of 0; run it again")
    # Its seconds are rounded to milliseconds, its speeds are not.
    return Written(text, int(decoded), int(encoded) / float(prompt_speed) + int(decoded) / float(speed))


def compare(
    peer: str, theirs: Writer, loops: Mapping[str, Writer], heads: Sequence[list[int]], on_step: OnStep
) -> list[PeerRow]:
    """Let all write after every prompt, in turn. Returns a row for each of our `loops`, by engine."""
    writers = {**loops, peer: theirs}
    written: dict[str, list[Written]] = {name: [] for name in writers}
    for write in writers.values():
        write(heads[0])  # the first is slower
    for turn in range(TURNS):
        for at, head in enumerate(heads):
            for name in writers if turn % 2 == 0 else reversed(writers):
                written[name].append(writers[name](head))
            on_step(turn * len(heads) + at + 1, TURNS * len(heads))
    return [_row(peer, engine, written[engine], written[peer]) for engine in loops]


def _row(peer: str, engine: str, own: Sequence[Written], theirs: Sequence[Written]) -> PeerRow:
    pairs = list(zip(own, theirs, strict=True))
    ratios = [mine.tokens / mine.seconds / (other.tokens / other.seconds) for mine, other in pairs]
    # llama.cpp finishes its last round, and so writes a few tokens more. Half a character may end our text.
    same = sum(other.text.startswith(mine.text.rstrip("\N{REPLACEMENT CHARACTER}")) for mine, other in pairs)
    return PeerRow(peer, engine, _tokens_per_s(own), _tokens_per_s(theirs), median(ratios), same, len(pairs))


def _tokens_per_s(written: Sequence[Written]) -> float:
    return sum(each.tokens for each in written) / sum(each.seconds for each in written)


def full_texts(target: LanguageModel, vocab_size: int) -> list[list[int]]:
    """Prompts after which the target's greedy text does not end early, so that all write `TOKENS`."""
    found: list[list[int]] = []
    for prompt in prompts(4 * TEXTS):
        if len(found) < TEXTS and len(list(alone.write(target, prompt, GREEDY, 0, TOKENS, vocab_size))) == TOKENS:
            found.append(prompt)
    return found


def peers(
    here: Mapping[str, Models], llama_program: Path | None = None, on_step: OnStep = lambda done, of: None
) -> Compared:
    """Compare our loops on the engines `here` (see `installed`) with each peer that can run here.

    llama_program: llama.cpp's llama-speculative-simple; None leaves it out.
    """
    if llama_program is not None and not llama_program.is_file():
        raise BadParameterError(f"there is no program {llama_program}; give the path of llama-speculative-simple")
    rows, notes = list[PeerRow](), list[str]()
    loops, tokenizer = {}, Tokenizer(shipped("target"))
    for engine, models in here.items():
        draft, target = (load(name, engine=engine, fit=Fit(THREADS))[0] for name in (models.draft, models.target))
        loops[engine] = ours(draft, target, tokenizer)
    heads = full_texts(load("target", engine=DEFAULT)[0], tokenizer.vocab_size)

    def against(peer: str, theirs: Writer, engine: str) -> None:
        rows.extend(compare(peer, theirs, {name: loops[name] for name in (engine, DEFAULT)}, heads, on_step))

    if "hf" in here:
        peer = "transformers, assisted generation"
        against(f"{peer}, draft length {LENGTH}", assisted_generation(tokenizer), "hf")
        against(f"{peer}, its own draft length", assisted_generation(tokenizer, own_length=True), "hf")
    else:
        notes.append("Transformers is left out: it is not installed (airdraft[hf]).")
    if llama_program is None:
        notes.append("llama.cpp's own loop is left out: --llama-speculative names no program.")
    elif "llamacpp" not in here:
        notes.append("llama.cpp's own loop is left out: its files cannot be written (airdraft[llamacpp]).")
    else:
        against("llama-speculative-simple", llama_speculative(llama_program, here["llamacpp"], tokenizer), "llamacpp")
    return Compared(rows, notes)


def table(compared: Compared) -> str:
    """The rows as Markdown."""
    lines = [
        f"Greedy, fp32, {THREADS} thread, draft length {LENGTH}, {TOKENS} tokens, prompts included, start-up not. "
        "The ratio is the median of paired texts.",
        "",
    ]
    if compared.peers:
        lines += [
            "| peer | our engine | ours, tokens/s | peer, tokens/s | ratio | identical texts |",
            "|---|---|---:|---:|---:|---:|",
        ]
    for row in compared.peers:
        lines.append(
            f"| {row.peer} | {row.ours_engine} | {row.ours_tokens_per_s:.0f} | {row.peer_tokens_per_s:.0f} "
            f"| {row.ratio:.2f} | {row.identical} of {row.texts} |"
        )
    slower = [f"{row.ours_engine} than {row.peer}" for row in compared.peers if row.ratio < 1]
    if compared.peers:
        lines += ["", f"Slower: {'; '.join(slower) or 'nowhere'}."]
    return "\n".join([*lines, *compared.notes])
