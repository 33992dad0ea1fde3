"""What a replay needs to know of the two models, recorded once.

Which token the target writes next depends on no link and no clock, so a text is written once and then replayed over
any link, in virtual time, as often as one likes. Beside the tokens a replay needs what would have become of a draft at
each position, given the text before it. That takes one forward of each model over the whole text, each position scored
with the true text before it (teacher forcing).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from airdraft.core.bits import lattice
from airdraft.core.law import Law, Place
from airdraft.core.noise import FloatArray
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.base import FloatArray as Rows
from airdraft.models.base import LanguageModel
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer
from airdraft.sim.alone import write

TOP_K, RESOLUTION = 64, 240
"""How many draft tokens travel with `topk` and `lattice`, and the sum of `lattice`'s weights, as in `SchemeSpec`."""
MIN_TOKENS = 8
"""A text that ends sooner says little about a link and is dropped."""
MAX_PROMPT = 48
"""A longer prompt is cut to its first tokens."""

_DECIMALS = 6
_SYNTHETIC_PROMPT = 32


class RecordedText(msgspec.Struct, frozen=True):
    """One text of the target, and what a draft at each of its positions would have met. All lists are as long as it."""

    prompt_length: int
    tokens: list[int]
    """What the target writes by itself for its seed."""
    matches: list[bool]
    """Whether the draft model, with the same noise, chooses that very token (`coupled`)."""
    accept: list[float]
    """1 - TV(draft, target) = Σ min(target_probs, draft_probs): rejection sampling accepts with this probability
    (Leviathan, Kalman, Matias 2023, corollary 3.6)."""
    accept_topk: list[float]
    """The same with the draft's distribution cut to its `TOP_K` likeliest tokens and renormalised (`topk`)."""
    accept_lattice: list[float]
    """The same with that cut distribution rounded to integers that sum to `RESOLUTION` (`lattice`)."""
    draft_prob: list[float]
    """The draft model's probability of its own choice."""
    entropy: list[float]
    """Of the draft model's distribution, in nats."""
    support: list[int]
    """Tokens of nonzero target probability: the length of the row that `split` sends down."""
    near_ties: int = 0
    """Positions where the one long forward chooses another token than the forwards that wrote the text did: two
    candidates closer than the engine's rounding. The written token is the one recorded."""
    prompt: list[int] = []
    """What stood before it, `prompt_length` ids, for those who look there. Empty: not recorded."""
    seed: int | None = None
    """What it was drawn with. None: not recorded, or it was never drawn."""

    def chances(self, options: Sequence[str]) -> list[float]:
        """Return the acceptance of a scheme that rejects, by the options that it has."""
        return self.accept_lattice if "resolution" in options else self.accept_topk if "k" in options else self.accept

    def __post_init__(self) -> None:
        if self.prompt and len(self.prompt) != self.prompt_length:
            raise BadParameterError("a recorded prompt has another length than the text says; record it again")
        accept = (self.accept, self.accept_topk, self.accept_lattice)
        lists = (self.matches, *accept, self.draft_prob, self.entropy, self.support)
        if not self.tokens or any(len(values) != len(self.tokens) for values in lists):
            raise BadParameterError("a recorded text is empty, or its lists differ in length; record it again")


