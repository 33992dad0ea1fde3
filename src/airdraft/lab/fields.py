"""Does every field of sampling act under every scheme as its words say? The law in plain words, beside what is written.

Texts are compared, by χ², with a law that is computed here a second time: token by token, as the fields are described
and without a line of what the machines run. The same texts are compared with laws that are wrong on purpose: that
ignore the field, take its step in another place, or look at the text one token late. All of these must be told apart,
so that no test here is one that cannot fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from msgspec import structs

from airdraft.core.law import Guide
from airdraft.core.messages import GuideSpec, SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import AirdraftError
from airdraft.guides.bias import Bias, Biased, bias_of, of_bias
from airdraft.lab.conform import BAR, on_trees
from airdraft.sim.conformance import BRANCHES, TableModel, chi_squared, written
from airdraft.sim.pair import Pair

LOGITS = 0.9, -0.4, 1.4, 0.3, -0.2
"""Of the target's tokens, wherever it is; the last ends a text. They lie so that every step below changes much."""
VOCAB, EOS, PROMPT, DEPTH, DRAFT_LENGTH = len(LOGITS), len(LOGITS) - 1, (0, 1), 2, 2
SPREAD, UNLIKE = 0.2, 1.0
"""What a place adds to the target's logits, and the draft to those, in nats (standard deviation)."""

Scores = dict[int, float]
"""The logits of the tokens that may still come."""


@dataclass(frozen=True)
class LawFields:
    """What a client may ask of one text's law."""

    bias: Bias
    params: SamplingParams

    def without(self, name: str) -> LawFields:
        """Return the same without one field."""
        if name in Bias.__struct_fields__:
            return LawFields(structs.replace(self.bias, **{name: getattr(Bias(), name)}), self.params)
        return LawFields(self.bias, structs.replace(self.params, **{name: getattr(SamplingParams(), name)}))


def forbidden(scores: Scores, asked: LawFields, text: tuple[int, ...]) -> Scores:
    """Leave out what may not come: other than what is allowed, ends that come too early, last tokens of words."""
    bias = asked.bias
    ends = (*bias.stop_token_ids, *(() if bias.ignore_eos else (EOS,)))
    return {
        token: score
        for token, score in scores.items()
        if (not bias.allowed_token_ids or token in bias.allowed_token_ids)
        and not (token in ends and len(text) < bias.min_tokens)
        and not any((*text, token)[-len(word) :] == word for word in bias.bad_words)
    }


def biased(scores: Scores, asked: LawFields, text: tuple[int, ...]) -> Scores:
    """Add `logit_bias`."""
    return {token: score + asked.bias.logit_bias.get(token, 0.0) for token, score in scores.items()}


def repeated(scores: Scores, asked: LawFields, text: tuple[int, ...]) -> Scores:
    """Divide what is positive by the repetition penalty, and multiply the rest, of tokens in prompt or text."""
    penalty = asked.bias.repetition_penalty
    return {
        token: score if token not in PROMPT + text else score / penalty if score > 0 else score * penalty
        for token, score in scores.items()
    }


def penalised(scores: Scores, asked: LawFields, text: tuple[int, ...]) -> Scores:
    """Take off the frequency penalty for each time a token stands in the text, and the presence penalty once."""
    often, once = asked.bias.frequency_penalty, asked.bias.presence_penalty
    return {token: score - often * text.count(token) - once * (token in text) for token, score in scores.items()}


def typical(scores: Scores, asked: LawFields, text: tuple[int, ...]) -> Scores:
    """Keep the tokens whose surprise is nearest to the mean surprise, until they have `typical_p`."""
    chances = shares(scores)
    mean = -sum(chance * math.log(chance) for chance in chances.values())
    return reached(scores, asked.bias.typical_p, lambda token: abs(-math.log(chances[token]) - mean))


def warmed(scores: Scores, asked: LawFields, text: tuple[int, ...]) -> Scores:
    """Divide by the temperature."""
    return {token: score / asked.params.temperature for token, score in scores.items()}


def first(scores: Scores, asked: LawFields, text: tuple[int, ...]) -> Scores:
    """Keep the `top_k` likeliest."""
    kept = sorted(scores, key=lambda token: -scores[token])[: asked.params.top_k or None]
    return {token: scores[token] for token in kept}


