"""Forms that texts of tables keep to: guides in a vocabulary of 24 tokens, drawn from a seed."""

from __future__ import annotations

import random
from typing import Any, Literal, get_args

from airdraft.core.messages import GuideSpec
from airdraft.guides import Bias, Guides, of_bias, of_grammar, of_json, of_regex
from airdraft.lab import spelling

Kind = Literal["json", "regex", "grammar", "penalties", "penalties and json"]
KINDS: tuple[Kind, ...] = get_args(Kind)
END = 3
"""The token that ends a text."""
MERGES = (('"', ":"), ('":', "Ġ"), (",", "Ġ"), ("a", "b"), ("1", "0"), ("{", '"'), ("ab", "c"), ('"', ","))
PIECES = (*"{}[", "</s>", *']":,Ġabc012-', *("".join(pair) for pair in MERGES))
"""All tokens, as a byte-level vocabulary has them: Ġ is a space. Most words can be spelt in several ways."""


def guides() -> Guides:
    """What reads the guides of texts, in this process."""
    return spelling.guides(PIECES, MERGES, END)


def draw(rng: random.Random) -> tuple[Kind, GuideSpec]:
    """Draw a guide, and say of what kind it is."""
    kind = rng.choice(KINDS)
    if kind == "regex":
        return kind, of_regex(rng.choice(REGEXES))
    if kind == "grammar":
        return kind, of_grammar(rng.choice(GRAMMARS))
    schema = of_json({"type": "array", "items": _schema(rng, 3)} if rng.random() < 0.9 else _schema(rng, 3))
    return (kind, schema) if kind == "json" else (kind, of_bias(_bias(rng, schema if "json" in kind else None)))


REGEXES = (
    "(ab|ba|c){8,}", "[abc]{10,40}(0012|22)", "(a|ab|b){5,}c", "(ab10, |c-1, ){3,}", "((a|b)[012]{1,3}-)*10",
    "aabbcc(a|1)ababab[012]*", "[abc012]{20,60}",
)  # fmt: skip
GRAMMARS = (
    'start: "a" start "b" | "c" | "[" start ", " start "]"',
    'start: item ("," item)*\nitem: "(" | /[ab]+/ ":" /[012]+/ | "{" start "}"',
    'start: "ab" start "10" | "abc: " start | "[]"',
)


def _schema(rng: random.Random, depth: int) -> dict[str, Any]:
    """A JSON schema of what these tokens can spell."""
    kind = rng.choice(("integer", "string", "enum", *(("array", "object", "either") if depth else ())))
    inner = depth - 1
    if kind == "enum":
        return {"enum": rng.sample(("aa", "ab", "abc", "abab", 10, 1012, [1, 2], {"a": "abc"}), 3)}
    if kind == "array":
        return {"type": "array", "items": _schema(rng, inner), "minItems": rng.randint(2, 6)}
    if kind == "either":
        return {"anyOf": [_schema(rng, inner), _schema(rng, inner)]}
    if kind == "object":
        names = rng.sample(("a", "b", "ab", "abc", "ba", "cab"), rng.randint(1, 4))
        return {
            "type": "object", "properties": {name: _schema(rng, inner) for name in names},
            "required": names[: rng.randint(0, len(names))], "additionalProperties": False,
        }  # fmt: skip
    return {"type": kind, **({"pattern": "^[abc]*$"} if kind == "string" else {})}


def _bias(rng: random.Random, guide: GuideSpec | None) -> Bias:
    """Penalties and biases, of which each is left out as often as not."""
    ids = range(len(PIECES))
    may: dict[str, Any] = {
        "frequency_penalty": rng.uniform(-1, 2), "presence_penalty": rng.uniform(-1, 2),
        "repetition_penalty": rng.uniform(0.7, 1.8), "typical_p": rng.uniform(0.3, 1),
        "logit_bias": {token: rng.uniform(-5, 5) for token in rng.sample(ids, 5)},
        "bad_words": tuple(tuple(rng.choices(ids, k=rng.randint(1, 3))) for _ in range(6)),
        "allowed_token_ids": tuple(sorted({END, *rng.sample(ids, 12)})), "min_tokens": rng.randint(1, 40),
        "ignore_eos": guide is None,
    }  # fmt: skip
    return Bias(**{name: value for name, value in may.items() if rng.random() < 0.5}, guide=guide)