class Recording(msgspec.Struct, frozen=True):
    """Texts written with the same parameters."""

    name: str
    params: SamplingParams
    vocab_size: int
    texts: list[RecordedText]

    @property
    def length(self) -> int:
        """Tokens in all texts."""
        return sum(len(text.tokens) for text in self.texts)

    @property
    def acceptance(self) -> float:
        """The share of positions where the draft's coupled choice is the target's."""
        return sum(sum(text.matches) for text in self.texts) / self.length

    @property
    def near_ties(self) -> int:
        """Positions of all texts that rounding may decide."""
        return sum(text.near_ties for text in self.texts)

    def longest(self, count: int) -> Recording:
        """Return it with its `count` longest texts, longest first: many of a small model's end too early to say much of
        a link."""
        return msgspec.structs.replace(self, texts=sorted(self.texts, key=lambda text: -len(text.tokens))[:count])

    def save(self, path: Path) -> None:
        """Write it as JSON, a match as 1 and none as 0."""
        plain = msgspec.to_builtins(self)
        for text in plain["texts"]:
            text["matches"] = [int(match) for match in text["matches"]]
        path.write_bytes(msgspec.json.encode(plain) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `save` wrote. Raises `BadParameterError` if the file is missing or no recording."""
        try:
            recording = msgspec.json.decode(path.read_bytes(), type=cls, strict=False)  # 0 and 1 are bools
        except OSError as problem:
            raise BadParameterError(f"cannot read the recording {path}: {problem.strerror or problem}") from problem
        except ValueError as problem:  # broken JSON, broken UTF-8 and whatever does not fit the types
            raise BadParameterError(f"{path} is no recording ({problem}); record it again") from problem
        if not recording.texts:
            raise BadParameterError(f"{path} holds no text; record it again")
        return recording


def record(
    draft: LanguageModel,
    target: LanguageModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    max_tokens: int,
    seed: int,
    vocab_size: int,
    name: str,
) -> Recording:
    """Write the target's text after each prompt, text i with the seed `seed + i`, and score both models along it.

    `vocab_size` is how many tokens there are; a model may score more, padding. Texts end at an end-of-text token, and
    those of fewer than `MIN_TOKENS` are dropped. Raises `BadParameterError` if none is left, or a model scores fewer
    than `vocab_size` tokens.
    """
    for model in (draft, target):
        if model.vocab_size < vocab_size:
            raise BadParameterError(
                f"{model.name} scores {model.vocab_size} tokens of {vocab_size}; take a pair that shares one vocabulary"
            )
    texts = []
    for at, prompt in enumerate(prompts):
        tokens = list(write(target, prompt, params, seed + at, max_tokens, vocab_size))
        if len(tokens) >= MIN_TOKENS:
            texts.append(_score(draft, target, prompt, tokens, params, seed + at, vocab_size))
    if not texts:
        raise BadParameterError(
            f"none of {len(prompts)} texts reaches {MIN_TOKENS} tokens; give other prompts, or ask for more tokens"
        )
    return Recording(name, params, vocab_size, texts)


def _score(
    draft: LanguageModel,
    target: LanguageModel,
    prompt: Sequence[int],
    tokens: list[int],
    params: SamplingParams,
    seed: int,
    vocab_size: int,
) -> RecordedText:
    law = Law(params, seed, vocab_size)
    draft_rows, target_rows = rows_along(draft, target, prompt, tokens, vocab_size)
    matches, accept, accept_topk, accept_lattice, draft_prob, entropy, support = [], [], [], [], [], [], []
    near_ties = 0
    for position, token in enumerate(tokens, start=len(prompt)):
        draft_logits, target_logits = draft_rows[position - len(prompt)], target_rows[position - len(prompt)]
        at = Place(position)
        near_ties += law.choose(target_logits, at) != token
        choice = law.choose(draft_logits, at)
        draft_probs, target_probs = law.probs(draft_logits, at), law.probs(target_logits, at)
        matches.append(choice == token)
        accept.append(_overlap(target_probs, draft_probs))
        cut = _cut(draft_probs)
        accept_topk.append(_overlap(target_probs, cut))
        accept_lattice.append(_overlap(target_probs, lattice(cut, RESOLUTION) / RESOLUTION))
        draft_prob.append(round(float(draft_probs[choice]), _DECIMALS))
        entropy.append(_entropy(draft_probs))
        support.append(int(np.count_nonzero(target_probs)))
    return RecordedText(
        len(prompt), tokens, matches, accept, accept_topk, accept_lattice, draft_prob, entropy, support, near_ties,
        list(prompt), seed,
    )  # fmt: skip


def rows_along(
    draft: LanguageModel, target: LanguageModel, prompt: Sequence[int], tokens: Sequence[int], vocab_size: int
) -> tuple[Rows, Rows]:
    """Run both models over a text, once each. Returns the rows of logits [len(tokens), vocab_size] of either."""
    feed = [*prompt, *tokens[:-1]]
    draft_rows, target_rows = (
        model.forward(model.new_cache(), 0, feed, len(tokens))[:, :vocab_size] for model in (draft, target)
    )
    return draft_rows, target_rows


def _overlap(target_probs: FloatArray, draft_probs: FloatArray) -> float:
    """Σ min over the vocabulary, which is 1 - TV."""
    return round(float(np.minimum(target_probs, draft_probs).sum()), _DECIMALS)


def _cut(probs: FloatArray) -> FloatArray:
    """The `TOP_K` likeliest tokens, renormalised; ties go to the lower id, as in `topk`."""
    top = np.argsort(-probs, kind="stable")[:TOP_K]
    cut = np.zeros_like(probs)
    cut[top] = probs[top] / probs[top].sum()
    return cut


def _entropy(probs: FloatArray) -> float:
    """-Σ p log p in nats."""
    some = probs[probs > 0]
    return round(abs(float(np.sum(some * np.log(some)))), _DECIMALS)


def synthetic(acceptance: float, texts: int, length: int, seed: int, vocab_size: int) -> Recording:
    """Made-up texts where each draft matches with probability `acceptance`, whatever came before: the assumption of
    the formulas in the literature (Leviathan, Kalman, Matias 2023, section 3.1).

    What the draft model says of itself (`draft_prob`, `entropy`) is constant, so nobody can tell a good draft by it.
    """
    if not 0 <= acceptance <= 1:
        raise BadParameterError(f"acceptance is {acceptance}; give a number from 0 to 1")
    if min(texts, length, vocab_size) < 1:
        raise BadParameterError(f"{texts} texts of {length} tokens out of {vocab_size}; give numbers of at least 1")
    rng, before = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    flat, every = [acceptance] * length, [vocab_size] * length
    written = [
        RecordedText(
            _SYNTHETIC_PROMPT,
            rng.integers(vocab_size, size=length).tolist(),
            (rng.random(length) < acceptance).tolist(),
            flat, flat, flat, flat, [0.0] * length, every,
            prompt=before.integers(vocab_size, size=_SYNTHETIC_PROMPT).tolist(),
        )
        for _ in range(texts)
    ]  # fmt: skip
    return Recording(f"synthetic {acceptance:g}", SamplingParams(), vocab_size, written)


def prompts(count: int) -> list[list[int]]:
    """The first `count` prompts that ship with the pair, as ids of its tokenizer, `MAX_PROMPT` at most.

    Raises `ModelError` if the pair is missing, `BadParameterError` if it has fewer prompts.
    """
    path = shipped("target").parent / "prompts.json"
    try:
        heads = [entry["head"] for entry in msgspec.json.decode(path.read_bytes())]
    except OSError as problem:
        raise ModelError(f"the shipped prompts are missing ({path}); install airdraft again") from problem
    if not 1 <= count <= len(heads):
        raise BadParameterError(f"{count} prompts; the pair ships with {len(heads)}, so give a number from 1 to that")
    tokenizer = Tokenizer(shipped("target"))
    return [tokenizer.encode(head)[:MAX_PROMPT] for head in heads[:count]]