def nucleus(scores: Scores, asked: LawFields, text: tuple[int, ...]) -> Scores:
    """Keep the likeliest, until they have `top_p`."""
    return reached(scores, asked.params.top_p, lambda token: -scores[token])


def likely(scores: Scores, asked: LawFields, text: tuple[int, ...]) -> Scores:
    """Keep those that are at least `min_p` times as likely as the likeliest."""
    chances = shares(scores)
    return {t: s for t, s in scores.items() if chances[t] >= asked.params.min_p * max(chances.values())}


def reached(scores: Scores, share: float, key: Callable[[int], float]) -> Scores:
    """Keep tokens in the order of `key`, until they have a share of the probability; with 1, keep all."""
    chances, kept, held = shares(scores), Scores(), 0.0
    for token in sorted(scores, key=key):
        if share < 1 and held >= share:
            break
        kept[token] = scores[token]
        held += chances[token]
    return kept


def shares(scores: Scores) -> dict[int, float]:
    """Return probabilities."""
    weights = {token: math.exp(score) for token, score in scores.items()}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


Step = Callable[[Scores, LawFields, tuple[int, ...]], Scores]
STEPS: tuple[Step, ...] = (forbidden, biased, repeated, penalised, typical, warmed, first, nucleus, likely)
"""The law, in its order."""


@dataclass(frozen=True)
class FieldTest:
    """A field to test: what is asked, in company in which the place of its step among the others can be seen."""

    asked: LawFields
    instead: tuple[Step, Step]
    """Two steps that a wrong law exchanges."""
    looks_back: bool = False
    """Whether it depends on the text before a position."""


_PLAIN, _WARM, _FEW = SamplingParams(), SamplingParams(2.0), SamplingParams(top_k=2)


def _field(*instead: Step, looks_back: bool = False, params: SamplingParams = _PLAIN, **bias: Any) -> FieldTest:
    one, other = instead
    return FieldTest(LawFields(Bias(**bias), params), (one, other), looks_back)


FIELDS: dict[str, FieldTest] = {
    "frequency_penalty": _field(
        repeated, penalised, looks_back=True, params=_FEW, frequency_penalty=-2.0, repetition_penalty=4.0
    ),
    "presence_penalty": _field(
        repeated, penalised, looks_back=True, params=_FEW, presence_penalty=-2.0, repetition_penalty=4.0
    ),
    "repetition_penalty": _field(
        biased, repeated, looks_back=True, repetition_penalty=4.0, logit_bias={1: 4.0, 3: 3.0}
    ),
    "logit_bias": _field(biased, warmed, params=_WARM, logit_bias={1: 5.0, 2: -4.0}),
    "bad_words": _field(forbidden, typical, looks_back=True, bad_words=((0,), (2, 2), (3, 3)), typical_p=0.8),
    "allowed_token_ids": _field(forbidden, likely, params=SamplingParams(min_p=0.3), allowed_token_ids=(0, 1, 3, EOS)),
    "min_tokens": _field(forbidden, first, looks_back=True, params=_FEW, min_tokens=1, logit_bias={EOS: 2.0}),
    "stop_token_ids": _field(
        forbidden, nucleus, looks_back=True, params=SamplingParams(top_p=0.6), min_tokens=1, stop_token_ids=(2,)
    ),
    "ignore_eos": _field(
        forbidden, typical, looks_back=True, min_tokens=1, stop_token_ids=(2,), ignore_eos=True, typical_p=0.8,
        logit_bias={EOS: 1.0},
    ),
    "typical_p": _field(typical, warmed, params=SamplingParams(3.0), typical_p=0.6),
    "temperature": _field(warmed, nucleus, params=SamplingParams(2.0, top_p=0.8)),
    "top_k": _field(forbidden, first, params=_FEW, allowed_token_ids=(0, 1, 3, EOS)),
    "top_p": _field(warmed, nucleus, params=SamplingParams(2.0, top_p=0.4)),
    "min_p": _field(warmed, likely, params=SamplingParams(2.0, min_p=0.65)),
}  # fmt: skip


