"""Penalties, biases and forbidden tokens: what of a text's law depends on the tokens before a position.

They act on a row of logits before temperature, top-k, top-p and min-p, in this order: what is forbidden, `logit_bias`,
the repetition penalty, the frequency and presence penalties (vLLM's order), `typical_p`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from airdraft.core.law import Guide
from airdraft.core.messages import MOST_GUIDE, GuideSpec
from airdraft.core.noise import IntArray
from airdraft.errors import BadParameterError

BIASED = "biased"
"""The language of a `GuideSpec` whose text is a `Bias`."""
MOST_BIASED, MOST_WORDS, MOST_WORD = 1024, 256, 64
"""Most tokens of `logit_bias`, most forbidden words, and most tokens of one."""
MOST_BIAS, MOST_PENALTY, LEAST_REPETITION, MOST_REPETITION = 100.0, 2.0, 0.1, 10.0


class Bias(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What raises, lowers or forbids tokens of one text, beside its grammar."""

    frequency_penalty: float = 0.0
    """Nats that a token loses for each time that it was written."""
    presence_penalty: float = 0.0
    """Nats that a token loses once it was written."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens in prompt and text, and multiplies negative ones."""
    logit_bias: Mapping[int, float] = {}
    """Nats that tokens gain."""
    allowed_token_ids: tuple[int, ...] = ()
    """The only tokens that may come; empty: all."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Runs of tokens, of which the last may not follow the others."""
    min_tokens: int = 0
    """Tokens before which the text may not end."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the text, too, as far as `min_tokens` knows."""
    ignore_eos: bool = False
    """Whether an end-of-text token ends nothing."""
    typical_p: float = 1.0
    """Keep the tokens whose surprise is nearest to the mean, up to this probability (arXiv 2202.00666); 1: all."""
    written: int = 0
    """How many of the prompt's last tokens are a part of the text that was written before."""
    guide: GuideSpec | None = None
    """The grammar, in another language than this."""

    @property
    def counts(self) -> bool:
        """Whether it depends on how often a token was written."""
        return bool(self.frequency_penalty or self.presence_penalty or self.repetition_penalty != 1)

    def check(self, vocab_size: int) -> None:
        """Raise `BadParameterError` for a value out of range."""
        for name, least, most in (
            ("frequency_penalty", -MOST_PENALTY, MOST_PENALTY), ("presence_penalty", -MOST_PENALTY, MOST_PENALTY),
            ("typical_p", 0.0, 1.0), ("repetition_penalty", LEAST_REPETITION, MOST_REPETITION),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (least <= value <= most and (value or least)):
                bounds = f"from {least:g} to {most:g}" if least else f"above 0, at most {most:g}"
                raise BadParameterError(f"{name} is {value:g}; give a number {bounds}", name)
        if len(self.logit_bias) > MOST_BIASED or not all(abs(each) <= MOST_BIAS for each in self.logit_bias.values()):
            what = f"logit_bias takes at most {MOST_BIASED} tokens, each from {-MOST_BIAS:g} to {MOST_BIAS:g}"
            raise BadParameterError(f"{what}; give that", "logit_bias")
        if len(self.bad_words) > MOST_WORDS or not all(1 <= len(word) <= MOST_WORD for word in self.bad_words):
            what = f"bad_words takes at most {MOST_WORDS} spellings, none empty or of more than {MOST_WORD} tokens"
            raise BadParameterError(f"{what}; give that", "bad_words")
        ids = {"logit_bias": [*self.logit_bias], "bad_words": [each for word in self.bad_words for each in word],
               "allowed_token_ids": self.allowed_token_ids, "stop_token_ids": self.stop_token_ids}  # fmt: skip
        for name, given in ids.items():
            if any(not 0 <= token < vocab_size for token in given):
                raise BadParameterError(f"{name} holds an id outside the vocabulary of {vocab_size}; mend it", name)
        if self.min_tokens < 0 or self.written < 0:
            raise BadParameterError("min_tokens is negative; give at least 0", "min_tokens")


def of_bias(bias: Bias) -> GuideSpec:
    """Return what a text is to keep to: a bias and its grammar. Raises: `BadParameterError` if it is too large."""
    text = msgspec.json.encode(bias).decode()
    if len(text) > MOST_GUIDE:
        what = f"penalties, biases and the form take {len(text)} characters, and {MOST_GUIDE} are read; give fewer"
        raise BadParameterError(what, "guide")
    return GuideSpec(BIASED, text)


def bias_of(spec: GuideSpec, vocab_size: int) -> Bias:
    """Return the bias that a spec in the language `BIASED` says. Raises: `BadParameterError`."""
    try:
        bias = msgspec.json.decode(spec.text, type=Bias)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadParameterError(f"the bias cannot be read: {error}; send another", "guide") from error
    bias.check(vocab_size)
    if bias.guide is not None and (bias.guide.kind == BIASED or bias.written):
        raise BadParameterError("a bias is around a grammar, from its beginning; send another", "guide")
    return bias


def onward(spec: GuideSpec | None, written: int) -> GuideSpec | None:
    """Return what goes on with a text whose first tokens stand in the prompt now, as it has no grammar."""
    if spec is None or spec.kind != BIASED:
        return spec
    return of_bias(msgspec.structs.replace(msgspec.json.decode(spec.text, type=Bias), written=written))


_NONE: IntArray = np.zeros(0, np.int64)


@dataclass(frozen=True)
class _Rule:
    """A bias, made ready for rows."""

    bias: Bias
    vocab_size: int
    eos_ids: tuple[int, ...]

    @cached_property
    def ids(self) -> IntArray:
        return np.fromiter(self.bias.logit_bias, np.int64)

    @cached_property
    def values(self) -> Any:
        return np.fromiter(self.bias.logit_bias.values(), np.float64)

    @cached_property
    def may(self) -> NDArray[np.bool_] | None:
        """Tokens that may ever come, [vocab]; None: all."""
        bias = self.bias
        never = [word[0] for word in bias.bad_words if len(word) == 1]
        if not (bias.allowed_token_ids or never):
            return None
        mask = np.zeros(self.vocab_size, np.bool_) if bias.allowed_token_ids else np.ones(self.vocab_size, np.bool_)
        mask[list(bias.allowed_token_ids)] = True
        mask[never] = False
        return mask

    @cached_property
    def ends(self) -> list[int]:
        """Tokens that `min_tokens` holds back."""
        return [*self.bias.stop_token_ids, *(() if self.bias.ignore_eos else self.eos_ids)]

    @cached_property
    def runs(self) -> list[tuple[tuple[int, ...], int]]:
        """Of each forbidden word of several tokens, those before the last, and the last."""
        return [(word[:-1], word[-1]) for word in self.bias.bad_words if len(word) > 1]

    @cached_property
    def reach(self) -> int:
        """How many of the last tokens forbidden words look at."""
        return max((len(before) for before, _ in self.runs), default=0)


@dataclass(frozen=True)
class Biased(Guide):
    """A bias after some tokens of a text, around the state of its grammar."""

    rule: _Rule
    inner: Guide | None
    read: IntArray = field(default_factory=_NONE.copy)
    """Tokens of the prompt, ascending."""
    ids: IntArray = field(default_factory=_NONE.copy)
    """Tokens of the text, ascending, if it matters."""
    times: IntArray = field(default_factory=_NONE.copy)
    """How often each of them was written."""
    last: tuple[int, ...] = ()
    """The last tokens of the text, as far as forbidden words look."""
    length: int = 0
    """Tokens of the text."""

    @classmethod
    def begin(cls, bias: Bias, inner: Guide | None, vocab_size: int, eos_ids: tuple[int, ...]) -> Biased:
        """Return the state before a text. Raises: `BadParameterError` if the bias alone leaves no token there."""
        state = cls(_Rule(bias, vocab_size, eos_ids), inner)
        if inner is None and (mask := state._may()) is not None and not mask.any():
            raise BadParameterError("what is forbidden leaves no token; allow some", _who(bias))
        return state

    @property
    def forced(self) -> int | None:
        """See `Guide.forced`: the grammar is stronger."""
        return None if self.inner is None else self.inner.forced

    def allowed(self) -> NDArray[np.bool_] | None:
        """See `Guide.allowed`. Where a grammar allows only what is forbidden here, it is stronger."""
        grammar, mask = None if self.inner is None else self.inner.allowed(), self._may()
        if mask is None or grammar is None:
            return grammar if mask is None else mask
        both = grammar & mask
        return both if both.any() else grammar

    def _may(self) -> NDArray[np.bool_] | None:
        """Tokens that are not forbidden here. Where the last tokens forbid all the others, they forbid none."""
        rule, held = self.rule, self.rule.ends if self.length < self.rule.bias.min_tokens else []
        runs = [last for before, last in rule.runs if self.last[-len(before) :] == before]
        if not (runs or held):
            return rule.may
        mask = np.ones(rule.vocab_size, np.bool_) if rule.may is None else rule.may.copy()
        mask[held] = False
        without = mask.copy()
        without[runs] = False
        return without if without.any() else mask

    def bent(self, row: np.ndarray) -> np.ndarray:
        """See `Guide.bent`."""
        rule, bias = self.rule, self.rule.bias
        row = row.astype(np.float64 if row.dtype == np.float64 else np.float32)
        row[rule.ids] += rule.values.astype(row.dtype)
        if bias.repetition_penalty != 1:
            seen = np.union1d(self.read, self.ids)
            scores = row[seen]
            row[seen] = np.where(scores > 0, scores / bias.repetition_penalty, scores * bias.repetition_penalty)
        if self.ids.size:
            lost = bias.frequency_penalty * self.times + bias.presence_penalty
            row[self.ids] -= lost.astype(row.dtype)
        return row if bias.typical_p == 1 else _typical(row, bias.typical_p)

    def within(self, prompt: Sequence[int]) -> Guide:
        """See `Guide.within`."""
        begin = max(0, len(prompt) - self.rule.bias.written)
        read = np.unique(np.asarray(prompt[:begin], np.int64)) if self.rule.bias.repetition_penalty != 1 else _NONE
        state = replace(self, read=read, inner=None if self.inner is None else self.inner.within(prompt))
        for token in prompt[begin:]:
            state = state.after(token)
        return state

    def after(self, token: int) -> Biased:
        """See `Guide.after`."""
        inner = None if self.inner is None else self.inner.after(token)
        ids, times, reach = self.ids, self.times, self.rule.reach
        if self.rule.bias.counts:
            at = int(np.searchsorted(ids, token))
            if at < ids.size and ids[at] == token:
                times = times.copy()
                times[at] += 1
            else:
                ids, times = np.insert(ids, at, token), np.insert(times, at, 1)
        last = (*self.last, token)[-reach:] if reach else ()
        return Biased(self.rule, inner, self.read, ids, times, last, self.length + 1)


def _typical(row: np.ndarray, p: float) -> np.ndarray:
    """Set all but the typical tokens of a row [vocab] to -inf. Ties go to the lower id."""
    known = np.flatnonzero(np.isfinite(row))
    scores = row[known].astype(np.float64)
    weights = np.exp(scores - scores.max())
    probs = weights / weights.sum()
    logs = scores - scores.max() - np.log(weights.sum())
    order = np.argsort(np.abs(logs - (probs * logs).sum()), kind="stable")
    count = int(np.searchsorted(np.cumsum(probs[order]), p)) + 1
    kept = known[order[:count]]
    found = np.full_like(row, -np.inf)
    found[kept] = row[kept]
    return found


def _who(bias: Bias) -> str:
    """The field that forbids the most."""
    return "allowed_token_ids" if bias.allowed_token_ids else "bad_words" if bias.bad_words else "min_tokens"