@dataclass(frozen=True)
class PlainLaw:
    """A law in plain words, right or wrong."""

    asked: LawFields
    steps: tuple[Step, ...] = STEPS
    late: int = 0
    """Tokens at the end of a text that its steps do not see yet."""

    def chances(self, row: np.ndarray, text: tuple[int, ...]) -> dict[int, float]:
        """Return the probability of every token that may follow a text, given the target's row [vocab]."""
        scores, seen = dict(enumerate(row.tolist())), text[: max(0, len(text) - self.late)]
        for step in self.steps:
            if scores:
                scores = step(scores, self.asked, seen)
        return shares(scores)

    def texts(self, target: TableModel, text: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yield every text with its probability."""
        if len(text) == DEPTH or EOS in text:
            yield text, 1.0
            return
        for token, chance in self.chances(target.row(PROMPT + text), text).items():
            for whole, rest in self.texts(target, (*text, token)):
                yield whole, chance * rest


RIGHT = "right"


def laws(name: str) -> dict[str, PlainLaw]:
    """Return a field's law, and those that are wrong about it, by what is wrong with them."""
    field, (one, other) = FIELDS[name], FIELDS[name].instead
    order = tuple(other if step is one else one if step is other else step for step in STEPS)
    found = {
        RIGHT: PlainLaw(field.asked),
        "ignored": PlainLaw(field.asked.without(name)),
        "misplaced": PlainLaw(field.asked, order),
    }
    return {**found, "late": PlainLaw(field.asked, late=1)} if field.looks_back else found


@cache
def tables(seed: int) -> tuple[TableModel, TableModel]:
    """A draft and a target that is unlike it, as functions of the text before."""

    def target(prefix: tuple[int, ...]) -> np.ndarray:
        return (LOGITS + np.random.default_rng([seed, 1, *prefix]).normal(0.0, SPREAD, VOCAB)).astype(np.float32)

    def draft(prefix: tuple[int, ...]) -> np.ndarray:
        more = np.random.default_rng([seed, 2, *prefix]).normal(0.0, UNLIKE, VOCAB)
        return (target(prefix) + more).astype(np.float32)

    return TableModel(draft, VOCAB, eos_ids=(EOS,)), TableModel(target, VOCAB, eos_ids=(EOS,))


@cache
def expected(name: str, seed: int) -> dict[str, dict[tuple[int, ...], float]]:
    """Return the probabilities of all texts of a target under each of a field's laws."""
    return {what: dict(law.texts(tables(seed)[1])) for what, law in laws(name).items()}


@dataclass(frozen=True)
class FieldTested:
    """The outcome for one field under one scheme."""

    scheme: str
    """With its options."""
    field: str
    texts: int
    p_value: float
    """Of the field's law."""
    wrong: dict[str, float]
    """The p-values of laws that are wrong about it, by what is wrong."""
    fault: str = ""
    """Why no text could be written, if so."""

    @property
    def exact(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.fault and self.p_value >= BAR

    @property
    def told(self) -> int:
        """How many of the wrong laws are told apart."""
        return sum(p_value < BAR for p_value in self.wrong.values())

    @property
    def holds(self) -> bool:
        """Whether it is exact, and would have been seen if it were not."""
        return self.exact and self.told == len(self.wrong)


def tested(label: str, spec: SchemeSpec, name: str, texts: int, seed: int) -> FieldTested:
    """Write texts with one field under a scheme, and compare."""
    asked = FIELDS[name].asked
    pair = Pair(*tables(seed), read=read, trees=on_trees(label))
    request = Request(PROMPT, spec, asked.params, 0, DEPTH, DRAFT_LENGTH, guide=of_bias(asked.bias), branches=BRANCHES)
    try:
        counts = written(pair, request, texts, seed * len(FIELDS) + [*FIELDS].index(name))
    except AirdraftError as error:  # its own edge refuses what its device sends
        return FieldTested(label, name, 0, math.nan, {}, str(error))
    found = {what: chi_squared(counts, law, texts).p_value for what, law in expected(name, seed).items()}
    return FieldTested(label, name, texts, found.pop(RIGHT), found)


def read(spec: GuideSpec, eos_ids: Sequence[int]) -> Guide:
    """Read a bias without a grammar, which needs no tokenizer."""
    return Biased.begin(bias_of(spec, VOCAB), None, VOCAB, tuple(eos_ids))
